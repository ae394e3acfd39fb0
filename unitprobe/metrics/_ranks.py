"""Ranks of the responses of each unit, sorted once for all measures of ranking and all labellings.

Equal responses, such as the zeros of a rectified unit, share their ranks: no measure may depend on
the order in which they happen to stand.

The stimuli of a class are ordered among themselves. For the j-th of them, let r be the number of
responses to any stimulus that are at least as high. A threshold at this response has j hits and
r - j false alarms, and every measure of ranking is a function of these pairs. One labelling so
costs one sort of the members of each class, and shuffled labels share the sort of the responses.

Where the j-th ties with later members of its class, its true number of hits is that of the last of
them. A maximum over thresholds may ignore this, because with r fixed each measure grows with j. A
sum over thresholds may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import array_api_compat
import numpy as np
from array_api_compat import array_namespace, device

from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import as_labels, as_responses, unit_blocks, unit_rows
from unitprobe.metrics.classes import as_labelled
from unitprobe.metrics.tuning import class_counts
from unitprobe.typing import Array


@dataclass(frozen=True)
class RankedResponses:
    """Responses in order, and the rank of each stimulus in that order.

    Every field is (unit, stimulus): a unit's responses lie beside one another.

    Attributes
    ----------
    ordered : array
        The responses of each unit from the highest to the lowest.
    first_rank, last_rank : array
        For each stimulus, integers 1..N: the ranks that its response and those equal to it take
        in that order. `first_rank` - 1 responses are higher, `last_rank` at least as high.
    """

    ordered: Array
    first_rank: Array
    last_rank: Array

    @property
    def mid_ranks(self) -> Array:
        """Ascending ranks, (stimulus, unit), ties at their mean: `scipy.stats.rankdata`."""
        xp = array_namespace(self.first_rank)
        doubled = 2 * (self.ordered.shape[1] + 1) - (self.first_rank + self.last_rank)
        return xp.astype(doubled, self.ordered.dtype).T / 2.0

    def blocks(self) -> Iterator[RankedResponses]:
        """Yield the same of a few units at a time."""
        for units in unit_blocks(*self.ordered.shape):
            yield RankedResponses(
                self.ordered[units, :], self.first_rank[units, :], self.last_rank[units, :]
            )


def rank_responses(responses: Array) -> RankedResponses:
    """Rank the responses of each unit.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    RankedResponses
        It takes 16 bytes for each response.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> ranked = rank_responses(np.array([[0.0], [5.0], [0.0], [2.0]]))
    >>> ranked.first_rank, ranked.last_rank
    (array([[3, 1, 3, 2]], dtype=int32), array([[4, 1, 4, 2]], dtype=int32))
    >>> ranked.mid_ranks.T
    array([[1.5, 4. , 1.5, 3. ]])
    """
    blocks = list(ranked_blocks(as_responses(responses)))
    if len(blocks) == 1:
        return blocks[0]
    xp = array_namespace(blocks[0].ordered)
    return RankedResponses(
        ordered=xp.concat([block.ordered for block in blocks]),
        first_rank=xp.concat([block.first_rank for block in blocks]),
        last_rank=xp.concat([block.last_rank for block in blocks]),
    )


def ranked_blocks(responses: Array) -> Iterator[RankedResponses]:
    """Yield `rank_responses` of a few units at a time, of responses that are trusted."""
    for rows in unit_rows(responses):
        yield _rank(rows)


def _rank(responses: Array) -> RankedResponses:
    """Rank (unit, stimulus) responses."""
    xp = array_namespace(responses)
    stimuli = responses.shape[1]
    order = xp.argsort(-responses, axis=1, stable=False)
    ordered = xp.take_along_axis(responses, order, axis=1)

    last = last_of_ties(ordered)
    # In the opposite order the first of equals is the last.
    first = stimuli + 1 - xp.flip(last_of_ties(xp.flip(ordered, axis=1)), axis=1)
    return RankedResponses(ordered, _put_back(first, order), _put_back(last, order))


def last_of_ties(ordered: Array) -> Array:
    """Return for each of (row, rank) sorted values the last rank, from 1, of its equals."""
    xp = array_namespace(ordered)
    rows, count = ordered.shape
    rank = xp.arange(1, count + 1, dtype=xp.int32, device=device(ordered))[None, :]
    end = xp.ones((rows, 1), dtype=xp.bool, device=device(ordered))
    is_last = xp.concat([ordered[:, 1:] != ordered[:, :-1], end], axis=1)
    backwards = xp.flip(xp.where(is_last, rank, count), axis=1)
    if array_api_compat.is_torch_array(backwards):
        return xp.flip(backwards.cummin(dim=1).values, axis=1)
    return np.flip(np.minimum.accumulate(backwards, axis=1), axis=1)


def _put_back(ranks: Array, order: Array) -> Array:
    """Return (unit, stimulus) ranks, which stand in the order of the responses, by stimulus."""
    by_stimulus = array_namespace(ranks).empty_like(ranks)
    if array_api_compat.is_torch_array(ranks):
        return by_stimulus.scatter_(1, order, ranks)
    np.put_along_axis(by_stimulus, order, ranks, axis=1)
    return by_stimulus


@dataclass(frozen=True)
class RankedClass:
    """The stimuli of one class in the order of each unit, and what a threshold at each gives."""

    ranked: RankedResponses
    members: Array
    # Shared by the classes of one block of units: it does not depend on the class.
    _ties: dict[int, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def stimuli(self) -> int:
        """The number of stimuli of all classes."""
        return int(self.ranked.ordered.shape[1])

    @property
    def count(self) -> int:
        """The number of stimuli of the class."""
        return int(self.members.shape[0])

    @property
    def rest(self) -> int:
        """The number of stimuli of all other classes."""
        return self.stimuli - self.count

    @cached_property
    def predicted(self) -> Array:
        """(unit, member) how many responses are at least as high as that of each member, r."""
        xp = array_namespace(self.members)
        return xp.sort(xp.take(self.ranked.last_rank, self.members, axis=1), axis=1, stable=False)

    @cached_property
    def hits(self) -> Array:
        """(1, member) the position of each member in its class, j."""
        xp = array_namespace(self.members)
        return xp.arange(1, self.count + 1, device=device(self.members))[None, :]

    @cached_property
    def precision(self) -> Array:
        """(unit, member) the share of hits, j / r."""
        return self.hits / self.real(self.predicted)

    @cached_property
    def informedness(self) -> Array:
        """(unit, member) informedness times the counts of class and rest, in integers: exact."""
        xp = array_namespace(self.members)
        return self.hits * self.stimuli - xp.astype(self.predicted, xp.int64) * self.count

    def real(self, integers: Array) -> Array:
        """Return integers as numbers that divide in full precision."""
        return array_namespace(integers).astype(integers, self.ranked.ordered.dtype)

    def hits_within(self, rank: Array) -> Array:
        """Count the stimuli of the class within the highest (unit,) ranks."""
        xp = array_namespace(self.members)
        return xp.sum(xp.astype(self.predicted <= rank[:, None], xp.int64), axis=1)

    def response(self, rank: Array) -> Array:
        """Return the response of each unit at a (unit,) rank."""
        xp = array_namespace(self.members)
        column = xp.astype(rank - 1, xp.int64)[:, None]
        return xp.take_along_axis(self.ranked.ordered, column, axis=1)[:, 0]

    def tie_at(self, k: int) -> tuple[Array, Array]:
        """Return the first and the last rank (unit,) of the responses that equal the one at k.

        Raises
        ------
        OptionError
            `k` is not between 1 and the number of stimuli.
        """
        check_k(k, self.stimuli)
        if k not in self._ties:
            ordered = self.ranked.ordered
            xp = array_namespace(ordered)
            at_k = ordered[:, k - 1 : k]
            higher, as_high = xp.sum(ordered > at_k, axis=1), xp.sum(ordered >= at_k, axis=1)
            self._ties[k] = higher + 1, as_high
        return self._ties[k]


#: A measure of ranking of one class: the value of each unit, (unit,).
Formula: TypeAlias = Callable[[RankedClass], Array]


def ranking_measures(
    ranked: RankedResponses,
    labels: Array,
    formulas: Mapping[str, Formula],
    class_count: int | None = None,
) -> dict[str, Array]:
    """Return several measures of ranking, (class_name, unit) each, under one labelling.

    Parameters
    ----------
    ranked : RankedResponses
        `rank_responses` of the responses, made once for any number of labellings.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    formulas : mapping
        The formula of each measure, by name.
    class_count : int, optional
        The number of classes C; by default the highest label and one.

    Returns
    -------
    dict of str to array
        (class_name, unit) for each name; NaN in the row of a class without stimuli, or with all of
        them.

    Raises
    ------
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    """
    labels = as_labels(labels, class_count, ranked.first_rank.T)
    if class_count is None:
        class_count = int(array_namespace(labels).max(labels)) + 1
    return _measure(ranked.blocks(), labels, formulas, class_count)


def ranking_measure(
    formula: Formula, responses: Array, labels: Array, class_count: int | None
) -> Array:
    """Return one measure, as `ranking_measures`, without the ranks of all units in memory."""
    responses, labels, class_count = as_labelled(responses, labels, class_count)
    return _measure(ranked_blocks(responses), labels, {"": formula}, class_count)[""]


def _measure(
    blocks: Iterable[RankedResponses],
    labels: Array,
    formulas: Mapping[str, Formula],
    class_count: int,
) -> dict[str, Array]:
    members = _members(labels, class_count)
    parts: dict[str, list[Array]] = {name: [] for name in formulas}
    for block in blocks:
        xp = array_namespace(block.ordered)
        rows: dict[str, list[Array]] = {name: [] for name in formulas}
        undefined = block.ordered[:, 0] * xp.nan
        ties: dict[int, tuple[Array, Array]] = {}
        for of in (RankedClass(block, some, ties) for some in members):
            defined = 0 < of.count < of.stimuli
            for name, formula in formulas.items():
                rows[name].append(formula(of) if defined else undefined)
        for name, row in rows.items():
            parts[name].append(xp.stack(row))
    return {name: xp.concat(part, axis=1) for name, part in parts.items()}


def _members(labels: Array, class_count: int) -> list[Array]:
    """Return the indices of the stimuli of each class."""
    by_class = array_namespace(labels).argsort(labels, stable=True)
    start, members = 0, []
    for count in class_counts(labels, class_count):
        members.append(by_class[start : start + int(count)])
        start += int(count)
    return members


def check_k(k: int, stimuli: int) -> None:
    """Refuse a number of highest responses that is not between 1 and the number of stimuli.

    Raises
    ------
    OptionError
        It is not.
    """
    if not 1 <= k <= stimuli:
        raise OptionError(f"k={k} is not between 1 and the {stimuli} stimuli")
