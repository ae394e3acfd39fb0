"""Rank correlation over the units of one network or layer: estimate, interval and p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import OptionError, ResponseError
from unitprobe.typing import FloatArray, IntArray

_DRAWS_AT_ONCE = 2**20
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two values of each unit.

    Attributes
    ----------
    value : float
        -1 to 1; NaN for fewer than three units, or where either value is the same for all.
    low, high : float
        Ends of the interval over units; NaN where `value` is, or for three units or fewer.
    p : float
        Two-sided permutation p-value, 1/(1 + permutations) to 1; NaN where `value` is.
    units : int
        How many units have both values.
    """

    value: float
    low: float
    high: float
    p: float
    units: int


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's rank correlation over units, with an interval and a p-value.

    Parameters
    ----------
    x, y : array
        (unit,) each. A unit that has NaN in either is left out.
    strata : array, optional
        (unit,), such as the layer of each unit. Units are then ranked and permuted within their
        stratum, so that what differs between layers correlates nothing.
    clusters : array, optional
        (unit,), such as the channel of a residual stream that each unit is. Units of one cluster
        need not be independent: they are left out together, and permuted together. A cluster has
        at most one unit in each stratum.
    level : float
        Confidence of the interval, between 0 and 1.
    resamples : int
        How many times the units are permuted for the p-value.
    seed : int
        The same seed gives the same p-value.

    Returns
    -------
    RankCorrelation
        Of the units of this network: it says nothing of another network.

    Raises
    ------
    ResponseError
        The values are not vectors of one length, or a cluster has two units in one stratum.
    OptionError
        The level is not between 0 and 1, or `resamples` is below 1.

    Notes
    -----
    Pearson's r of the ranks, ties given their mean rank (Spearman 1904). With strata, r of the
    ranks after each stratum's were brought to mean 0 and variance 1: the mean of the strata's
    correlations, weighted by their units. A stratum that does not vary in `x` or in `y`, or has
    fewer than three units, is left out. p = (1 + m) / (1 + resamples), m the permutations whose
    correlation is at least as far from 0 (Phipson & Smyth 2010).

    The interval covers the correlation of many such units, weighted over strata as `value` is.
    Spearman's r of n units is too near 0 by 3 (r - tau) / (n - 2), tau Kendall's, which matters for
    layers of few units (Kendall & Gibbons, "Rank correlation methods"). The interval is around the
    correlation without this bias, on Fisher's scale, with Student's t and the standard error of the
    jackknife over units or clusters (Efron & Tibshirani 1993, chapter 11).
    It is widened to hold `value`. Measured coverages are in ``docs/coverage.md``.

    Examples
    --------
    >>> import numpy as np
    >>> found = rank_correlation(np.arange(20), np.arange(20) ** 3)
    >>> round(found.value, 3), round(found.low, 3), found.p < 0.01, found.units
    (1.0, 1.0, True, 20)
    """
    if not 0 < level < 1:
        raise OptionError(f"level={level} must be a confidence level between 0 and 1, such as 0.95")
    if resamples < 1:
        raise OptionError(f"resamples={resamples} must be at least 1")
    a, b, strata_indices = _in_strata(x, y, strata)
    units = sum(map(len, strata_indices))
    if not units:
        both = ~(np.isnan(a) | np.isnan(b))
        return RankCorrelation(math.nan, math.nan, math.nan, math.nan, int(both.sum()))
    observed = float(_correlations(a[None], b[None], strata_indices)[0])
    x_ranks, y_ranks = (_standard_ranks(values, strata_indices) for values in (a, b))
    cluster_of = _clusters(clusters, len(a), strata_indices)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(a))
    permuted = []
    for done in range(0, resamples, at_once):
        count = min(at_once, resamples - done)
        shuffled = _permute(strata_indices, cluster_of, count, len(a), rng)
        permuted.append(y_ranks[shuffled] @ x_ranks / units)
    low, high = math.nan, math.nan
    if units > 3:
        low, high = _jackknife_interval(a, b, strata_indices, cluster_of, observed, level)
    # Sums of the same ranks in another order differ in the last digit.
    reached = np.abs(np.concatenate(permuted)) >= abs(observed) - 1e-9
    p = (1 + int(reached.sum())) / (1 + resamples)
    return RankCorrelation(observed, float(low), float(high), p, units)


def _in_strata(
    x: ArrayLike, y: ArrayLike, strata: ArrayLike | None
) -> tuple[FloatArray, FloatArray, list[IntArray]]:
    """Return both values and the indices of the units of each stratum that has a correlation."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    of = np.zeros(a.shape, dtype=np.int64) if strata is None else np.asarray(strata)
    if a.ndim != 1 or a.shape != b.shape or a.shape != of.shape:
        raise ResponseError(
            f"x, y and strata must be one value for each unit, got shapes {a.shape}, {b.shape} "
            f"and {of.shape}"
        )
    both = ~(np.isnan(a) | np.isnan(b))
    strata_indices = [np.flatnonzero(both & (of == stratum)) for stratum in np.unique(of)]
    return a, b, [p for p in strata_indices if len(p) > 2 and np.ptp(a[p]) > 0 and np.ptp(b[p]) > 0]


def _clusters(
    clusters: ArrayLike | None, units: int, strata_indices: list[IntArray]
) -> IntArray | None:
    """Return the number of the cluster of each unit."""
    if clusters is None:
        return None
    given = np.asarray(clusters)
    if given.shape != (units,):
        raise ResponseError(
            f"clusters must be one value for each of {units} units, got shape {given.shape}"
        )
    numbers: IntArray = np.unique(given, return_inverse=True)[1].astype(np.int64)
    for within in strata_indices:
        found, times = np.unique(numbers[within], return_counts=True)
        if times.max() > 1:
            twice = np.unique(given)[found[times.argmax()]]
            raise ResponseError(
                f"cluster {twice} has {times.max()} units in one stratum; it may have one in each"
            )
    return numbers


def _permute(
    strata_indices: list[IntArray],
    cluster_of: IntArray | None,
    count: int,
    units: int,
    rng: np.random.Generator,
) -> IntArray:
    """Return which unit stands at each index, (resample, unit), permuted within strata.

    Strata of the same clusters get the same permutation of clusters.
    """
    chosen = np.tile(np.arange(units), (count, 1))
    if cluster_of is None:
        for within in strata_indices:
            chosen[:, within] = rng.permuted(np.tile(within, (count, 1)), axis=1)
        return chosen
    keys = rng.random((count, cluster_of.max() + 1))
    for within in strata_indices:
        ordered = within[np.argsort(cluster_of[within])]
        chosen[:, ordered] = ordered[np.argsort(keys[:, cluster_of[ordered]], axis=1)]
    return chosen


def _jackknife_interval(
    a: FloatArray,
    b: FloatArray,
    strata_indices: list[IntArray],
    cluster_of: IntArray | None,
    observed: float,
    level: float,
) -> tuple[float, float]:
    """Return the interval of the correlation in many units, widened to hold the observed one."""
    from scipy.stats import t

    units = sum(map(len, strata_indices))
    clusters = np.arange(len(a)) if cluster_of is None else cluster_of
    influence = np.zeros(clusters.max() + 1)
    estimate, of_triples = 0.0, 0.0
    for within in strata_indices:
        weight = len(within) / units
        value, without = _unbiased_correlations(a[within], b[within])
        estimate += weight * value
        if len(within) == 3:  # two units have no such estimate; of unrelated ones r varies by 1/2
            of_triples += 0.5 * weight**2
        else:
            spread = (without - without.mean()) * math.sqrt((len(within) - 1) / len(within))
            np.add.at(influence, clusters[within], weight * spread)
    groups = units - len(strata_indices)
    square = float((influence**2).sum())
    if cluster_of is not None:
        groups = len(np.unique(clusters[np.concatenate(strata_indices)])) - 1
        square *= (groups + 1) / max(groups, 1)
    error = math.sqrt(square + of_triples)
    # Of a few units the estimate may pass 1, where Fisher's scale ends.
    farthest = (1 + abs(observed)) / 2
    estimate = min(max(estimate, -farthest), farthest)
    if abs(estimate) >= 1 - 1e-12:
        return observed, observed
    half = float(t.ppf((1 + level) / 2, max(groups - 1, 1))) * error / (1 - estimate**2)
    centre = math.atanh(estimate)
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return min(low, observed), max(high, observed)


def _unbiased_correlations(x: FloatArray, y: FloatArray) -> tuple[float, FloatArray]:
    """Return Spearman's correlation without its bias, of all units and without each (unit,)."""
    from scipy.stats import rankdata

    count = len(x)
    ranks = rankdata(x), rankdata(y)
    moments = np.zeros((3, count))  # without each unit: of x and y, x and x, y and y
    agreement = np.zeros((3, count))  # of each unit with all others, likewise
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        here = np.arange(count)[rows]
        signs = [np.sign(values[None, :] - values[rows, None]) for values in (x, y)]
        left = [rank - (sign + 1) / 2 for rank, sign in zip(ranks, signs, strict=True)]
        for of_left in left:
            of_left -= count / 2
            of_left[here - start, here] = 0.0
        for index, (i, j) in enumerate(((0, 1), (0, 0), (1, 1))):
            moments[index, rows] = (left[i] * left[j]).sum(axis=1)
            agreement[index, rows] = (signs[i] * signs[j]).sum(axis=1)
    centred = [rank - rank.mean() for rank in ranks]
    whole = [centred[i] @ centred[j] for i, j in ((0, 1), (0, 0), (1, 1))]
    total = agreement.sum(axis=1)
    value = _without_bias(np.array(whole)[:, None], total[:, None], count)
    without = _without_bias(moments, total[:, None] - 2 * agreement, count - 1)
    return float(value[0]), without


def _without_bias(moments: FloatArray, agreement: FloatArray, count: int) -> FloatArray:
    """Return r + 3 (r - tau) / (n - 2); 0 where a value is the same for all units."""
    r, tau = (
        np.where(size > 0, joint / np.where(size > 0, size, 1.0), 0.0)
        for joint, size in (
            (sums[0], np.sqrt(np.maximum(sums[1], 0) * np.maximum(sums[2], 0)))
            for sums in (moments, agreement)
        )
    )
    unbiased: FloatArray = r + 3 * (r - tau) / max(count - 2, 1)
    return unbiased


def _standard_ranks(values: FloatArray, strata_indices: list[IntArray]) -> FloatArray:
    """Return ranks of mean 0 and variance 1 in each stratum, 0 for units of none."""
    from scipy.stats import rankdata, zscore

    ranks = np.zeros(values.shape)
    for within in strata_indices:
        ranks[within] = zscore(rankdata(values[within]))
    return ranks


def _correlations(a: FloatArray, b: FloatArray, strata_indices: list[IntArray]) -> FloatArray:
    """Return the correlation in each row of (resample, unit), a mean over strata by their size.

    A stratum that does not vary in a resample is left out of it; NaN if none does.
    """
    from scipy.stats import rankdata

    total, weight = np.zeros(len(a)), np.zeros(len(a))
    for within in strata_indices:
        ranks = [rankdata(values[:, within], axis=1) for values in (a, b)]
        x, y = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
        size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
        varies = size > 0
        total += len(within) * np.where(
            varies, (x * y).sum(axis=1) / np.where(varies, size, 1.0), 0.0
        )
        weight += len(within) * varies
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan)
