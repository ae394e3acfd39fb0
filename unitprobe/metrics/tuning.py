"""Tuning curves: the mean response of each unit to each class."""

from __future__ import annotations

from array_api_compat import array_namespace

from unitprobe.metrics._arrays import (
    Array,
    as_labels,
    as_responses,
    divide,
    full_precision,
    one_hot,
    widen,
)


def class_means(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Mean response of each unit to each class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), in the unit of the responses. NaN in the row of a class without
        stimuli.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus.

    Notes
    -----
    Means, never sums: a sum would carry the number of stimuli of the class into every measure
    computed from it.

    Examples
    --------
    >>> import numpy as np
    >>> class_means(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), np.array([0, 0, 1]))
    array([[2., 0.],
           [0., 5.]])
    """
    responses = as_responses(responses)
    labels = as_labels(labels, class_count, responses)
    counts = array_namespace(responses).astype(class_counts(labels, class_count), responses.dtype)
    sums = class_sums(responses, labels, counts.shape[0])
    return divide(sums, counts[:, None])


def class_sums(responses: Array, labels: Array, class_count: int) -> Array:
    """Sum the response of each unit to each class, the part of `class_means` that adds up.

    For statistics that are gathered over batches or processes: sums and counts are added, and the
    mean is taken once, at the end. It differentiates in `responses`. Responses and labels are
    trusted, because to look at their values would make an accelerator wait.

    Parameters
    ----------
    responses : array
        (stimulus, unit). Half precision is summed in single precision at least.
    labels : array
        (stimulus,), integers 0..C-1.
    class_count : int
        The number of classes C.

    Returns
    -------
    array
        (class_name, unit), 0 in the row of a class without stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> class_sums(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), np.array([0, 0, 1]), 2)
    array([[4., 0.],
           [0., 5.]])
    """
    responses = widen(responses)
    with full_precision(responses):
        sums: Array = one_hot(labels, class_count, responses.dtype) @ responses
    return sums


def class_counts(labels: Array, class_count: int | None = None) -> Array:
    """Count the stimuli of each class.

    Parameters
    ----------
    labels : array
        (stimulus,), integers 0..C-1.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name,), float64.

    Raises
    ------
    LabelError
        The labels are no integers 0..C-1.

    Examples
    --------
    >>> import numpy as np
    >>> class_counts(np.array([0, 2, 2]))
    array([1., 0., 2.])
    """
    labels = as_labels(labels, class_count)
    xp = array_namespace(labels)
    if class_count is None:
        class_count = int(xp.max(labels)) + 1
    # A count is the sum of a unit that responds with 1 to everything.
    return class_sums(xp.ones_like(labels)[:, None], labels, class_count)[:, 0]
