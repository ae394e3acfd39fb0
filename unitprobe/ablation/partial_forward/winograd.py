"""Winograd convolution: 3 x 3 convolutions of small maps with fewer multiplications.

On a map of 2 x 2 or 4 x 4 most of what a 3 x 3 convolution multiplies is padding, and neighbouring
outputs share their products. Winograd's minimal filtering ("Arithmetic complexity of
computations", 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks")
transforms a map so that the convolution is one matrix product a component:
``y = S [(G w G') * (A x A')] S'``. Along an axis of 1, 2 and 4 positions it takes 1, 3 and 6
products where the definition takes 3, 6 and 12. Longer axes are cut into tiles of 4 positions.

The transforms are matrix products too, so no compiler is needed. ``docs/performance.md`` has the
measured factor ("Winograd convolution of small maps").

Rounding errors grow with the numbers that are transformed (about tenfold for 4 positions), so the
engine transforms only the *change* against the intact network.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unitprobe.typing import FloatArray

# Fewest units from which a convolution gains: small matrix products are slow.
_FEWEST_UNITS = 48
_FEWEST_UNITS_IN_TILES = 128
_LONGEST = 8


class Transform(NamedTuple):
    """Matrices of one axis: ``y = synthesis @ ((filter @ w) * (analysis @ x))`` for one tile.

    Attributes
    ----------
    analysis : array (component * tile, position)
        Applied to the input. The tiles of a component lie together, as they share a kernel.
    synthesis : array (position, component * tile)
        Gives the output.
    filter : array (component, 3)
        Applied to the kernel.
    tiles : int
        Tiles along the axis.
    """

    analysis: FloatArray
    synthesis: FloatArray
    filter: FloatArray
    tiles: int = 1


@cache
def transform_of(size: int) -> Transform | None:
    """Return the transform of a 3-tap convolution along one axis, padded with one zero each side.

    Parameters
    ----------
    size : int
        Positions along the axis.

    Returns
    -------
    Transform or None
        None unless `size` is 1, 2, 4 or 8.

    Examples
    --------
    >>> one = transform_of(2)
    >>> x, w = np.array([3.0, 5.0]), np.array([1.0, 10.0, 100.0])
    >>> one.synthesis @ ((one.filter @ w) * (one.analysis @ x))
    array([530.,  53.])
    """
    if size == 1:
        return Transform(np.ones((1, 1)), np.ones((1, 1)), np.array([[0.0, 1.0, 0.0]]))
    if size == 2:
        # (y0, y1) = (w1 x0 + w2 x1, w0 x0 + w1 x1) in three products.
        return Transform(
            np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
            np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),
            np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, -1.0, 0.0]]),
        )
    if size % 4 or size > _LONGEST:
        return None
    # Winograd's F(4, 3): 4 outputs of 6 inputs in 6 products (points 0, 1, -1, 2, -2).
    analysis = np.linalg.inv(_powers(6)).T
    tiles = size // 4
    padded = np.zeros((6, tiles, size + 2))
    outputs = np.zeros((tiles, 4, 6, tiles))
    for tile in range(tiles):
        padded[:, tile, 4 * tile : 4 * tile + 6] = analysis
        outputs[tile, :, :, tile] = _powers(4).T
    return Transform(
        padded[:, :, 1:-1].reshape(6 * tiles, size),
        outputs.reshape(size, 6 * tiles),
        _powers(3),
        tiles,
    )


def _powers(count: int) -> FloatArray:
    points = np.array([0.0, 1.0, -1.0, 2.0, -2.0])
    return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])


class WinogradConvolution:
    """A 3 x 3 convolution with stride 1 and padding 1, of maps of one small size.

    It takes maps with the position first, (y, x, stimulus, unit): every step is then a matrix
    product of values that lie together in memory.

    Parameters
    ----------
    weight : Tensor
        (output unit, input unit, 3, 3).
    height, width : int
        Size of the maps; both have a `transform_of`.
    """

    def __init__(self, weight: Tensor, height: int, width: int) -> None:
        rows, columns = _transforms(height, width)
        kernels = np.einsum(
            "ai,bj,ocij->abco",
            rows.filter.repeat(rows.tiles, axis=0),
            columns.filter,
            weight.cpu().double().numpy(),
        )
        self._size = (height, width)
        self._tiles = columns.tiles
        self._kernels = torch.as_tensor(kernels).to(weight).flatten(0, 1)
        self._rows, self._columns = (
            [torch.as_tensor(matrix).to(weight) for matrix in (one.analysis, one.synthesis)]
            for one in (rows, columns)
        )

    def __call__(self, maps: Tensor) -> Tensor:
        """Convolve maps (y, x, stimulus, unit), without bias."""
        height, width = self._size
        count = maps.shape[2]
        into, out = self._kernels.shape[1:]
        tall, wide = len(self._rows[0]), len(self._columns[0])
        parts = self._rows[0] @ maps.reshape(height, -1)
        parts = torch.matmul(self._columns[0], parts.view(tall, width, -1))
        mixed = torch.bmm(parts.view(-1, self._tiles * count, into), self._kernels)
        parts = torch.matmul(self._columns[1], mixed.view(tall, wide, -1))
        return (self._rows[1] @ parts.view(tall, -1)).view(height, width, count, out)

    @staticmethod
    def bytes_of(weight: Tensor, height: int, width: int) -> int:
        """Return the size of the transformed kernels."""
        rows, columns = _transforms(height, width)
        count = len(rows.analysis) * len(columns.filter)
        return weight[:, :, 0, 0].numel() * count * weight.element_size()

    @property
    def bytes(self) -> int:
        """Size of the transformed kernels."""
        return self._kernels.nbytes

    @staticmethod
    def suits(weight: Tensor, height: int, width: int) -> bool:
        """Tell whether a convolution gains: enough units, and a size that has a transform."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return False  # libraries of other devices do so themselves
        fewest = _FEWEST_UNITS if max(height, width) <= 4 else _FEWEST_UNITS_IN_TILES
        if tuple(weight.shape[2:]) != (3, 3) or min(weight.shape[:2]) < fewest:
            return False
        return transform_of(height) is not None and transform_of(width) is not None


def _transforms(height: int, width: int) -> tuple[Transform, Transform]:
    rows, columns = transform_of(height), transform_of(width)
    assert rows is not None
    assert columns is not None
    return rows, columns
