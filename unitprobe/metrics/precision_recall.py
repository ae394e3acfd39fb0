"""Precision and recall: how well the stimuli that a unit ranks highest are those of one class.

As in `unitprobe.metrics.roc`, only the order of the responses matters and equal ones are one. All
of these measures depend on how many stimuli the class has, and so are not comparable between
classes of different numbers; and each needs its null.
"""

from __future__ import annotations

from unitprobe.metrics.classes import best_over_classes, require_two_classes
from unitprobe.metrics.ranking import ranking_measure_by_class
from unitprobe.typing import Array


def average_precision(responses: Array, labels: Array) -> Array:
    """Average precision of each unit for its best class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), above 0 to 1 (every response to the class is above all others), the largest over
        classes. A unit that responds alike to every stimulus has the share of the stimuli that are
        of the largest class; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    average_precision_by_class : The value of each class.

    Notes
    -----
    sum_t (recall(t) - recall(t - 1)) precision(t) over the distinct responses t as thresholds, from
    the highest, without interpolation: as `sklearn.metrics.average_precision_score`. The best of
    unbalanced classes is often the largest.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> average_precision(responses, np.array([0, 1, 0, 1]))
    array([0.83333333, 0.5       ])
    """
    require_two_classes(labels, "average_precision")
    return best_over_classes(average_precision_by_class(responses, labels))


def average_precision_by_class(
    responses: Array, labels: Array, class_count: int | None = None
) -> Array:
    """Average precision of each unit for each class against the rest.

    Parameters
    ----------
    responses, labels
        As `average_precision`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `average_precision`. NaN in the row of a class without
        stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError
        As `average_precision`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> average_precision_by_class(np.array([[3.0], [2.0], [1.0]]), np.array([0, 1, 1])).T
    array([[1.        , 0.58333333]])
    """
    return ranking_measure_by_class("average_precision", responses, labels, class_count)


def max_f1(responses: Array, labels: Array) -> Array:
    """Largest F1 score of each unit, over thresholds and classes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), above 0 to 1 (a threshold parts the class from all others). A unit that responds
        alike to every stimulus has 2 p / (1 + p), with p the share of the stimuli that are of the
        largest class, and none has less; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    max_f1_by_class : The value of each class.

    Notes
    -----
    max_t 2 precision(t) recall(t) / (precision(t) + recall(t)), over the distinct responses t as
    thresholds: van Rijsbergen, "Information retrieval" (1979).

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_f1(responses, np.array([0, 1, 0, 1]))
    array([0.8       , 0.66666667])
    """
    require_two_classes(labels, "max_f1")
    return best_over_classes(max_f1_by_class(responses, labels))


def max_f1_by_class(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Largest F1 score of each unit over thresholds, for each class against the rest.

    Parameters
    ----------
    responses, labels
        As `max_f1`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `max_f1`. NaN in the row of a class without
        stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError
        As `max_f1`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> max_f1_by_class(np.array([[3.0], [2.0], [1.0]]), np.array([0, 1, 1])).T
    array([[1. , 0.8]])
    """
    return ranking_measure_by_class("max_f1", responses, labels, class_count)


def recall_at_precision(responses: Array, labels: Array, *, precision: float = 0.95) -> Array:
    """Largest recall that each unit reaches at a precision, over thresholds and classes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.
    precision : float
        The share of hits among the stimuli at or above the threshold, above 0 and at most 1.

    Returns
    -------
    array
        (unit,), 0 (no threshold is so precise) to 1 (a threshold finds all of the class so
        precisely). 0 for a unit that responds alike to every stimulus, unless the share of a class
        in the stimuli is so high; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.
    OptionError
        The precision is not above 0 and at most 1.

    See Also
    --------
    recall_at_precision_by_class : The value of each class.

    Notes
    -----
    The largest share of the stimuli of the class at or above a threshold, of the distinct responses
    as thresholds, where at least `precision` of the stimuli there are of the class: a point of the
    curve of `sklearn.metrics.precision_recall_curve`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> recall_at_precision(responses, np.array([0, 1, 0, 1]))
    array([0.5, 0. ])
    """
    require_two_classes(labels, "recall_at_precision")
    return best_over_classes(recall_at_precision_by_class(responses, labels, precision=precision))


def recall_at_precision_by_class(
    responses: Array, labels: Array, class_count: int | None = None, *, precision: float = 0.95
) -> Array:
    """Largest recall that each unit reaches at a precision, for each class against the rest.

    Parameters
    ----------
    responses, labels, precision
        As `recall_at_precision`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `recall_at_precision`. NaN in the row of a class without
        stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `recall_at_precision`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.array([[3.0], [2.0], [1.0]]), np.array([0, 1, 1])
    >>> recall_at_precision_by_class(responses, labels, precision=0.6).T
    array([[1., 1.]])
    """
    return ranking_measure_by_class(
        "recall_at_precision", responses, labels, class_count, precision=precision
    )
