"""ROC: how well a threshold on the response of a unit parts one class from all others.

Every measure looks at the order of the responses alone, and so any increasing function of them
leaves it as it is. Equal responses are one, because no threshold lies between them. The best of
several classes is biased upwards: each of these measures needs its null. For several of them or
several labellings see `unitprobe.metrics.ranking_measures`.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import as_array, divide, widen
from unitprobe.metrics.classes import best_class, best_over_classes, require_two_classes
from unitprobe.metrics.ranking import ranking_measure_by_class
from unitprobe.typing import Array


def roc_auc(responses: Array, labels: Array) -> Array:
    """Area under the ROC curve of each unit for its best class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), 0.5 (the order of responses says nothing of the class) to 1 (every response to
        the class is above all others), the largest over classes; below 0.5 never, as the classes
        around 0.5 balance out. 0.5 for a unit that responds alike to every stimulus; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    roc_auc_by_class : The value of each class.

    Notes
    -----
    The chance that a stimulus of the class has a higher response than one of another class, equal
    ones counting half: (R - n (n + 1) / 2) / (n (N - n)), with R the sum of the ascending ranks of
    the n stimuli of the class, ties at their mean, among N stimuli. Mann & Whitney (1947); Hanley
    & McNeil, "The meaning and use of the area under a ROC curve" (1982).

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> roc_auc(responses, np.array([0, 1, 0, 1]))
    array([0.75, 0.5 ])
    """
    require_two_classes(labels, "roc_auc")
    return best_over_classes(roc_auc_by_class(responses, labels))


def roc_auc_by_class(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Area under the ROC curve of each unit for each class against the rest.

    Parameters
    ----------
    responses, labels
        As `roc_auc`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `roc_auc`, and below 0.5 for a class whose responses are lower. NaN
        in the row of a class without stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError
        As `roc_auc`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> roc_auc_by_class(np.array([[3.0], [2.0], [1.0], [0.0]]), np.array([0, 1, 0, 1])).T
    array([[0.75, 0.25]])
    """
    return ranking_measure_by_class("roc_auc", responses, labels, class_count)


def roc_auc_from_mean_ranks(mean_ranks: Array, counts: Array) -> Array:
    """`roc_auc_by_class` from the mean rank of the stimuli of each class.

    Parameters
    ----------
    mean_ranks : array
        (..., class_name, unit), with any dimensions before, such as resamples: the class means of
        ascending ranks, ties at their mean, such as those in `RankedResponses.mid_ranks`. NaN for
        a class without stimuli.
    counts : array
        (class_name,) or (..., class_name), the number of stimuli of each class.

    Returns
    -------
    array
        (..., class_name, unit), as `roc_auc_by_class`.

    Raises
    ------
    ResponseError
        The mean ranks have fewer than two dimensions.

    Examples
    --------
    >>> roc_auc_from_mean_ranks([[3.0], [2.0]], [2, 2])
    array([[0.75],
           [0.25]])
    """
    mean_ranks = widen(as_array(mean_ranks))
    if mean_ranks.ndim < 2:
        raise ResponseError(
            f"mean ranks must be (..., class_name, unit), got shape {tuple(mean_ranks.shape)}"
        )
    xp = array_namespace(mean_ranks)
    counts = xp.asarray(counts, dtype=mean_ranks.dtype, device=device(mean_ranks))[..., None]
    rest = xp.sum(counts, axis=-2, keepdims=True) - counts
    auc = divide(mean_ranks - (counts + 1.0) / 2.0, rest)
    return xp.where(counts > 0, auc, xp.nan)


def max_informedness(responses: Array, labels: Array) -> Array:
    """Largest informedness of each unit, over thresholds and classes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), 0 (no threshold is better than chance) to 1 (a threshold parts the class from all
        others). 0 for a unit that responds alike to every stimulus; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    max_informedness_by_class : The value of each class.

    Notes
    -----
    max_t TPR(t) - FPR(t), which is sensitivity + specificity - 1, with a stimulus predicted to be
    of the class if its response is at least t, TPR the share of the stimuli of the class and FPR
    that of all *other* stimuli, not of all stimuli, which are: Youden (1950); Powers (2003); Gale,
    Martin, Blything, Nguyen & Bowers (arXiv:2007.01062).

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_informedness(responses, np.array([0, 1, 0, 1]))
    array([0.5, 0. ])
    """
    require_two_classes(labels, "max_informedness")
    return best_over_classes(max_informedness_by_class(responses, labels))


def max_informedness_by_class(
    responses: Array, labels: Array, class_count: int | None = None
) -> Array:
    """Largest informedness of each unit over thresholds, for each class against the rest.

    Parameters
    ----------
    responses, labels
        As `max_informedness`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `max_informedness`. NaN in the row of a class without
        stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError
        As `max_informedness`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> max_informedness_by_class(np.array([[3.0], [2.0], [1.0], [0.0]]), np.array([0, 1, 0, 1])).T
    array([[0.5, 0. ]])
    """
    return ranking_measure_by_class("max_informedness", responses, labels, class_count)


def max_informedness_threshold(responses: Array, labels: Array) -> Array:
    """Threshold at which each unit is most informed of its best class.

    Parameters
    ----------
    responses, labels
        As `max_informedness`.

    Returns
    -------
    array
        (unit,), one of the unit's responses: a response of at least this predicts the class of the
        largest `max_informedness_by_class`, the lowest of those that tie. The highest of the
        thresholds that tie. NaN where `max_informedness` is 0.

    Raises
    ------
    ResponseError, LabelError
        As `max_informedness`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_informedness_threshold(responses, np.array([1, 1, 0, 0]))
    array([ 2., nan])
    """
    require_two_classes(labels, "max_informedness_threshold")
    best = best_class(max_informedness_by_class(responses, labels))
    thresholds = max_informedness_threshold_by_class(responses, labels)
    xp = array_namespace(thresholds)
    return xp.take_along_axis(thresholds, xp.clip(best, min=0)[None, :], axis=0)[0, :]


def max_informedness_threshold_by_class(
    responses: Array, labels: Array, class_count: int | None = None
) -> Array:
    """Threshold at which each unit is most informed of each class.

    Parameters
    ----------
    responses, labels
        As `max_informedness`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), one of the unit's responses, the highest of those that tie. NaN where
        `max_informedness_by_class` is 0 or NaN.

    Raises
    ------
    ResponseError, LabelError
        As `max_informedness`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0], [2.0], [1.0], [0.0]])
    >>> max_informedness_threshold_by_class(responses, np.array([1, 0, 1, 0])).T
    array([[nan,  3.]])
    """
    return ranking_measure_by_class("max_informedness_threshold", responses, labels, class_count)
