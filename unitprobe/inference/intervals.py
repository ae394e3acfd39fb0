"""The 95% interval of every measure by class: what is resampled, and how it becomes an interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.inference.estimates import bootstrap_interval
from unitprobe.inference.extremes import redraw_extremes
from unitprobe.inference.nulls import class_measures_bootstrap
from unitprobe.metrics.registry import Measure, get_measure
from unitprobe.typing import FloatArray, IntArray

# An interval for a share holds by itself where so many succeed and so many fail.
_FEW = 10


def class_measures_redrawn(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Several measures of each unit on other stimuli, for `class_measure_interval`.

    Parameters
    ----------
    responses, labels, names, resamples, seed
        As `unitprobe.inference.class_measures_null`.

    Returns
    -------
    dict of str to array
        (resample, unit) for each name: of `redraw_extremes` for ``localist_selectivity`` and
        ``top_class_selectivity``, of `class_measures_bootstrap` for all others.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `unitprobe.inference.class_measures_null`.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    >>> class_measures_redrawn(responses, labels, names=["max_f1"], resamples=1, seed=0)
    {'max_f1': array([[1.        , 1.        , 0.66666667, 0.66666667]])}
    """
    drawn: dict[str, FloatArray] = {}
    bootstrapped = [name for name in names if not get_measure(name, "class").redraw_tails]
    if bootstrapped:
        drawn |= class_measures_bootstrap(
            responses, labels, names=bootstrapped, resamples=resamples, seed=seed
        )
    if len(bootstrapped) < len(names):
        drawn |= redraw_extremes(responses, labels, resamples=resamples, seed=seed)
    return {name: drawn[name] for name in names}


def class_measure_interval(
    name: str,
    observed: ArrayLike,
    redrawn: ArrayLike,
    null: ArrayLike,
    *,
    counts: ArrayLike,
    best: ArrayLike | None = None,
    bounded: bool = True,
) -> tuple[FloatArray, FloatArray]:
    """95% interval of a measure by class.

    Parameters
    ----------
    name : str
        The measure, of kind "class" in `unitprobe.metrics.registry`.
    observed : array
        (unit,), the measure on the stimuli as they are. NaN where it has no value.
    redrawn : array
        (resample, unit), of `class_measures_redrawn`.
    null : array
        (resample, unit), of `class_measures_null`.
    counts : array
        (class_name,), the number of stimuli of each class.
    best : array, optional
        (unit,), the class that has the observed value, -1 if none stands out; for measures that
        have one.
    bounded : bool
        False where negative responses take selectivity out of 0 to 1.

    Returns
    -------
    low, high : array
        (unit,) each, around `observed` and in the range of the measure. NaN where `observed` is,
        and for a localist gap of exactly 0: extremes that tie have no tail.

    Raises
    ------
    ResponseError
        The shapes do not fit.

    Notes
    -----
    The interval covers the large-sample value of the measure: of many times the stimuli in the same
    proportions of classes; precision_at_k with k growing alike; anova_f as 1 + eta^2/(1 - eta^2) (N
    - C)/(C - 1), with eta^2 of many stimuli and N, C the given numbers, which is around the mean of
    F over samples of N. The gap and the run of extremes have no such value: theirs is the mean over
    other samples of as many stimuli.

    The interval is the "envelope" of `bootstrap_interval`. Where the null is not refuted it reaches
    to the value without effect: 0, but 0.5 for roc_auc, 1 for anova_f, with p the largest share of
    a class p for average_precision and precision_at_k and 2p/(1 + p) for max_f1, and the mean of
    the null for the two of extremes. A share that fewer than 10 stimuli miss, out of those of the
    class or of the k, can be missed by more of other stimuli than of these: the lower end is then
    at most that of Wilson's interval (1927) for so many trials.

    Measured coverages are in ``docs/coverage.md``.

    Examples
    --------
    >>> import numpy as np
    >>> redrawn, null = np.full((99, 1), 1.0), np.full((99, 1), 0.3)
    >>> low, high = class_measure_interval(
    ...     "average_precision", [1.0], redrawn, null, counts=[30, 30], best=[0]
    ... )
    >>> low.round(3), high
    (array([0.886]), array([1.]))
    """
    measure = get_measure(name, "class")
    values = np.asarray(observed, dtype=np.float64)
    sizes = np.asarray(counts, dtype=np.int64)
    shuffled = np.asarray(null, dtype=np.float64)
    no_effect = _without_effect(measure, sizes, shuffled)
    low, high = bootstrap_interval(values, redrawn, null=shuffled, no_effect=no_effect)
    if measure.share_of is not None:
        members = sizes[sizes > 0].min() if best is None else _members(np.asarray(best), sizes)
        trials, whole = measure.share_of(members)
        share = values / whole
        few = trials * (1 - share) < _FEW
        low = np.where(few, np.minimum(low, whole * _wilson_low(share, trials)), low)
    if bounded or not measure.assumes_non_negative:
        smallest, largest = measure.range
        if measure.smallest is not None:
            smallest = measure.smallest(sizes)
        if measure.largest is not None:
            largest = measure.largest(sizes)
        # A corrected value may leave the range, and its interval holds it.
        low = np.minimum(np.clip(low, smallest, largest), values)
        high = np.maximum(np.clip(high, smallest, largest), values)
    if measure.needs == "extremes":
        tied = values == 0
        low, high = np.where(tied, np.nan, low), np.where(tied, np.nan, high)
    return low, high


def _without_effect(measure: Measure, counts: IntArray, null: FloatArray) -> float | FloatArray:
    """Return the measure of a unit to which classes are all the same."""
    if measure.no_effect is None:
        mean: FloatArray = null.mean(axis=0)
        return mean
    return measure.no_effect(counts) if callable(measure.no_effect) else measure.no_effect


def _members(best: IntArray, counts: IntArray) -> IntArray:
    """Return the stimuli of the best class (unit,), of the smallest class where there is none."""
    members: IntArray = np.where(best >= 0, counts[best], counts[counts > 0].min())
    return members


def _wilson_low(share: FloatArray, trials: FloatArray | IntArray) -> FloatArray:
    """Return the lower end of the 95% interval of a share of so many trials."""
    z = 1.959963984540054
    middle = share + z**2 / (2 * trials)
    spread = z * np.sqrt(np.maximum(share * (1 - share), 0) / trials + (z / (2 * trials)) ** 2)
    low: FloatArray = (middle - spread) / (1 + z**2 / trials)
    return low
