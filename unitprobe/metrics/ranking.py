"""Measures of ranking: how well the responses of a unit order the stimuli of one class first.

Only the order of the responses matters, so any increasing function of them leaves every measure as
it is. Equal responses count as one, because no threshold lies between them. A is a class of n
stimuli among N; a threshold t predicts class A for every stimulus with a response of at least t.

- `roc_auc`: the chance that a stimulus of A has a higher response than another one, ties counting
  half. Mann & Whitney (1947); Hanley & McNeil (1982).
- `max_informedness`: max_t TPR(t) - FPR(t). Youden (1950); Powers (2003); Gale et al. (2020).
- `average_precision`: sum_t (recall(t) - recall(t - 1)) precision(t), without interpolation.
- `max_f1`: max_t 2 precision(t) recall(t) / (precision(t) + recall(t)). van Rijsbergen (1979).
- `recall_at_precision`: the largest recall at a precision of at least 0.95.
- `precision_at_k`: the share of A among the k = 60 highest responses. Zhou et al. (2015).
- `top_class_selectivity`: the length of the run of A at the top. Gale et al. (2020).

The best of several classes is biased upwards: every measure here needs its permutation null. All
but `roc_auc` and `max_informedness` depend on how frequent a class is, so they do not compare
between classes of different size. Gale et al. is "Are there any 'object detectors' in the hidden
layers of CNNs trained to identify objects or scenes?" (arXiv:2007.01062).

The parameters that all functions share are described in `unitprobe.metrics`.
"""

from __future__ import annotations

from functools import partial

from array_api_compat import array_namespace, device

from unitprobe.errors import OptionError, ResponseError
from unitprobe.metrics._arrays import as_array, divide, widen
from unitprobe.metrics._ranks import RankedClass, check_k, last_of_ties, ranking_measure
from unitprobe.metrics.classes import (
    Reduction,
    as_labelled,
    best_class,
    check_reduction,
    reduce_classes,
)
from unitprobe.metrics.tuning import class_counts
from unitprobe.typing import Array

#: The default of `precision_at_k`: how many of the highest responses.
K = 60
#: The default of `recall_at_precision`: the share of hits.
PRECISION = 0.95


def roc_auc(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Area under the ROC curve of each unit for its best class, or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), 0.5 (the order of responses says nothing of the class) to 1 (every response to
        the class is above all others); 0.5 for a unit that responds alike to every stimulus; never
        NaN. With ``reduce=None`` (class_name, unit), below 0.5 for a class with lower responses.

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    (R - n (n + 1) / 2) / (n (N - n)), with R the sum of the ascending ranks of the n stimuli of the
    class, ties at their mean. The best of all classes is never below 0.5, because the classes
    balance out around it.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> roc_auc(responses, np.array([0, 1, 0, 1]))
    array([0.75, 0.5 ])
    >>> roc_auc(responses, np.array([0, 1, 0, 1]), reduce=None)
    array([[0.75, 0.5 ],
           [0.25, 0.5 ]])
    """
    check_reduction(reduce, labels, "roc_auc")
    return reduce_classes(ranking_measure(roc_auc_of, responses, labels, class_count), reduce)


def max_informedness(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Largest informedness of each unit over thresholds, for its best class or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), 0 (no threshold is better than chance) to 1 (a threshold separates the class from
        all others); 0 for a unit that responds alike to every stimulus; never NaN. With
        ``reduce=None`` (class_name, unit).

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    max_t TPR(t) - FPR(t), which is sensitivity + specificity - 1. TPR is the share of the stimuli
    of the class with a response of at least t, FPR that of all *other* stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_informedness(responses, np.array([0, 1, 0, 1]))
    array([0.5, 0. ])
    """
    check_reduction(reduce, labels, "max_informedness")
    by_class = ranking_measure(max_informedness_of, responses, labels, class_count)
    return reduce_classes(by_class, reduce)


def max_informedness_threshold(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Threshold at which each unit is most informed of its best class, or of every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. The best class is that of `max_informedness`, the first of those
        that tie.

    Returns
    -------
    array
        (unit,), one of the unit's responses: a response of at least this predicts the class. It is
        the highest of the thresholds that tie. NaN where `max_informedness` is 0. With
        ``reduce=None`` (class_name, unit).

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_informedness_threshold(responses, np.array([1, 1, 0, 0]))
    array([ 2., nan])
    """
    check_reduction(reduce, labels, "max_informedness_threshold")
    thresholds = ranking_measure(max_informedness_threshold_of, responses, labels, class_count)
    if reduce is None:
        return thresholds
    by_class = max_informedness(responses, labels, class_count=class_count, reduce=None)
    xp = array_namespace(thresholds)
    best = xp.clip(best_class(by_class), min=0)
    return xp.take_along_axis(thresholds, best[None, :], axis=0)[0, :]


def average_precision(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Average precision of each unit for its best class, or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), above 0 to 1 (every response to the class is above all others). A unit that
        responds alike to every stimulus has the share of the stimuli that are of the largest class;
        never NaN. With ``reduce=None`` (class_name, unit).

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    sum_t (recall(t) - recall(t - 1)) precision(t) over the distinct responses t from the highest:
    as `sklearn.metrics.average_precision_score`. The best of unbalanced classes is often the
    largest.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> average_precision(responses, np.array([0, 1, 0, 1]))
    array([0.83333333, 0.5       ])
    """
    check_reduction(reduce, labels, "average_precision")
    by_class = ranking_measure(average_precision_of, responses, labels, class_count)
    return reduce_classes(by_class, reduce)


def max_f1(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Largest F1 score of each unit over thresholds, for its best class or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), above 0 to 1 (a threshold separates the class from all others). A unit that
        responds alike to every stimulus has 2 p / (1 + p), with p the share of the largest class,
        and none has less; never NaN. With ``reduce=None`` (class_name, unit).

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> max_f1(responses, np.array([0, 1, 0, 1]))
    array([0.8       , 0.66666667])
    """
    check_reduction(reduce, labels, "max_f1")
    return reduce_classes(ranking_measure(max_f1_of, responses, labels, class_count), reduce)


def recall_at_precision(
    responses: Array,
    labels: Array,
    *,
    precision: float = PRECISION,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Largest recall of each unit at a precision, for its best class or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.
    precision : float
        The share of hits among the stimuli at or above the threshold, above 0 and at most 1.

    Returns
    -------
    array
        (unit,), 0 (no threshold is so precise) to 1 (a threshold finds all of the class so
        precisely). 0 for a unit that responds alike to every stimulus, unless a class is that
        frequent; never NaN. With ``reduce=None`` (class_name, unit).

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.
    OptionError
        The precision is not above 0 and at most 1, or `reduce` is unknown.

    Notes
    -----
    A point of the curve of `sklearn.metrics.precision_recall_curve`.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> recall_at_precision(responses, np.array([0, 1, 0, 1]))
    array([0.5, 0. ])
    """
    check_reduction(reduce, labels, "recall_at_precision")
    if not 0 < precision <= 1:
        raise OptionError(f"precision={precision} is not above 0 and at most 1, such as 0.95")
    formula = partial(recall_at_precision_of, precision=precision)
    return reduce_classes(ranking_measure(formula, responses, labels, class_count), reduce)


def precision_at_k(
    responses: Array,
    labels: Array,
    *,
    k: int = K,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Share of the best class, or of every class, among the `k` highest responses of each unit.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.
    k : int
        How many stimuli, 1 to all of them. No class with fewer reaches 1.

    Returns
    -------
    array
        (unit,), 1/C to 1 (all `k` are of one class), with C the number of classes. A unit that
        responds alike to every stimulus has the share of the largest class; never NaN. With
        ``reduce=None`` (class_name, unit), which adds up to 1 over classes.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.
    OptionError
        `k` is not between 1 and the number of stimuli, or `reduce` is unknown.

    Notes
    -----
    Zhou, Khosla, Lapedriza, Oliva & Torralba, "Object detectors emerge in deep scene CNNs" (ICLR
    2015), with k = 60; Gale et al. with 60 and 100. Stimuli that share the k-th highest response
    count with equal weights that fill up k: the expected precision if ties are broken at random.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[5.0, 1.0], [4.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
    >>> precision_at_k(responses, np.array([1, 0, 1, 0]), k=2)
    array([0.5       , 0.66666667])
    """
    check_reduction(reduce, labels, "precision_at_k")
    responses, labels, class_count = as_labelled(responses, labels, class_count)
    check_k(k, responses.shape[0])
    formula = partial(precision_at_k_of, k=k)
    return reduce_classes(ranking_measure(formula, responses, labels, class_count), reduce)


def top_class_selectivity(
    responses: Array,
    labels: Array,
    *,
    normalize: bool = False,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Length of the run of stimuli of one class at the top of each unit's ranking.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.
    normalize : bool
        Whether to divide by the number of stimuli of the class.

    Returns
    -------
    array
        (unit,), 0 to the number of stimuli of the class, or, normalized, 0 to 1. 0 where stimuli of
        several classes share the highest response; never NaN. With ``reduce=None``
        (class_name, unit): at most one class has a run.

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    Equal responses belong to the run only if all of them are of the class. So the run is the number
    of stimuli of the class whose response is above every response to another class.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[5.0, 1.0], [4.0, 1.0], [3.0, 0.0], [2.0, 0.0]])
    >>> top_class_selectivity(responses, np.array([1, 1, 0, 1]))
    array([2., 2.])
    >>> top_class_selectivity(responses, np.array([1, 0, 1, 1]))
    array([1., 0.])
    """
    check_reduction(reduce, labels, "top_class_selectivity")
    run = ranking_measure(top_class_selectivity_of, responses, labels, class_count)
    if normalize:
        xp = array_namespace(run)
        counts = class_counts(labels, run.shape[0])
        # An absent class is NaN already.
        counts = xp.asarray(xp.clip(counts, min=1), dtype=run.dtype, device=device(run))
        run = run / counts[:, None]
    return reduce_classes(run, reduce)


def roc_auc_from_mean_ranks(mean_ranks: Array, counts: Array) -> Array:
    """Return `roc_auc` of every class from the mean rank of its stimuli.

    Parameters
    ----------
    mean_ranks : array
        (..., class_name, unit), with any dimensions before, such as resamples: the class means of
        `RankedResponses.mid_ranks`. NaN for a class without stimuli.
    counts : array
        (class_name,) or (..., class_name), the number of stimuli of each class.

    Returns
    -------
    array
        (..., class_name, unit).

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


def roc_auc_of(of: RankedClass) -> Array:
    """Return `roc_auc` of one class, (unit,)."""
    xp = array_namespace(of.members)
    ranks = (of.ranked.first_rank, of.ranked.last_rank)
    doubled = sum(xp.sum(xp.take(r, of.members, axis=1), axis=1, dtype=xp.int64) for r in ranks)
    # Of all pairs of one of the class and one of the rest, twice those in the right order.
    pairs = of.count * (2 * of.stimuli - of.count + 1) - doubled
    return of.real(pairs) / (2 * of.count * of.rest)


def average_precision_of(of: RankedClass) -> Array:
    """Return `average_precision` of one class, (unit,)."""
    xp = array_namespace(of.members)
    return xp.mean(of.real(last_of_ties(of.predicted)) / of.predicted, axis=1)


def max_informedness_of(of: RankedClass) -> Array:
    """Return `max_informedness` of one class, (unit,)."""
    xp = array_namespace(of.members)
    best = xp.clip(xp.max(of.informedness, axis=1), min=0)
    return of.real(best) / (of.count * of.rest)


def max_informedness_threshold_of(of: RankedClass) -> Array:
    """Return `max_informedness_threshold` of one class, (unit,)."""
    xp = array_namespace(of.members)
    member = xp.argmax(of.informedness, axis=1)[:, None]
    threshold = of.response(xp.take_along_axis(of.predicted, member, axis=1)[:, 0])
    return xp.where(xp.max(of.informedness, axis=1) > 0, threshold, xp.nan)


def max_f1_of(of: RankedClass) -> Array:
    """Return `max_f1` of one class, (unit,)."""
    xp = array_namespace(of.members)
    return xp.max(2 * of.hits / of.real(of.count + of.predicted), axis=1)


def recall_at_precision_of(of: RankedClass, precision: float = PRECISION) -> Array:
    """Return `recall_at_precision` of one class, (unit,)."""
    xp = array_namespace(of.members)
    hits = xp.max(xp.where(of.precision >= precision, of.hits, 0), axis=1)
    return of.real(hits) / of.count


def top_class_selectivity_of(of: RankedClass) -> Array:
    """Return `top_class_selectivity` of one class, (unit,)."""
    xp = array_namespace(of.members)
    run = xp.max(xp.where(of.predicted == of.hits, of.hits, 0), axis=1)
    return of.real(run)


def precision_at_k_of(of: RankedClass, k: int = K) -> Array:
    """Return `precision_at_k` of one class, (unit,)."""
    start, end = of.tie_at(k)
    above, up_to = of.hits_within(start - 1), of.hits_within(end)
    weight = of.real(k - start + 1) / (end - start + 1)
    return (above + (up_to - above) * weight) / k
