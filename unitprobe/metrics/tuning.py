"""Tuning: how each unit responds to each class, and which stimuli drive it most."""

from __future__ import annotations

from array_api_compat import array_namespace

from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import (
    as_labels,
    as_responses,
    divide,
    full_precision,
    one_hot,
    unit_rows,
    widen,
)
from unitprobe.typing import Array


def class_means(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Mean response of each unit to each class.

    Parameters
    ----------
    responses, labels, class_count
        See `unitprobe.metrics`.

    Returns
    -------
    array
        (class_name, unit), in the unit of the responses. NaN in the row of a class without
        stimuli.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

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
        The labels are not integers 0..C-1.

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


def class_variances(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Variance of the responses of each unit to each class.

    Parameters
    ----------
    responses, labels, class_count
        See `unitprobe.metrics`.

    Returns
    -------
    array
        (class_name, unit), from 0, in the squared unit of the responses: the population variance,
        a mean over n and not n - 1. 0 for a class of one stimulus, NaN for one without stimuli.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

    Notes
    -----
    The mean of the squared deviations from the class mean, in two passes, so that a large mean
    costs no precision.

    Examples
    --------
    >>> import numpy as np
    >>> class_variances(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), np.array([0, 0, 1]))
    array([[1., 0.],
           [0., 0.]])
    """
    responses = as_responses(responses)
    labels = as_labels(labels, class_count, responses)
    counts = class_counts(labels, class_count)
    return shifted_class_moments(responses, labels, counts)[1]


def shifted_class_moments(responses: Array, labels: Array, counts: Array) -> tuple[Array, Array]:
    """Return the class means of responses less those to the first stimulus, and the variances.

    Parameters
    ----------
    responses : array
        (stimulus, unit), float64 and trusted.
    labels : array
        (stimulus,), integers 0..C-1, trusted.
    counts : array
        (class_name,), `class_counts` of the labels.

    Returns
    -------
    means, variances : array
        (class_name, unit) each, NaN in the row of a class without stimuli. Where all responses to a
        class are equal the variance is exactly 0 and the mean exactly theirs.
    """
    xp = array_namespace(responses)
    weights = xp.astype(counts, responses.dtype)[:, None]
    # Deviations from the first response to the class lose no digits to a large mean.
    starts = xp.astype(xp.cumulative_sum(counts) - counts, xp.int64)
    first = xp.take(
        xp.argsort(labels, stable=True), xp.clip(starts, max=labels.shape[0] - 1), axis=0
    )
    anchors = xp.take(responses, first, axis=0)
    deviations = responses - xp.take(anchors, labels, axis=0)
    means = divide(class_sums(deviations, labels, counts.shape[0]), weights)
    deviations = deviations - xp.take(means, labels, axis=0)
    squares = class_sums(deviations * deviations, labels, counts.shape[0])
    return means + (anchors - responses[:1, :]), divide(squares, weights)


def class_fraction_active(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Share of the stimuli of each class that each unit responds to.

    Parameters
    ----------
    responses, labels, class_count
        See `unitprobe.metrics`.

    Returns
    -------
    array
        (class_name, unit), 0 to 1: the share of the stimuli of the class with a response above 0.
        NaN in the row of a class without stimuli.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

    See Also
    --------
    fraction_active : The same over all stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> class_fraction_active(np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 5.0]]), np.array([0, 0, 1]))
    array([[0.5, 0. ],
           [1. , 1. ]])
    """
    responses = as_responses(responses)
    active = array_namespace(responses).astype(responses > 0, responses.dtype)
    return class_means(active, labels, class_count)


def top_stimuli(responses: Array, k: int) -> Array:
    """Stimuli that drive each unit most.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    k : int
        How many stimuli, 1 to all of them.

    Returns
    -------
    array
        (rank, unit), integers: the index of the stimulus of the highest response first. Of equal
        responses the lowest index comes first, so a dead unit has 0, 1, 2, ...

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    OptionError
        `k` is below 1 or above the number of stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> top_stimuli(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 5.0]]), 2)
    array([[1, 2],
           [2, 0]])
    """
    responses = as_responses(responses)
    if not 1 <= k <= responses.shape[0]:
        raise OptionError(f"k={k} is not between 1 and the {responses.shape[0]} stimuli")
    xp = array_namespace(responses)
    # Of the negatives, because a stable sort that descends may reverse the order of ties.
    orders = [xp.argsort(-rows, axis=1, stable=True)[:, :k] for rows in unit_rows(responses)]
    return xp.concat(orders).T
