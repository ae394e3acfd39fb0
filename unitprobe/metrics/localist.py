"""Localist selectivity: whether the responses to one class lie apart from all others.

Bowers, Vankov, Damian & Davis, "Neural networks learn highly selective representations in order to
overcome the superposition catastrophe" (Psychological Review 2014); Gale, Martin, Blything, Nguyen
& Bowers (arXiv:2007.01062). The parameters that functions share are described in
`unitprobe.metrics`.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import as_array, widen
from unitprobe.metrics.classes import Reduction, as_labelled, check_reduction, reduce_classes
from unitprobe.typing import Array


def localist_selectivity(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Gap between the responses to the best class, or to every class, and those to all others.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), in the units of the responses. Above 0 the unit is localist: every response to the
        class lies above, or every one lies below, all others. 0 for a unit that responds alike to
        every stimulus; never NaN. With ``reduce=None`` (class_name, unit). Of two classes both have
        the same value: where one is on, the other is off.

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    The larger of min_A x - max_notA x and min_notA x - max_A x. One stimulus decides it, so it
    falls with the number of stimuli.

    Examples
    --------
    A unit that is on for class 1, one that is off for it, and one that is neither:

    >>> import numpy as np
    >>> responses = np.array([[0.0, 5.0, 1.0], [3.0, 4.0, 2.0], [1.0, 9.0, 3.0]])
    >>> localist_selectivity(responses, np.array([0, 1, 0]))
    array([ 2.,  1., -1.])
    >>> localist_selectivity(responses, np.array([0, 1, 2]), reduce=None)[:, 0]
    array([ 1.,  2., -1.])
    """
    check_reduction(reduce, labels, "localist_selectivity")
    lowest, highest = class_extremes(responses, labels, class_count)
    return reduce_classes(localist_selectivity_from_extremes(lowest, highest), reduce)


def class_extremes(
    responses: Array, labels: Array, class_count: int | None = None
) -> tuple[Array, Array]:
    """Lowest and highest response of each unit to each class.

    Parameters
    ----------
    responses, labels, class_count
        As `class_means`.

    Returns
    -------
    lowest, highest : array
        (class_name, unit) each, NaN in the row of a class without stimuli.

    Raises
    ------
    ResponseError, LabelError
        As `class_means`.

    Examples
    --------
    >>> import numpy as np
    >>> class_extremes(np.array([[4.0], [3.0], [1.0]]), np.array([0, 1, 0]))
    (array([[1.],
           [3.]]), array([[4.],
           [3.]]))
    """
    responses, labels, class_count = as_labelled(responses, labels, class_count)
    xp = array_namespace(responses)
    lowest = xp.full(
        (class_count, responses.shape[1]), xp.nan, dtype=responses.dtype, device=device(responses)
    )
    highest = xp.full_like(lowest, xp.nan)
    for class_ in xp.unique_values(labels):
        of_class = responses[labels == class_, :]
        lowest[class_, :] = xp.min(of_class, axis=0)
        highest[class_, :] = xp.max(of_class, axis=0)
    return lowest, highest


def localist_selectivity_from_extremes(lowest: Array, highest: Array) -> Array:
    """Return `localist_selectivity` of every class from the extremes of the classes.

    Parameters
    ----------
    lowest, highest : array
        (..., class_name, unit), the lowest and highest response to each class, with any dimensions
        before; NaN for a class without stimuli.

    Returns
    -------
    array
        (..., class_name, unit).

    Raises
    ------
    ResponseError
        The extremes have fewer than two dimensions, or differ in shape.

    Examples
    --------
    >>> localist_selectivity_from_extremes([[0.0], [3.0], [1.0]], [[0.0], [3.0], [1.0]]).T
    array([[ 1.,  2., -1.]])
    """
    lowest, highest = widen(as_array(lowest)), widen(as_array(highest))
    if lowest.ndim < 2 or lowest.shape != highest.shape:
        raise ResponseError(
            f"lowest and highest responses must both be (..., class_name, unit), got shapes "
            f"{tuple(lowest.shape)} and {tuple(highest.shape)}"
        )
    xp = array_namespace(lowest)
    absent = xp.isnan(lowest)
    highest_of_rest = _largest_of_others(xp.where(absent, -xp.inf, highest))
    lowest_of_rest = -_largest_of_others(xp.where(absent, -xp.inf, -lowest))
    alone = absent | xp.isinf(highest_of_rest)
    gap = xp.maximum(lowest - highest_of_rest, lowest_of_rest - highest)
    return xp.where(alone, xp.nan, gap)


def _largest_of_others(values: Array) -> Array:
    """Return for each class the largest of (..., class_name, unit) values of all others."""
    xp = array_namespace(values)
    classes = xp.arange(values.shape[-2], device=device(values))[:, None]
    is_largest = classes == xp.argmax(values, axis=-2, keepdims=True)
    largest = xp.max(values, axis=-2, keepdims=True)
    second = xp.max(xp.where(is_largest, -xp.inf, values), axis=-2, keepdims=True)
    return xp.where(is_largest, second, largest)
