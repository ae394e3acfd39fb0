"""All measures of ranking at once, of every class, from one sort of the responses.

The stimuli of a class are ordered among themselves. Of the j-th of them, with r responses to any
stimulus at least as high, a threshold at its response has j hits and r - j false alarms; every
measure is a function of these pairs. So a labelling costs one sort of what belongs to each class,
the same for 2 classes as for 1,000, and shuffled labels share the sort of the responses.

Where the j-th ties with stimuli of its class that follow it, its true number of hits is that of the
last of them. A largest value over thresholds need not look at this, because with r fixed each
measure here grows with j; a sum over them must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from array_api_compat import array_namespace, device

from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import as_labels
from unitprobe.metrics.classes import as_labelled
from unitprobe.metrics.localist import localist_selectivity_from_extremes
from unitprobe.metrics.ranks import RankedResponses, last_of_ties, ranked_blocks
from unitprobe.metrics.tuning import class_counts
from unitprobe.typing import Array

#: What `ranking_measures` computes.
RankingMeasure = Literal[
    "average_precision",
    "localist_selectivity",
    "max_f1",
    "max_informedness",
    "max_informedness_threshold",
    "precision_at_k",
    "recall_at_precision",
    "roc_auc",
    "top_class_selectivity",
]


def ranking_measures(
    ranked: RankedResponses,
    labels: Array,
    names: Sequence[RankingMeasure],
    class_count: int | None = None,
    *,
    k: int = 60,
    precision: float = 0.95,
) -> dict[str, Array]:
    """Several measures of ranking, of every unit and class, under one labelling.

    Parameters
    ----------
    ranked : RankedResponses
        `rank_responses` of the responses, made once for any number of labellings.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    names : sequence of str
        The measures, of `RankingMeasure`: the functions of these names, in their raw form.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.
    k : int
        As `precision_at_k`.
    precision : float
        As `recall_at_precision`.

    Returns
    -------
    dict of str to array
        (class_name, unit) for each name; NaN in the row of a class without stimuli, or with all of
        them. `best_over_classes` makes the value of the unit of it.

    Raises
    ------
    LabelError
        The labels are no integers 0..C-1, one for each stimulus.
    OptionError
        A name is not known, `k` is not between 1 and the number of stimuli, or `precision` is not
        above 0 and at most 1.

    Notes
    -----
    Computed for `unitprobe.metrics.ranks.BLOCK_SIZE` responses at a time, which needs about
    100 MiB beside its arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from unitprobe.metrics import rank_responses
    >>> ranked = rank_responses(np.array([[3.0], [2.0], [1.0], [0.0]]))
    >>> for labels in (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])):
    ...     print(ranking_measures(ranked, labels, ["roc_auc"])["roc_auc"].T)
    [[1. 0.]]
    [[0.75 0.25]]
    """
    labels = as_labels(labels, class_count, ranked.first_rank.T)
    if class_count is None:
        class_count = int(array_namespace(labels).max(labels)) + 1
    return _measure(ranked.blocks(), labels, names, class_count, k, precision)


def ranking_measure_by_class(
    name: RankingMeasure,
    responses: Array,
    labels: Array,
    class_count: int | None = None,
    *,
    k: int = 1,
    precision: float = 0.95,
) -> Array:
    """Return one of `ranking_measures` without ranks of all units in memory at once."""
    responses, labels, class_count = as_labelled(responses, labels, class_count)
    blocks = ranked_blocks(responses)
    return _measure(blocks, labels, [name], class_count, k, precision)[name]


@dataclass(frozen=True)
class _Tie:
    """The responses of each unit that equal the one at rank k."""

    ranked: RankedResponses
    k: int

    @cached_property
    def ends(self) -> tuple[Array, Array]:
        """(unit,) the first and the last rank of them."""
        ordered = self.ranked.ordered
        xp = array_namespace(ordered)
        at_k = ordered[:, self.k - 1 : self.k]
        higher, as_high = xp.sum(ordered > at_k, axis=1), xp.sum(ordered >= at_k, axis=1)
        return higher + 1, as_high


@dataclass(frozen=True)
class _RankedClass:
    """The stimuli of one class in the order of each unit, and what a threshold at each gives."""

    ranked: RankedResponses
    members: Array
    tie: _Tie
    precision_wanted: float

    @property
    def stimuli(self) -> int:
        return int(self.ranked.ordered.shape[1])

    @property
    def count(self) -> int:
        return int(self.members.shape[0])

    @property
    def rest(self) -> int:
        return self.stimuli - self.count

    @cached_property
    def predicted(self) -> Array:
        """(unit, place) how many responses are at least as high as that of each stimulus, r."""
        xp = array_namespace(self.members)
        return xp.sort(xp.take(self.ranked.last_rank, self.members, axis=1), axis=1, stable=False)

    @cached_property
    def place(self) -> Array:
        """(1, place) the place of each stimulus in its class, j."""
        xp = array_namespace(self.members)
        return xp.arange(1, self.count + 1, device=device(self.members))[None, :]

    @cached_property
    def precision(self) -> Array:
        """(unit, place) the share of hits, j / r."""
        return self.place / self.real(self.predicted)

    @cached_property
    def informedness(self) -> Array:
        """(unit, place) informedness times the counts of class and rest, in integers: exact."""
        xp = array_namespace(self.members)
        return self.place * self.stimuli - xp.astype(self.predicted, xp.int64) * self.count

    def real(self, integers: Array) -> Array:
        """Return integers as numbers that divide in full precision."""
        return array_namespace(integers).astype(integers, self.ranked.ordered.dtype)

    def hits(self, rank: Array) -> Array:
        """Count the stimuli of the class within the highest (unit,) ranks."""
        xp = array_namespace(self.members)
        return xp.sum(xp.astype(self.predicted <= rank[:, None], xp.int64), axis=1)

    def response(self, rank: Array) -> Array:
        """Return the response of each unit at a (unit,) rank."""
        xp = array_namespace(self.members)
        place = xp.astype(rank - 1, xp.int64)[:, None]
        return xp.take_along_axis(self.ranked.ordered, place, axis=1)[:, 0]


def _roc_auc(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    ranks = (of.ranked.first_rank, of.ranked.last_rank)
    doubled = sum(xp.sum(xp.take(r, of.members, axis=1), axis=1, dtype=xp.int64) for r in ranks)
    # Of all pairs of one of the class and one of the rest, twice those in the right order.
    pairs = of.count * (2 * of.stimuli - of.count + 1) - doubled
    return of.real(pairs) / (2 * of.count * of.rest)


def _average_precision(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    return xp.mean(of.real(last_of_ties(of.predicted)) / of.predicted, axis=1)


def _max_informedness(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    best = xp.clip(xp.max(of.informedness, axis=1), min=0)
    return of.real(best) / (of.count * of.rest)


def _max_informedness_threshold(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    place = xp.argmax(of.informedness, axis=1)[:, None]
    threshold = of.response(xp.take_along_axis(of.predicted, place, axis=1)[:, 0])
    return xp.where(xp.max(of.informedness, axis=1) > 0, threshold, xp.nan)


def _max_f1(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    return xp.max(2 * of.place / of.real(of.count + of.predicted), axis=1)


def _recall_at_precision(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    hits = xp.max(xp.where(of.precision >= of.precision_wanted, of.place, 0), axis=1)
    return of.real(hits) / of.count


def _top_class_selectivity(of: _RankedClass) -> Array:
    xp = array_namespace(of.members)
    run = xp.max(xp.where(of.predicted == of.place, of.place, 0), axis=1)
    return of.real(run)


def _precision_at_k(of: _RankedClass) -> Array:
    start, end = of.tie.ends
    above, up_to = of.hits(start - 1), of.hits(end)
    weight = of.real(of.tie.k - start + 1) / (end - start + 1)
    return (above + (up_to - above) * weight) / of.tie.k


def _highest(of: _RankedClass) -> Array:
    return of.response(of.predicted[:, 0])


def _lowest(of: _RankedClass) -> Array:
    return of.response(of.predicted[:, -1])


_FORMULAS: dict[str, Callable[[_RankedClass], Array]] = {
    "average_precision": _average_precision,
    "max_f1": _max_f1,
    "max_informedness": _max_informedness,
    "max_informedness_threshold": _max_informedness_threshold,
    "precision_at_k": _precision_at_k,
    "recall_at_precision": _recall_at_precision,
    "roc_auc": _roc_auc,
    "top_class_selectivity": _top_class_selectivity,
    "lowest": _lowest,
    "highest": _highest,
}


def _measure(
    blocks: Iterable[RankedResponses],
    labels: Array,
    names: Sequence[RankingMeasure],
    class_count: int,
    k: int,
    precision: float,
) -> dict[str, Array]:
    _check_options(names, labels.shape[0], k, precision)
    localist = "localist_selectivity" in names
    formulas: list[str] = [name for name in names if name != "localist_selectivity"]
    formulas += ["lowest", "highest"] if localist else []
    members = _members(labels, class_count)
    parts: dict[str, list[Array]] = {name: [] for name in formulas}
    for block in blocks:
        xp = array_namespace(block.ordered)
        rows: dict[str, list[Array]] = {name: [] for name in formulas}
        nothing = block.ordered[:, 0] * xp.nan
        tie = _Tie(block, k)
        for of in (_RankedClass(block, some, tie, precision) for some in members):
            defined = 0 < of.count < of.stimuli
            for name, row in rows.items():
                row.append(_FORMULAS[name](of) if defined else nothing)
        for name, row in rows.items():
            parts[name].append(xp.stack(row))
    results = {name: xp.concat(part, axis=1) for name, part in parts.items()}
    if localist:
        lowest, highest = results.pop("lowest"), results.pop("highest")
        results["localist_selectivity"] = localist_selectivity_from_extremes(lowest, highest)
    return results


def _members(labels: Array, class_count: int) -> list[Array]:
    """Return the indices of the stimuli of each class."""
    by_class = array_namespace(labels).argsort(labels, stable=True)
    start, members = 0, []
    for count in class_counts(labels, class_count):
        members.append(by_class[start : start + int(count)])
        start += int(count)
    return members


def _check_options(names: Sequence[Any], stimuli: int, k: int, precision: float) -> None:
    for name in names:
        if name not in get_args(RankingMeasure):
            known = ", ".join(get_args(RankingMeasure))
            raise OptionError(f"ranking measure {name!r} is not known; choose of {known}")
    if "precision_at_k" in names and not 1 <= k <= stimuli:
        raise OptionError(f"k={k} is not between 1 and the {stimuli} stimuli")
    if not 0 < precision <= 1:
        raise OptionError(f"precision={precision} is not above 0 and at most 1, such as 0.95")
