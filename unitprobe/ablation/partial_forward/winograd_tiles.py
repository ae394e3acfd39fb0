"""Convolutions of maps in tiles of 4 x 4, with a quarter of the multiplications.

Winograd's F(4 x 4, 3 x 3), as in `winograd`: a tile and the positions around it, 6 x 6,
are brought into a space where the convolution is one matrix product a component, 36 for 16 outputs
where the definition takes 144. On the way in and out there are few operations for each number, so
they must not pass over memory: one compiled loop (`winograd_loops`) takes a few tiles all the way,
and adds what follows the convolution in a residual network: the intact output, the shortcut and the
ReLU.

As in `winograd`, only the change against the intact network goes through, for its
rounding errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from unitprobe.ablation.partial_forward.winograd import transform_of
from unitprobe.compiled import compile_loop, compiles
from unitprobe.errors import UnitprobeWarning

Floats = npt.NDArray[np.float32]

# Tiles whose components are held at a time should stay near the processor; but all kernels are read
# for them, which takes more tiles where the kernels are not near.
_TILES, _MORE_TILES = 24, 192
_NEAR_BYTES = 2**22
_LANES = 16  # units that the loop takes at a time
_MOST_PADDING = 1.4  # of a map of 7 x 7 a third is added, which still pays

# With whole numbers on the way in, `transform_of(4)` has its kernel scaled by:
_SCALE = np.array([1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1.0])


class TiledConvolution:
    """A 3 x 3 convolution, stride 1, padding 1, and what is added to it.

    Parameters
    ----------
    weight : Tensor
        (output unit, input unit, 3, 3), float32 on a processor; multiples of 16 units.
    """

    def __init__(self, weight: Tensor) -> None:
        one = transform_of(4)
        assert one is not None
        filters = one.filter * _SCALE[:, None]
        kernels = np.einsum("ai,bj,ocij->abco", filters, filters, weight.cpu().double().numpy())
        panels = kernels.reshape(36, len(kernels[0, 0]), -1, _LANES).swapaxes(1, 2)
        self._kernels: Floats = np.ascontiguousarray(panels, np.float32)

    def __call__(
        self,
        maps: Tensor,
        intact: Tensor,
        base: Tensor,
        stimulus_of: Tensor,
        shortcut: Tensor | None = None,
        *,
        relu: bool = False,
    ) -> Tensor:
        """Return ``convolution(maps - intact) + base + shortcut``, with a ReLU if asked.

        Parameters
        ----------
        maps : Tensor
            (row, input unit, y, x): some stimuli of some variants.
        intact : Tensor
            (stimulus, input unit, y, x).
        base : Tensor
            (stimulus, output unit, y, x), what the intact maps give.
        stimulus_of : Tensor
            (row,), the stimulus of each.
        shortcut : Tensor, optional
            (row, output unit, y, x).
        relu : bool
            Whether numbers below 0 become 0.
        """
        convolve = _loop()
        assert convolve is not None
        count, into, height, width = maps.shape
        tiles = _TILES if self.bytes <= _NEAR_BYTES else _MORE_TILES
        result = torch.empty(count, height, width, base.shape[1])
        # A little more, since a cache holds few numbers that are a multiple of 4096 bytes apart.
        parts, mixed = (
            torch.empty(36, tiles * units + _LANES).numpy() for units in (into, base.shape[1])
        )
        convolve(
            *(_units_last(value) for value in (maps, intact, base)),
            stimulus_of.numpy(),
            self._kernels,
            result.numpy() if shortcut is None else _units_last(shortcut),
            shortcut is not None,
            relu,
            result.numpy(),
            torch.empty(36 * max(into, base.shape[1])).numpy(),
            parts,
            mixed,
        )
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def bytes_of(weight: Tensor) -> int:
        """Return the size of the transformed kernels."""
        return weight[:, :, 0, 0].numel() * 36 * weight.element_size()

    @property
    def bytes(self) -> int:
        """Size of the transformed kernels."""
        return self._kernels.nbytes

    @staticmethod
    def suits(weight: Tensor, height: int, width: int) -> bool:
        """Tell whether a convolution gains: a compiled loop, and enough units and positions."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return False
        if tuple(weight.shape[2:]) != (3, 3) or any(n % _LANES for n in weight.shape[:2]):
            return False
        padded = 16 * -(-height // 4) * -(-width // 4)
        if min(height, width) <= 4 or padded > _MOST_PADDING * height * width:
            return False
        return _loop() is not None and _works()


@cache
def _works() -> bool:
    """Tell whether the loop compiles and convolves here: it depends on the internals of numba."""
    generator = torch.Generator().manual_seed(0)
    weight, maps, base = (
        torch.randn(shape, generator=generator)
        for shape in ((_LANES, _LANES, 3, 3), (2, _LANES, 8, 8), (2, _LANES, 8, 8))
    )
    try:
        found = TiledConvolution(weight)(maps, torch.zeros_like(maps), base, torch.arange(2))
    except Exception as error:  # another numba, another llvmlite, another processor
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    else:
        if torch.allclose(found, conv2d(maps, weight, padding=1) + base, rtol=0, atol=1e-3):
            return True
        why = "its numbers are wrong"
    warnings.warn(
        f"the compiled convolution does not work here ({why}): a slower one is taken",
        UnitprobeWarning,
        stacklevel=2,
    )
    return False


@cache
def _loop() -> Callable[..., None] | None:
    """Return the compiled loop, None without numba."""
    if not compiles():
        return None
    from unitprobe.ablation.partial_forward.winograd_loops import convolve

    return compile_loop(convolve)


def _units_last(maps: Tensor) -> Floats:
    values: Floats = maps.permute(0, 2, 3, 1).contiguous().numpy()
    return values
