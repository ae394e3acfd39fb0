"""The moments of classes, and what the measures of separation share of them."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace, device

from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import as_array, divide, safely_scaled, widen
from unitprobe.metrics.classes import as_labelled
from unitprobe.metrics.tuning import class_counts, shifted_class_moments
from unitprobe.typing import Array

#: A standard deviation below so many machine epsilons of the largest class mean is rounding: the
#: means of equal responses to different numbers of stimuli differ in their last digits.
ROUNDING_OF_MEANS = 4096
#: So is a variance below so many machine epsilons of that of all stimuli.
ROUNDING_OF_VARIANCES = 64


@dataclass(frozen=True)
class PooledClasses:
    """Moments of classes beside those of all stimuli; an absent class has 0 throughout.

    `counts` is (..., class_name, 1); `deviations`, the class means less the mean of all stimuli,
    and `variances` are (..., class_name, unit); the number of `stimuli`, the sums of squares
    `within` and `between` classes and whether a unit `varies` have 1 for the class.
    """

    counts: Array
    deviations: Array
    variances: Array
    stimuli: Array
    within: Array
    between: Array
    varies: Array

    @property
    def negligible_variance(self) -> Array:
        """The variance that rounding cannot tell from 0, beside that of all stimuli."""
        variance = (self.within + self.between) / self.stimuli
        eps = array_namespace(variance).finfo(variance.dtype).eps
        return ROUNDING_OF_VARIANCES * eps * variance


def labelled_moments(
    responses: Array, labels: Array, class_count: int | None = None
) -> tuple[Array, Array, Array]:
    """Return the counts, means and variances of classes, of responses less the first.

    Those of a unit with extreme responses are of its responses times `safe_scale`.

    Raises
    ------
    ResponseError, LabelError
        As `as_labelled`.
    """
    responses, labels, class_count = as_labelled(responses, labels, class_count)
    counts = class_counts(labels, class_count)
    return (counts, *shifted_class_moments(safely_scaled(responses), labels, counts))


def pool_classes(counts: Array, means: Array, variances: Array) -> PooledClasses:
    """Pool (..., class_name, unit) means and population variances of classes.

    Raises
    ------
    ResponseError
        They have fewer than two dimensions, or differ in shape.
    """
    means, variances = widen(as_array(means)), widen(as_array(variances))
    xp = array_namespace(means)
    if means.ndim < 2 or means.shape != variances.shape:
        raise ResponseError(
            f"class means and variances must both be (..., class_name, unit), got shapes "
            f"{tuple(means.shape)} and {tuple(variances.shape)}"
        )
    counts = xp.asarray(counts, dtype=means.dtype, device=device(means))[..., None]
    present = (counts > 0) & ~xp.isnan(means)
    # Absent classes leave before the arithmetic: a NaN that is masked afterwards still makes a
    # NaN gradient.
    means = xp.where(present, means, 0.0)
    variances = xp.where(present, variances, 0.0)

    stimuli = xp.sum(counts, axis=-2, keepdims=True)
    mean = divide(xp.sum(counts * means, axis=-2, keepdims=True), stimuli)
    deviations = xp.where(present, means - mean, 0.0)
    within = xp.sum(counts * variances, axis=-2, keepdims=True)
    between = xp.sum(counts * deviations**2, axis=-2, keepdims=True)
    largest = xp.max(xp.abs(means), axis=-2, keepdims=True)
    rounding = ROUNDING_OF_MEANS * xp.finfo(means.dtype).eps * largest
    varies = within + between > stimuli * rounding**2
    return PooledClasses(counts, deviations, variances, stimuli, within, between, varies)
