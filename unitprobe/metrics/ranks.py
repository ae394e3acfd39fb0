"""Ranks of the responses of each unit, made once for every measure of ranking and every labelling.

Equal responses, such as the zeros of a rectified unit, are one: no measure may depend on the order
in which they happen to stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import array_api_compat
import numpy as np
from array_api_compat import array_namespace, device

from unitprobe.metrics._arrays import as_responses
from unitprobe.typing import Array

#: How many responses are ranked at a time: what one block needs then stays near 100 MiB.
BLOCK_SIZE = 2**20


@dataclass(frozen=True)
class RankedResponses:
    """Responses in order, and the place of each stimulus in that order.

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
        The responses are no (stimulus, unit) matrix of finite numbers.

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


def unit_rows(responses: Array) -> Iterator[Array]:
    """Yield (unit, stimulus) responses of a few units at a time, each a row of memory to sort."""
    xp = array_namespace(responses)
    stimuli, count = responses.shape
    for units in unit_blocks(count, stimuli):
        flat = xp.reshape(responses[:, units].T, (-1,))
        yield xp.reshape(flat, (-1, stimuli))


def unit_blocks(units: int, stimuli: int) -> Iterator[slice]:
    """Yield slices of the units, each of at most `BLOCK_SIZE` responses, or of one unit."""
    step = max(1, BLOCK_SIZE // stimuli)
    for start in range(0, units, step):
        yield slice(start, start + step)


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
    """Return for each value of (row, place) sorted values the last place, from 1, of its equals."""
    xp = array_namespace(ordered)
    rows, places = ordered.shape
    place = xp.arange(1, places + 1, dtype=xp.int32, device=device(ordered))[None, :]
    end = xp.ones((rows, 1), dtype=xp.bool, device=device(ordered))
    is_last = xp.concat([ordered[:, 1:] != ordered[:, :-1], end], axis=1)
    backwards = xp.flip(xp.where(is_last, place, places), axis=1)
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
