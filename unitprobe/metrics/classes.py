"""What the measures by class share: at least two classes, and the best of them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from array_api_compat import array_namespace, device

from unitprobe.errors import LabelError, OptionError
from unitprobe.metrics._arrays import as_array, as_labels, as_responses, widen
from unitprobe.typing import Array

#: How the values of all classes become one: the largest. None keeps them all.
Reduction: TypeAlias = Literal["best"]


def as_labelled(
    responses: Array, labels: Array, class_count: int | None = None
) -> tuple[Array, Array, int]:
    """Return responses, labels that fit them, and the number of classes.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    """
    responses = as_responses(responses)
    labels = as_labels(labels, class_count, responses)
    if class_count is None:
        class_count = int(array_namespace(labels).max(labels)) + 1
    return responses, labels, class_count


def require_two_classes(labels: Array, measure: str) -> None:
    """Refuse labels that hold only one class.

    Raises
    ------
    LabelError
        Every label is the same, or the labels are not integers 0..C-1.
    """
    labels = as_labels(labels)
    xp = array_namespace(labels)
    if bool(xp.all(labels == labels[0])):
        raise LabelError(
            f"{measure} needs stimuli of at least two classes, the labels hold only class "
            f"{int(labels[0])}"
        )


def check_reduction(reduce: Reduction | None, labels: Array, measure: str) -> None:
    """Refuse an unknown `reduce`, and labels of one class where the best class is wanted.

    Raises
    ------
    OptionError
        `reduce` is neither "best" nor None.
    LabelError
        Every label is the same, or the labels are not integers 0..C-1.
    """
    if reduce not in ("best", None):
        raise OptionError(f"reduce={reduce!r} is unknown; choose 'best' or None")
    if reduce == "best":
        require_two_classes(labels, measure)


def reduce_classes(by_class: Array, reduce: Reduction | None) -> Array:
    """Return the value of the best class, (..., unit), or those of all classes if not reduced."""
    return by_class if reduce is None else best_over_classes(by_class)


def best_over_classes(by_class: Array) -> Array:
    """Largest of the values that a measure gives the classes.

    Parameters
    ----------
    by_class : array
        (..., class_name, unit), such as ``d_prime(..., reduce=None)`` gives; NaN where a class
        has no value.

    Returns
    -------
    array
        (..., unit), NaN where every class is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> best_over_classes(np.array([[0.5, np.nan], [0.75, np.nan], [np.nan, np.nan]]))
    array([0.75,  nan])
    """
    by_class = widen(as_array(by_class))
    xp = array_namespace(by_class)
    undefined = xp.isnan(by_class)
    best = xp.max(xp.where(undefined, -xp.inf, by_class), axis=-2)
    return xp.where(xp.all(undefined, axis=-2), xp.nan, best)


def best_class(by_class: Array) -> Array:
    """Class to which a measure gives its largest value.

    Parameters
    ----------
    by_class : array
        (..., class_name, unit), such as ``d_prime(..., reduce=None)`` gives; NaN where a class
        has no value.

    Returns
    -------
    array
        (..., unit), integers: the class, the lowest of those that tie, or -1 where no class
        stands out because all have the same value or none.

    See Also
    --------
    preferred_class : The class of the highest mean response.

    Examples
    --------
    >>> import numpy as np
    >>> best_class(np.array([[0.5, 0.5], [0.75, 0.5], [np.nan, np.nan]]))
    array([ 1, -1])
    """
    by_class = widen(as_array(by_class))
    xp = array_namespace(by_class)
    undefined = xp.isnan(by_class)
    values = xp.where(undefined, -xp.inf, by_class)
    highest = xp.max(values, axis=-2, keepdims=True)
    alike = xp.all(undefined | (values == highest), axis=-2)
    best = xp.argmax(values, axis=-2)
    return xp.where(alike, xp.asarray(-1, dtype=best.dtype, device=device(best)), best)
