"""Convolutions of small maps with fewer multiplications.

On a map of 2 x 2 or 4 x 4 most of what a 3 x 3 convolution multiplies is padding, and neighbouring
outputs share their products. Winograd's minimal filtering ("Arithmetic complexity of
computations", 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks")
brings a map into a space where the convolution is one matrix product a component:
``y = S [(G w G') * (A x A')] S'``. Along an axis of 1, 2 and 4 places it takes 1, 3 and 6 products
where the definition takes 3, 6 and 12. Larger maps are cut into tiles of 4, which pays only where
the way in and out is compiled (`winograd`).

Rounding errors grow with the numbers that go through it (about tenfold for 4 places), so the engine
sends only the *change* against the intact network through.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Matrix = npt.NDArray[np.float64]


class Transform(NamedTuple):
    """Matrices of one axis: ``y = synthesis @ ((filter @ w) * (analysis @ x))``.

    Attributes
    ----------
    analysis : array (component, place)
        Applied to what goes in.
    synthesis : array (place, component)
        Gives what comes out.
    filter : array (component, 3)
        Applied to the kernel.
    """

    analysis: Matrix
    synthesis: Matrix
    filter: Matrix


@cache
def transform_of(size: int) -> Transform | None:
    """Return the transform of a 3-tap convolution along `size` places, padded with one zero each.

    Returns
    -------
    Transform or None
        None for a size that has none here.

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
    if size != 4:
        return None
    # Winograd's F(4, 3): 4 outputs of 6 inputs in 6 products (points 0, 1, -1, 2, -2); the first
    # and the last input are padding.

    def powers(count: int) -> Matrix:
        points = np.array([0.0, 1.0, -1.0, 2.0, -2.0])
        return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])

    inverse = np.linalg.inv(powers(6)).astype(np.float64)
    return Transform(inverse.T[:, 1:-1], powers(4).T, powers(3))


class SmallMapConvolution:
    """A 3 x 3 convolution, stride 1, one place of padding, of maps of one small size.

    Works on maps with the position first, (y, x, stimulus, unit): every step is then a matrix
    product of what lies in memory.

    Parameters
    ----------
    weight : Tensor
        (output unit, input unit, 3, 3).
    height, width : int
        Size of the maps; both have a `transform_of`.
    """

    def __init__(self, weight: Tensor, height: int, width: int) -> None:
        rows, columns = transform_of(height), transform_of(width)
        assert rows is not None
        assert columns is not None
        kernels = np.einsum(
            "ai,bj,ocij->abco", rows.filter, columns.filter, weight.cpu().double().numpy()
        )
        self._size = (height, width)
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
        mixed = torch.bmm(parts.view(tall * wide, count, into), self._kernels)
        parts = torch.matmul(self._columns[1], mixed.view(tall, wide, -1))
        return (self._rows[1] @ parts.view(tall, -1)).view(height, width, count, out)

    @staticmethod
    def bytes_of(weight: Tensor, height: int, width: int) -> int:
        """Return the size of the transformed kernels."""
        rows, columns = transform_of(height), transform_of(width)
        assert rows is not None
        assert columns is not None
        count = len(rows.filter) * len(columns.filter)
        return weight[:, :, 0, 0].numel() * count * weight.element_size()

    @property
    def bytes(self) -> int:
        """Size of the transformed kernels."""
        return self._kernels.nbytes

    @staticmethod
    def suits(weight: Tensor, height: int, width: int) -> bool:
        """Tell whether it is worth it: enough units, and a size that has a transform."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return False  # elsewhere the libraries do so themselves
        if tuple(weight.shape[2:]) != (3, 3) or min(weight.shape[:2]) < 48:
            return False
        return transform_of(height) is not None and transform_of(width) is not None
