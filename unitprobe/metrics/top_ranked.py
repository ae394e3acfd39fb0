"""The top of the ranking: which class the stimuli that drive a unit most are of."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from unitprobe.metrics.classes import best_over_classes, require_two_classes
from unitprobe.metrics.ranking import ranking_measure_by_class
from unitprobe.metrics.tuning import class_counts
from unitprobe.typing import Array


def top_class_selectivity(responses: Array, labels: Array, *, normalize: bool = False) -> Array:
    """Length of the run of stimuli of one class at the top of each unit's ranking.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.
    normalize : bool
        Whether to divide by the number of stimuli of the class.

    Returns
    -------
    array
        (unit,), 0 to the number of stimuli of the class, or, normalized, 0 to 1. 0 where stimuli of
        several classes share the highest response, and so for a unit that responds alike to every
        stimulus; never NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    top_class_selectivity_by_class : The value of each class.

    Notes
    -----
    The length of the run of stimuli of one class from the highest response on: Gale, Martin,
    Blything, Nguyen & Bowers (arXiv:2007.01062). Equal responses belong to the run only if all of
    them are of the class, which makes it the number of stimuli of the class whose response is above
    every response to another class.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[5.0, 1.0], [4.0, 1.0], [3.0, 0.0], [2.0, 0.0]])
    >>> top_class_selectivity(responses, np.array([1, 1, 0, 1]))
    array([2., 2.])
    >>> top_class_selectivity(responses, np.array([1, 0, 1, 1]))
    array([1., 0.])
    """
    require_two_classes(labels, "top_class_selectivity")
    return best_over_classes(top_class_selectivity_by_class(responses, labels, normalize=normalize))


def top_class_selectivity_by_class(
    responses: Array, labels: Array, class_count: int | None = None, *, normalize: bool = False
) -> Array:
    """Length of the run of stimuli of each class at the top of each unit's ranking.

    Parameters
    ----------
    responses, labels, normalize
        As `top_class_selectivity`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `top_class_selectivity`. NaN in the row of a class without
        stimuli, or with all of them.
        One class at most has a run.

    Raises
    ------
    ResponseError, LabelError
        As `top_class_selectivity`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.array([[5.0], [4.0], [3.0], [2.0]]), np.array([1, 1, 0, 1])
    >>> top_class_selectivity_by_class(responses, labels, normalize=True).T
    array([[0.        , 0.66666667]])
    """
    run = ranking_measure_by_class("top_class_selectivity", responses, labels, class_count)
    if not normalize:
        return run
    xp = array_namespace(run)
    counts = class_counts(labels, run.shape[0])
    # An absent class is NaN already.
    counts = xp.asarray(xp.clip(counts, min=1), dtype=run.dtype, device=device(run))
    return run / counts[:, None]


def precision_at_k(responses: Array, labels: Array, *, k: int = 60) -> Array:
    """Share of the most frequent class among the `k` stimuli that drive each unit most.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.
    k : int
        How many stimuli, 1 to all of them. No class reaches 1 that has fewer.

    Returns
    -------
    array
        (unit,), 1/C to 1 (all `k` are of one class), with C the number of classes. A unit that
        responds alike to every stimulus has the share of the largest class in all stimuli; never
        NaN.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.
    OptionError
        `k` is not between 1 and the number of stimuli.

    See Also
    --------
    precision_at_k_by_class : The value of each class.

    Notes
    -----
    Zhou, Khosla, Lapedriza, Oliva & Torralba, "Object detectors emerge in deep scene CNNs" (ICLR
    2015), with k = 60; Gale, Martin, Blything, Nguyen & Bowers (arXiv:2007.01062), with 60 and 100.
    Of stimuli that share the k-th highest response each counts with the same weight, such that the
    weights add up to k: the precision that is expected if ties are broken at random.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[5.0, 1.0], [4.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
    >>> precision_at_k(responses, np.array([1, 0, 1, 0]), k=2)
    array([0.5       , 0.66666667])
    """
    require_two_classes(labels, "precision_at_k")
    return best_over_classes(precision_at_k_by_class(responses, labels, k=k))


def precision_at_k_by_class(
    responses: Array, labels: Array, class_count: int | None = None, *, k: int = 60
) -> Array:
    """Share of each class among the `k` stimuli that drive each unit most.

    Parameters
    ----------
    responses, labels, k
        As `precision_at_k`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `precision_at_k`. NaN in the row of a class without
        stimuli, or with all of them.
        Over classes the shares add up to 1.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `precision_at_k`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.array([[5.0], [4.0], [3.0], [2.0]]), np.array([1, 0, 1, 0])
    >>> precision_at_k_by_class(responses, labels, k=3).T
    array([[0.33333333, 0.66666667]])
    """
    return ranking_measure_by_class("precision_at_k", responses, labels, class_count, k=k)
