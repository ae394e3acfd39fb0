"""Split-half reliability: whether the other half of the stimuli says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference.resampling import as_labelled_counts
from unitprobe.metrics import class_means
from unitprobe.metrics._arrays import centred
from unitprobe.typing import FloatArray, IntArray

#: A measure of units: (stimulus, unit) responses and (stimulus,) labels to (unit,).
UnitMeasure: TypeAlias = Callable[[FloatArray, IntArray], ArrayLike]


@dataclass(frozen=True)
class SplitHalfReliability:
    """How alike a measure is over the units of a layer in two halves of the stimuli.

    Attributes
    ----------
    correlation : float
        Pearson's r over units, the mean over splits, -1 to 1: the reliability with half the
        stimuli. NaN where a split leaves fewer than three units, or all alike.
    spearman_brown : float
        The reliability with all stimuli that follows, at most 1.
    units : int
        The fewest units that had a value in both halves of a split.
    """

    correlation: float
    spearman_brown: float
    units: int


@dataclass(frozen=True)
class TuningReliability:
    """How alike the tuning curve of each unit is in two halves of the stimuli; (unit,) each.

    Attributes
    ----------
    correlation : array
        Pearson's r over classes, the mean over splits, -1 to 1: the reliability with half the
        stimuli. NaN for a unit that responds alike to every stimulus.
    spearman_brown : array
        The reliability with all stimuli that follows, at most 1.
    """

    correlation: FloatArray
    spearman_brown: FloatArray


def split_half_reliability(
    measure: UnitMeasure,
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    splits: int = 20,
    seed: int = 0,
) -> SplitHalfReliability:
    """Reliability of a measure as a ranking of units, from random halves of the stimuli.

    Parameters
    ----------
    measure : callable
        (stimulus, unit) responses and (stimulus,) labels to (unit,), such as
        `unitprobe.metrics.class_selectivity`.
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1. Each class is halved, so none may
        have a single stimulus.
    splits : int
        How many times the stimuli are halved, at least 1.
    seed : int
        The same seed gives the same halves, whatever the units.

    Returns
    -------
    SplitHalfReliability

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers, or the measure does not
        give a value for each unit.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus, or a class has one stimulus.
    OptionError
        `splits` is below 1.

    Notes
    -----
    With r the mean correlation, 2 r / (1 + r): Spearman (1910) and Brown (1910). A unit that has no
    value in a half, such as a dead one, is left out of that split.

    A reliable difference between units need not be one of tuning: sparse units have a larger
    selectivity in any half, by noise alone. Split the values after the mean of the null was
    taken off to rule this out.

    Examples
    --------
    >>> import numpy as np
    >>> from unitprobe.metrics import class_selectivity
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(400) % 4
    >>> noise = rng.random((400, 30))
    >>> tuned = noise + np.linspace(0, 1, 30) * (labels == 1)[:, None]
    >>> split_half_reliability(class_selectivity, tuned, labels).correlation > 0.9
    True
    >>> split_half_reliability(class_selectivity, noise, labels).correlation > 0.5
    False
    """
    values, classes, counts = as_labelled_counts(responses, labels)
    correlations, fewest = [], values.shape[1]
    for halves in _halves(classes, counts, splits, seed):
        a, b = (_measured(measure, values[half], classes[half]) for half in halves)
        both = ~np.isnan(a) & ~np.isnan(b)
        fewest = min(fewest, int(both.sum()))
        r = _correlation(a[both, None], b[both, None])[0] if both.sum() > 2 else np.nan
        correlations.append(r)
    correlation = float(np.mean(correlations))
    return SplitHalfReliability(correlation, float(_spearman_brown(correlation)), fewest)


def tuning_reliability(
    responses: ArrayLike, labels: ArrayLike, *, splits: int = 20, seed: int = 0
) -> TuningReliability:
    """Reliability of the tuning curve of each unit, from random halves of the stimuli.

    Parameters
    ----------
    responses, labels, splits, seed
        As `split_half_reliability`; at least three classes must have stimuli.

    Returns
    -------
    TuningReliability

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `split_half_reliability`; LabelError for fewer than three classes too, because two points
        always lie on a line.

    Notes
    -----
    Correlation over classes of the class means of either half, and 2 r / (1 + r) of its mean over
    splits. A half in which a unit's class means do not differ, such as one to which it does not
    respond at all, tells nothing of the other half: its correlation is 0. Without tuning the
    expectation is 0.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.arange(200) % 10
    >>> noise = np.random.default_rng(0).normal(size=(200, 2))
    >>> tuned = noise + np.array([0, 1]) * labels[:, None]
    >>> reliability = tuning_reliability(tuned, labels)
    >>> bool(reliability.spearman_brown[1] > 0.9), bool(abs(reliability.correlation[0]) < 0.7)
    (True, True)
    """
    values, classes, counts = as_labelled_counts(responses, labels)
    if np.count_nonzero(counts) < 3:
        raise LabelError(
            f"the reliability of tuning needs at least 3 classes, the labels hold "
            f"{np.count_nonzero(counts)}"
        )
    # A constant unit has class means that are equal, not equal but for rounding.
    values = centred(values)
    total = np.zeros(values.shape[1])
    for halves in _halves(classes, counts, splits, seed):
        a, b = (class_means(values[half], classes[half], counts.size) for half in halves)
        total += np.nan_to_num(_correlation(a[counts > 0], b[counts > 0]))
    varies = np.any(values != 0, axis=0)
    correlation = np.where(varies, total / splits, np.nan)
    return TuningReliability(correlation, _spearman_brown(correlation))


def _halves(
    labels: IntArray, counts: IntArray, splits: int, seed: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield two halves of the stimuli, each with half of every class, the odd one in either."""
    if splits < 1:
        raise OptionError(f"splits={splits} must be at least 1")
    if np.any(counts == 1):
        raise LabelError(
            f"class {np.flatnonzero(counts == 1)[0]} has one stimulus, which cannot be halved"
        )
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        shuffled = rng.permutation(labels.size)
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        # Every other stimulus of a class, beginning with the first or the second.
        first = np.cumsum(counts) - counts
        place = np.arange(labels.size) - np.repeat(first, counts)
        odd = (place + np.repeat(rng.integers(2, size=counts.size), counts)) % 2 == 1
        yield by_class[odd], by_class[~odd]


def _measured(measure: UnitMeasure, responses: FloatArray, labels: IntArray) -> FloatArray:
    values = np.asarray(measure(responses, labels), dtype=np.float64)
    if values.shape != responses.shape[1:]:
        raise ResponseError(
            f"the measure must give one value for each of {responses.shape[1]} units, got shape "
            f"{values.shape}"
        )
    return values


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return Pearson's r of each column, NaN where either does not vary."""
    a, b = centred(a), centred(b)
    norms = np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))
    products: FloatArray = np.sum(a * b, axis=0)
    return np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), np.nan)


def _spearman_brown(correlation: FloatArray | float) -> FloatArray:
    r = np.asarray(correlation)
    return np.where(r > -1, 2 * r / np.where(r > -1, 1 + r, 1.0), np.nan)
