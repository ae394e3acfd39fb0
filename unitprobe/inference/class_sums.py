"""Sums over many draws of stimuli at once, the costly part of every null and every bootstrap.

A thousand shuffles of 10,000 stimuli x 2,048 units add 20 billion numbers in random order, so what
counts is that they lie in the cache, and are half as wide: the responses of 4,096 stimuli and 32
units are taken at a time, half a megabyte in single precision, by the kernel that recommender
networks sum their embeddings with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unitprobe.typing import FloatArray, IntArray

_TILE_STIMULI = 4096
_TILE_UNITS = 32
# So many numbers are added in single precision before the sum goes on in double precision.
_SINGLE_TERMS = 256


class ResponseTiles:
    """Responses laid out for quick sums over draws of stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), float64, finite.

    Notes
    -----
    Each unit is shifted by its lowest response and scaled by a power of 2, and then rounded to
    single precision, which leaves responses that were recorded after a ReLU in single precision as
    they are. Up to 256 responses are added in single precision, these sums in double. A mean is
    therefore off by at most 1.6e-5 of its distance from the unit's lowest response
    (257 roundings of 2^-24), and in practice by 1e-7 of it. A constant unit has exact means,
    and so has one whose responses are small integers.
    """

    def __init__(self, responses: FloatArray) -> None:
        starts = range(0, responses.shape[1], _TILE_UNITS)
        self.units_of_tile = [slice(start, start + _TILE_UNITS) for start in starts]
        self._lowest = responses.min(axis=0)
        _, exponents = np.frexp(responses.max(axis=0) - self._lowest)
        # Beyond these a power of 2 would overflow; single precision is wide enough for the rest.
        self._exponents = np.clip(exponents, -960, 960)
        self._tiles = [self._tile(responses, units) for units in self.units_of_tile]

    def _tile(self, responses: FloatArray, units: slice) -> torch.Tensor:
        # Memory from torch starts at a cache line; rows across two lines are slower to read.
        scaled = responses[:, units] - self._lowest[units]
        tile = torch.empty(scaled.shape, dtype=torch.float32)
        scaled *= np.ldexp(1.0, -self._exponents[units])
        tile.numpy()[...] = scaled
        return tile

    def class_means(self, tile: int, draws: ClassDraws) -> FloatArray:
        """Return the means of the units of a tile: ``units_of_tile[tile]`` of all units.

        They are (resample, class_name, unit), NaN in the row of a class without stimuli.
        """
        units, rows = self.units_of_tile[tile], self._tiles[tile]
        shape = (draws.resamples, len(draws.counts), rows.shape[1])
        means: FloatArray = np.zeros(shape)
        for some, block in zip(draws.blocks, torch.split(rows, _TILE_STIMULI), strict=True):
            bags = torch.nn.functional.embedding_bag(some.stimuli, block, some.starts, mode="sum")
            for part in bags.view(*shape[:2], some.parts, -1).unbind(2):
                means += part.numpy()
        counts = np.where(draws.counts > 0, draws.counts, np.nan)[:, None]
        means /= np.ldexp(counts, -self._exponents[units])
        means += self._lowest[units]
        return means


@dataclass(frozen=True)
class DrawsOfBlock:
    """What some resamples drew of one block of stimuli.

    Attributes
    ----------
    stimuli : tensor
        The stimuli drawn, counted from the first of the block: those of each resample and of each
        class of it, end to end.
    starts : tensor
        (resample * class_name * part,), where those of each resample and class start, cut into
        parts of so few that they may be added in single precision.
    parts : int
        The number of parts, of which the last may be empty.
    """

    stimuli: torch.Tensor
    starts: torch.Tensor
    parts: int


@dataclass(frozen=True)
class ClassDraws:
    """Some resamples, prepared for the sums of any number of units.

    Attributes
    ----------
    resamples : int
        The number of resamples.
    counts : array
        (class_name,), the number of stimuli of each class.
    blocks : list of DrawsOfBlock
        One for each 4,096 stimuli.
    """

    resamples: int
    counts: IntArray
    blocks: list[DrawsOfBlock]


def prepare_draws(layouts: IntArray, counts: IntArray) -> ClassDraws:
    """Prepare resamples for sums.

    Parameters
    ----------
    layouts : array
        (resample, stimulus), stimuli laid out by class: the first ``counts[0]`` of each row stand
        for class 0, and so on.
    counts : array
        (class_name,), the number of stimuli of each class.
    """
    resamples, stimuli = layouts.shape
    blocks, bags = -(-stimuli // _TILE_STIMULI), resamples * len(counts)
    block = (layouts // _TILE_STIMULI).ravel()
    bag = np.arange(0, bags, len(counts))[:, None] + np.repeat(np.arange(len(counts)), counts)
    sizes = np.bincount(block * bags + bag.ravel(), minlength=blocks * bags).reshape(blocks, bags)
    # Stable, and so within a block still by resample and class; 16 bits are sorted in two passes.
    by_block = np.argsort(block.astype(np.uint16), kind="stable")
    within = (layouts % _TILE_STIMULI).astype(np.int32).ravel()[by_block]
    drawn = np.split(within, np.cumsum(sizes.sum(axis=1))[:-1])
    return ClassDraws(resamples, counts, [_cut(*some) for some in zip(drawn, sizes, strict=True)])


def _cut(stimuli: NDArray[np.int32], sizes: IntArray) -> DrawsOfBlock:
    """Cut the draws of a block into as many parts as the largest class of any resample needs."""
    ends = np.cumsum(sizes)
    firsts = np.arange(0, max(sizes.max(), 1), _SINGLE_TERMS)
    starts = np.minimum((ends - sizes)[:, None] + firsts, ends[:, None])
    return DrawsOfBlock(
        torch.from_numpy(stimuli), torch.from_numpy(starts.astype(np.int32).ravel()), len(firsts)
    )
