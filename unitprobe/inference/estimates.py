"""Is it real? Label-shuffle nulls, bootstrap intervals and control of false discoveries.

Selectivity is a largest class mean held against the others, so noise alone makes it positive:
0.04 for 10 classes of 1,000 stimuli, 0.24 for 200 classes of 50. A raw value therefore says
nothing without the null it would have if labels did not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference.nulls import class_measures_bootstrap, class_measures_null
from unitprobe.metrics import Weighting
from unitprobe.typing import FloatArray

#: How `bootstrap_interval` turns resampled values into an interval.
IntervalMethod = Literal["envelope", "percentile", "basic", "bias_corrected"]

# The sums of a null are rounded to single precision, those of the observed value are not.
_TIE = 1e-5
_ROUNDING = 1e-6
# A measure of a constant unit is 0 but for rounding.
_ZERO = 1e-9


def class_selectivity_null(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int,
    seed: int,
    weighting: Weighting = "class",
) -> FloatArray:
    """Class selectivity of each unit after the labels were shuffled.

    Parameters
    ----------
    responses, labels, resamples, seed
        As `unitprobe.inference.resampling.shuffled_class_means`.
    weighting : {"class", "stimulus"}
        As `unitprobe.metrics.class_selectivity`.

    Returns
    -------
    array
        (resample, unit), in the range of `unitprobe.metrics.class_selectivity`; NaN for a unit
        that responds to nothing.

    Raises
    ------
    ResponseError, OptionError
        As `unitprobe.inference.resampling.shuffled_class_means`.
    LabelError
        As `unitprobe.inference.resampling.shuffled_class_means`; or fewer than two classes have
        stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.maximum(np.random.default_rng(0).normal(size=(1000, 50)), 0)
    >>> null = class_selectivity_null(noise, np.arange(1000) % 10, resamples=20, seed=0)
    >>> null.shape, round(float(null.mean()), 1)
    ((20, 50), 0.1)
    """
    name = _measure_of(weighting)
    return class_measures_null(responses, labels, names=[name], resamples=resamples, seed=seed)[
        name
    ]


def class_selectivity_bootstrap(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int,
    seed: int,
    weighting: Weighting = "class",
) -> FloatArray:
    """Class selectivity of each unit on stimuli drawn with replacement within each class.

    Parameters
    ----------
    responses, labels, resamples, seed
        As `unitprobe.inference.resampling.shuffled_class_means`.
    weighting : {"class", "stimulus"}
        As `unitprobe.metrics.class_selectivity`.

    Returns
    -------
    array
        (resample, unit), in the range of `unitprobe.metrics.class_selectivity`; NaN where a unit
        responds to none of the stimuli drawn.

    Raises
    ------
    ResponseError, OptionError
        As `unitprobe.inference.resampling.shuffled_class_means`.
    LabelError
        As `unitprobe.inference.resampling.shuffled_class_means`; or fewer than two classes have
        stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    >>> class_selectivity_bootstrap(responses, labels, resamples=2, seed=0)
    array([[ 1.,  1., nan, nan],
           [ 1.,  1., nan, nan]])
    """
    name = _measure_of(weighting)
    measured = class_measures_bootstrap(
        responses, labels, names=[name], resamples=resamples, seed=seed
    )
    return measured[name]


@dataclass(frozen=True)
class NullSummary:
    """What a null says about the observed value of each unit; every field is (unit,).

    Attributes
    ----------
    mean, std : array
        Mean and sample standard deviation of the null.
    z : array
        Observed value less the mean of the null, in its standard deviations; NaN where the null
        does not vary.
    p : array
        Chance of at least the observed value if labels did not matter, 1/(1 + resamples) to 1.
    corrected : array
        Observed value less the mean of the null: around 0 for a unit that is not selective.
    """

    mean: FloatArray
    std: FloatArray
    z: FloatArray
    p: FloatArray
    corrected: FloatArray


def summarize_null(observed: ArrayLike, null: ArrayLike) -> NullSummary:
    """Hold observed values against their null.

    Parameters
    ----------
    observed : array
        (unit,), the measure on the true labels. NaN where it has no value.
    null : array
        (resample, unit), the measure on shuffled labels, such as `class_selectivity_null`.

    Returns
    -------
    NullSummary
        Each field (unit,), NaN where `observed` or the null is NaN.

    Raises
    ------
    ResponseError
        The shapes do not fit.

    Notes
    -----
    p = (1 + #{null >= observed}) / (1 + resamples), one-sided, and never 0 because the true
    labelling is one of the possible shuffles: Phipson & Smyth, "Permutation p-values should never
    be zero" (2010). `corrected` removes the noise floor of a unit that is not selective; the
    stronger the selectivity, the smaller its true bias, so it is not an unbiased estimate there.

    What lies within 1e-5 of the observed value and of the standard deviation counts as a tie,
    because the sums behind a null are in single precision. This makes p larger, by less than 1e-5
    for each standard deviation that the value is from 0.

    Examples
    --------
    >>> summary = summarize_null([0.75, 0.25], [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5]])
    >>> summary.p, summary.corrected
    (array([0.25, 0.75]), array([0.5, 0. ]))
    """
    values, draws = _observed_and_draws(observed, null, "null")
    resamples = draws.shape[0]
    with np.errstate(invalid="ignore"):  # infinite values, such as a d-prime, have no z
        mean = draws.mean(axis=0)
        # One resample has no standard deviation.
        std = draws.std(axis=0, ddof=1) if resamples > 1 else np.full(values.shape, np.nan)
        corrected = values - mean
    varies = std > _ROUNDING * np.abs(mean)
    z = np.where(varies, corrected / np.where(varies, std, 1.0), np.nan)
    # A shuffle that ties with the true labels adds the same numbers in another order.
    scale = np.where(np.isfinite(values), np.abs(values), 0.0) + np.where(varies, std, 0.0)
    reached = draws >= values - _TIE * scale - _ZERO
    p = (1.0 + np.sum(reached, axis=0)) / (1.0 + resamples)
    undefined = np.isnan(values) | np.isnan(draws).any(axis=0)
    return NullSummary(
        mean=np.where(undefined, np.nan, mean),
        std=np.where(undefined, np.nan, std),
        z=np.where(undefined, np.nan, z),
        p=np.where(undefined, np.nan, p),
        corrected=np.where(undefined, np.nan, corrected),
    )


def bootstrap_interval(
    observed: ArrayLike,
    resampled: ArrayLike,
    level: float = 0.95,
    method: IntervalMethod = "envelope",
    null: ArrayLike | None = None,
    no_effect: ArrayLike = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Confidence interval of each unit from bootstrapped values.

    Parameters
    ----------
    observed : array
        (unit,), the measure on the stimuli as they are. NaN where it has no value.
    resampled : array
        (resample, unit), the measure on redrawn stimuli, such as `class_selectivity_bootstrap`. A
        resample that is NaN is left out.
    level : float
        Confidence, between 0 and 1.
    method : {"envelope", "percentile", "basic", "bias_corrected"}
        See Notes. "envelope" is the one to use for class-based measures.
    null : array, optional
        (resample, unit), the measure on shuffled labels. Given it, the interval reaches to
        `no_effect` where the observed value is not beyond the null at (1 - `level`)/2,
        one-sided. Give it for every measure that noise alone raises.
    no_effect : float or array
        The measure without noise if classes do not matter, of all units or (unit,): 0, but 0.5 for
        ``roc_auc``; `unitprobe.inference.class_measure_interval` knows it for every measure.

    Returns
    -------
    low, high : array
        (unit,) each. Not clipped: `low` may be below the range of the measure. NaN where
        `observed` is NaN or no resample has a value, and an end of "basic" where the observed value
        and the quantile are both infinite, which "envelope" leaves out.

    Raises
    ------
    ResponseError
        The shapes do not fit.
    OptionError
        The level is not between 0 and 1, or the method is unknown.

    Notes
    -----
    With q the quantiles of the resampled values at (1 - level)/2 and (1 + level)/2:

    - "percentile": [q_low, q_high];
    - "basic", the reverse percentile: [2 observed - q_high, 2 observed - q_low];
    - "bias_corrected": percentiles at Phi(2 z0 +- z), z0 the normal score of the share of resamples
      below the observed value (Efron & Tibshirani, "An introduction to the bootstrap", 1993,
      chapter 14, without acceleration);
    - "envelope": from the lower of the first two lower ends to the higher of the upper ends.

    Noise biases class selectivity upwards, and redrawing the stimuli biases it further, so for
    weakly selective units the percentile interval lies above the true value, and the basic one
    misses it often on either side. Measured coverages are in ``docs/coverage.md``.

    Examples
    --------
    >>> import numpy as np
    >>> resampled = np.linspace(0.4, 0.8, 401)[:, None]
    >>> low, high = bootstrap_interval([0.5], resampled, method="percentile")
    >>> low, high
    (array([0.41]), array([0.79]))
    >>> bootstrap_interval([0.5], resampled)
    (array([0.21]), array([0.79]))
    """
    if method not in get_args(IntervalMethod):
        known = ", ".join(get_args(IntervalMethod))
        raise OptionError(f"method={method!r} is not known; choose one of {known}")
    if not 0 < level < 1:
        raise OptionError(f"level={level} must be a confidence level between 0 and 1, such as 0.95")
    values, draws = _observed_and_draws(observed, resampled, "resampled values")
    draws = np.sort(draws, axis=0)  # NaN last
    tail = (1 - level) / 2
    if method == "bias_corrected":
        low, high = _bias_corrected(values, draws, tail)
    else:
        low, high = _quantile(draws, tail), _quantile(draws, 1 - tail)
        with np.errstate(invalid="ignore"):  # an infinite value less an infinite quantile is NaN
            basic_low, basic_high = 2 * values - high, 2 * values - low
        if method == "basic":
            low, high = basic_low, basic_high
        elif method == "envelope":
            low, high = np.fmin(low, basic_low), np.fmax(high, basic_high)
    if null is not None:
        p = summarize_null(values, null).p
        low = np.where(p > tail, np.minimum(low, no_effect), low)
        high = np.where(p > tail, np.maximum(high, no_effect), high)
    undefined = np.isnan(values)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def false_discovery_rate(p: ArrayLike) -> FloatArray:
    """Adjust p-values so that a threshold on them bounds the share of false discoveries.

    Parameters
    ----------
    p : array
        p-values of any shape, 0 to 1, all of one family. NaN where there was no test.

    Returns
    -------
    array
        q-values of the same shape, 0 to 1, at least `p`; NaN where `p` is. Of the units with
        q <= 0.05, no more than 5% are expected to be false discoveries.

    Raises
    ------
    ResponseError
        A p-value lies outside 0 to 1.

    Notes
    -----
    Benjamini & Hochberg, "Controlling the false discovery rate" (1995), through
    `scipy.stats.false_discovery_control`. NaN counts as no test.

    Examples
    --------
    >>> import numpy as np
    >>> false_discovery_rate([0.01, 0.02, np.nan, 0.9])
    array([0.03, 0.03, nan, 0.9 ])
    """
    values = np.asarray(p, dtype=np.float64)
    tested = ~np.isnan(values)
    outside = values[tested & ((values < 0) | (values > 1))]
    if outside.size:
        raise ResponseError(f"p-values lie between 0 and 1, got {outside[0]}")
    q = np.full(values.shape, np.nan)
    if tested.any():
        import scipy.stats

        q[tested] = scipy.stats.false_discovery_control(values[tested], method="bh")
    return q


def _measure_of(weighting: Weighting) -> str:
    if weighting not in get_args(Weighting):
        raise OptionError(f"weighting={weighting!r} is not known; choose 'class' or 'stimulus'")
    return "class_selectivity" if weighting == "class" else "ccmas"


def _observed_and_draws(
    observed: ArrayLike, draws: ArrayLike, name: str
) -> tuple[FloatArray, FloatArray]:
    values = np.asarray(observed, dtype=np.float64)
    matrix = np.asarray(draws, dtype=np.float64)
    if values.ndim != 1 or matrix.ndim != 2 or matrix.shape[1:] != values.shape or not len(matrix):
        raise ResponseError(
            f"{name} must be (resample, unit) beside observed values (unit,), got shapes "
            f"{matrix.shape} and {values.shape}"
        )
    return values, matrix


def _quantile(ordered: FloatArray, share: float | FloatArray) -> FloatArray:
    """Return the quantile of each ascending column, NaN last, at its own share."""
    count = np.sum(~np.isnan(ordered), axis=0)
    position = np.asarray(share) * np.maximum(count - 1, 0)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    column = np.arange(ordered.shape[1])
    weight = position - below
    low, high = ordered[below, column], ordered[above, column]
    with np.errstate(invalid="ignore"):  # 0 times infinity is NaN, which the caller expects
        between = (1 - weight) * low + weight * high
    quantile: FloatArray = np.where(weight > 0, between, low)
    return quantile


def _bias_corrected(
    observed: FloatArray, ordered: FloatArray, tail: float
) -> tuple[FloatArray, FloatArray]:
    count = np.maximum(np.sum(~np.isnan(ordered), axis=0), 1)
    lower = np.sum(ordered < observed, axis=0) + 0.5 * np.sum(ordered == observed, axis=0)
    # Half a resample from either end keeps the normal score finite.
    share = np.clip(lower / count, 0.5 / count, 1 - 0.5 / count)
    import scipy.stats

    shift = 2 * scipy.stats.norm.ppf(share)
    score = scipy.stats.norm.ppf(tail)
    low = _quantile(ordered, scipy.stats.norm.cdf(shift + score))
    high = _quantile(ordered, scipy.stats.norm.cdf(shift - score))
    return low, high
