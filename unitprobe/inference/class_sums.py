"""Sums over many draws of stimuli at once, the costly part of every null and every bootstrap.

A thousand shuffles of 10,000 stimuli x 2,048 units add 20 billion numbers in random order, so what
counts is that they lie in the cache, and are half as wide: units are taken 64 at a time, in single
precision, by the kernel that recommender networks sum their embeddings with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

_TILE_UNITS = 64
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
        self.units = responses.shape[1]
        self._lowest = responses.min(axis=0)
        _, self._exponents = np.frexp(responses.max(axis=0) - self._lowest)
        self._tiles = [torch.from_numpy(self._tile(responses, units)) for units in self._slices()]

    def _tile(self, responses: FloatArray, units: slice) -> NDArray[np.float32]:
        scaled = np.ldexp(responses[:, units] - self._lowest[units], -self._exponents[units])
        # The kernel is quick only if the units of a stimulus lie beside one another.
        tile: NDArray[np.float32] = scaled.astype(np.float32, order="C")
        return tile

    def class_means_by_tile(self, draws: ClassDraws) -> Iterator[tuple[slice, FloatArray]]:
        """Yield some units, and their mean response to each class of each resample.

        The latter is (resample, class_name, unit), NaN in the row of a class without stimuli.
        """
        resamples, classes = draws.resamples, len(draws.counts)
        divisor = np.where(draws.counts > 0, draws.counts, np.nan)[:, None]
        for units, tile in zip(self._slices(), self._tiles, strict=True):
            sums = torch.zeros((resamples, classes, tile.shape[1]), dtype=torch.float64)
            for present, stimuli, starts in draws.passes:
                bags = torch.nn.functional.embedding_bag(stimuli, tile, starts, mode="sum")
                sums[:, present] += bags.view(resamples, -1, tile.shape[1])
            means = np.ldexp(sums.numpy() / divisor, self._exponents[units])
            yield units, means + self._lowest[units]

    def _slices(self) -> list[slice]:
        starts = range(0, self.units, _TILE_UNITS)
        return [slice(start, min(start + _TILE_UNITS, self.units)) for start in starts]


@dataclass(frozen=True)
class ClassDraws:
    """Some resamples, prepared for the sums of any number of units.

    Attributes
    ----------
    resamples : int
        The number of resamples.
    counts : array
        (class_name,), the number of stimuli of each class.
    passes : list
        Classes; for each resample and each of these classes their next stimuli, end to end; and
        where those of each resample and class start.
    """

    resamples: int
    counts: IntArray
    passes: list[tuple[slice | IntArray, torch.Tensor, torch.Tensor]]


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
    first = np.cumsum(counts) - counts
    passes: list[tuple[slice | IntArray, torch.Tensor, torch.Tensor]] = []
    for done in range(0, int(counts.max()), _SINGLE_TERMS):
        present = np.flatnonzero(counts > done)
        sizes = np.minimum(counts[present] - done, _SINGLE_TERMS)
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        stimuli = layouts[:, np.repeat(first[present] + done, sizes) + within]
        starts = np.arange(len(layouts))[:, None] * ends[-1] + (ends - sizes)
        passes.append(
            (
                present if len(present) < len(counts) else slice(None),
                torch.from_numpy(stimuli.ravel()),
                torch.from_numpy(starts.ravel()),
            )
        )
    return ClassDraws(len(layouts), counts, passes)
