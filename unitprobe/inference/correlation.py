"""Rank correlation over the units of one network or layer: estimate, interval and p-value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import OptionError, ResponseError
from unitprobe.typing import FloatArray, IntArray

_DRAWS_AT_ONCE = 2**20


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two values of each unit.

    Attributes
    ----------
    value : float
        -1 to 1; NaN for fewer than three units, or where either value is the same for all.
    low, high : float
        Ends of the bootstrap interval over units; NaN where `value` is, or for three units or
        fewer.
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
        (unit,), such as the layer of each unit. Units are then ranked, redrawn and permuted
        within their stratum, so that what differs between layers correlates nothing.
    level : float
        Confidence of the interval, between 0 and 1.
    resamples : int
        How many times the units are redrawn, and permuted.
    seed : int
        The same seed gives the same interval and p-value.

    Returns
    -------
    RankCorrelation
        Of the units of this network: it says nothing of another network.

    Raises
    ------
    ResponseError
        The values are not vectors of one length.
    OptionError
        The level is not between 0 and 1, or `resamples` is below 1.

    Notes
    -----
    Pearson's r of the ranks, ties given their mean rank (Spearman 1904). With strata, r of the
    ranks after each stratum's were brought to mean 0 and variance 1: the mean of the strata's
    correlations, weighted by their units. A stratum that does not vary in `x` or in `y`, or has
    fewer than three units, is left out. The interval is of percentiles of the correlation in
    redrawn units (Efron & Tibshirani 1993, chapter 13), p = (1 + m) / (1 + resamples), m the
    permutations whose correlation is at least as far from 0 (Phipson & Smyth 2010). Both take
    units for independent.

    Measured share of 95% intervals that hold the true value of bivariate normal units (400 data
    sets each): 0.94 and 0.95 for 16 units of Pearson correlation 0 and 0.5; 0.95 and 0.97 for 64.

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
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(a))
    redrawn, permuted = [], []
    for done in range(0, resamples, at_once):
        count = min(at_once, resamples - done)
        chosen = _draw(strata_indices, count, len(a), rng)
        redrawn.append(_correlations(a[chosen], b[chosen], strata_indices))
        shuffled = _permute(strata_indices, count, len(a), rng)
        permuted.append(y_ranks[shuffled] @ x_ranks / units)
    drawn = np.concatenate(redrawn)
    drawn = drawn[~np.isnan(drawn)]
    low, high = math.nan, math.nan
    if units > 3 and drawn.size:
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
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


def _draw(
    strata_indices: list[IntArray],
    count: int,
    units: int,
    rng: np.random.Generator,
) -> IntArray:
    """Return which unit stands at each index, (resample, unit), redrawn within strata."""
    chosen = np.tile(np.arange(units), (count, 1))
    for within in strata_indices:
        chosen[:, within] = within[rng.integers(len(within), size=(count, len(within)))]
    return chosen


def _permute(
    strata_indices: list[IntArray],
    count: int,
    units: int,
    rng: np.random.Generator,
) -> IntArray:
    """Return which unit stands at each index, (resample, unit), permuted within strata."""
    chosen = np.tile(np.arange(units), (count, 1))
    for within in strata_indices:
        chosen[:, within] = rng.permuted(np.tile(within, (count, 1)), axis=1)
    return chosen


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
