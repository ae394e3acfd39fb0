"""Intervals over the units of a layer: the average of a measure, and its gap to a baseline.

They say how far the average would move had the layer other units of the same kind. They do *not*
say what another network would do: units of one network share its training, its data and its seed,
and are not independent networks. For that see `unitprobe.inference.mean_over_networks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import OptionError, ResponseError
from unitprobe.typing import FloatArray

_DRAWS_AT_ONCE = 2**20


@dataclass(frozen=True)
class UnitEstimate:
    """A mean over units and its confidence interval.

    Attributes
    ----------
    value : float
        The mean over the units that have a finite value; NaN where none has.
    low, high : float
        Ends of the interval; NaN for fewer than two units.
    units : int
        How many units have a finite value.
    infinite : int
        How many have an infinite one, such as a d-prime, which the mean leaves out.
    """

    value: float
    low: float
    high: float
    units: int
    infinite: int = 0


@dataclass(frozen=True)
class BaselineComparison:
    """Units of a layer held against those of a baseline, such as an untrained network.

    Attributes
    ----------
    difference : float
        Mean over units less the mean over baseline units, without infinite values.
    low, high : float
        Interval of the difference; NaN where either group has fewer than two finite values.
    auc : float
        Probability that a unit exceeds a unit of the baseline, ties half; 0 to 1, 0.5 if neither
        tends to. Infinite values count.
    p : float
        Two-sided p-value of Mann and Whitney.
    units, baseline_units : int
        How many units of either have a value.
    """

    difference: float
    low: float
    high: float
    auc: float
    p: float
    units: int
    baseline_units: int


def mean_over_units(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> UnitEstimate:
    """Mean of a measure over the units of a layer and its bootstrap interval.

    Parameters
    ----------
    values : array
        (unit,). Units whose value is NaN, such as the selectivity of a dead unit, are left out:
        give their number beside the result.
    level : float
        Confidence, between 0 and 1.
    resamples : int
        How many times the units are drawn with replacement.
    seed : int
        The same seed gives the same interval.

    Returns
    -------
    UnitEstimate
        Of the units of this network; see the head of this module for what it does not cover.

    Raises
    ------
    ResponseError
        The values are not a vector.
    OptionError
        The level is not between 0 and 1, or `resamples` is below 1.

    Notes
    -----
    Percentiles of the mean of redrawn units: Efron & Tibshirani, "An introduction to the
    bootstrap" (1993), chapter 13. Measured share of 95% intervals that hold the true mean of 8,
    32 and 256 units (1,000 layers each): 0.90, 0.94, 0.94 for normal values; 0.84, 0.91, 0.93 for
    exponential ones.

    Examples
    --------
    >>> import numpy as np
    >>> estimate = mean_over_units(np.append(np.linspace(0, 1, 101), np.nan))
    >>> estimate.units, round(estimate.value, 3), round(estimate.low, 1), round(estimate.high, 1)
    (101, 0.5, 0.4, 0.6)
    """
    known = _with_value(values, "values")
    _check(level, resamples)
    present = known[np.isfinite(known)]
    infinite = known.size - present.size
    if present.size < 2:
        value = float(present[0]) if present.size else math.nan
        return UnitEstimate(value, math.nan, math.nan, present.size, infinite)
    means = _bootstrapped_means(present, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return UnitEstimate(float(present.mean()), float(low), float(high), present.size, infinite)


def compare_to_baseline(
    values: ArrayLike,
    baseline: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> BaselineComparison:
    """Compare a measure over units with the same measure in a baseline network.

    The baseline that belongs beside every claim about a trained network is the same architecture
    untrained: much of what looks like tuning is there before the first step.

    Parameters
    ----------
    values, baseline : array
        (unit,) each, such as one measure of one layer in the trained and the untrained network.
        Units of NaN are left out. They are not paired: a unit of an untrained network is not what
        the unit at its index becomes.
    level, resamples, seed
        As `mean_over_units`; both groups are redrawn.

    Returns
    -------
    BaselineComparison
        Every number but the counts is NaN where a group has no unit with a value.

    Raises
    ------
    ResponseError, OptionError
        As `mean_over_units`.

    Notes
    -----
    auc = U / (n m), p from the normal approximation with correction for ties: Mann & Whitney, "On a
    test of whether one of two random variables is stochastically larger than the other" (1947).
    It takes units for independent, which those of one network are not: with hundreds of units p is
    small for any difference, and it tells of these two networks alone. Where several were
    trained, `unitprobe.inference.difference_over_networks` of their layer means is the test.

    Examples
    --------
    >>> comparison = compare_to_baseline([0.5, 0.6, 0.7], [0.1, 0.2, 0.6])
    >>> round(comparison.difference, 3), round(comparison.auc, 3)
    (0.3, 0.833)
    """
    trained, untrained = _with_value(values, "values"), _with_value(baseline, "baseline")
    _check(level, resamples)
    counts = trained.size, untrained.size
    if min(counts) == 0:
        return BaselineComparison(math.nan, math.nan, math.nan, math.nan, math.nan, *counts)
    difference, low, high = math.nan, math.nan, math.nan
    finite = [group[np.isfinite(group)] for group in (trained, untrained)]
    fewest = min(group.size for group in finite)
    if fewest > 0:
        difference = float(finite[0].mean() - finite[1].mean())
    if fewest > 1:
        rng = np.random.default_rng(seed)
        means = [_bootstrapped_means(group, resamples, rng) for group in finite]
        tails = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(means[0] - means[1], tails)
    auc, p = _mann_whitney(trained, untrained)
    return BaselineComparison(difference, float(low), float(high), auc, p, *counts)


def _mann_whitney(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    if np.ptp(np.concatenate([a, b])) == 0:
        return 0.5, 1.0
    from scipy.stats import mannwhitneyu

    result = mannwhitneyu(a, b, method="asymptotic")
    return float(result.statistic) / (a.size * b.size), float(result.pvalue)


def _bootstrapped_means(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    at_once = max(1, _DRAWS_AT_ONCE // values.size)
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = [
        values[rng.integers(values.size, size=(size, values.size))].mean(axis=1) for size in sizes
    ]
    return np.concatenate(means)


def _with_value(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ResponseError(f"{name} must be one number for each unit, got shape {array.shape}")
    return array[~np.isnan(array)]


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise OptionError(f"level={level} must be a confidence level between 0 and 1, such as 0.95")
    if resamples < 1:
        raise OptionError(f"resamples={resamples} must be at least 1")
