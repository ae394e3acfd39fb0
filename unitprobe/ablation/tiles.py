"""Convolutions of maps in tiles of 4 x 4, with a quarter of the multiplications.

Winograd's F(4 x 4, 3 x 3), as in `small_maps`: a tile and the places around it, 6 x 6, are brought
into a space where the convolution is one matrix product a component, 36 for 16 outputs where the
definition takes 144. On the way in and out there are few operations for each number, so they must
not pass over memory; these loops are compiled (`compiled`), and the way out adds what follows the
convolution in a residual network: the intact output, the shortcut and the ReLU.

Every loop runs over tiles side by side and their units, which lie next to each other in memory. As
in `small_maps`, only the change against the intact network goes through, for its rounding errors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unitprobe.ablation.small_maps import transform_of
from unitprobe.compiled import compile_loop

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

# Bytes of components at a time: they should stay near the processor, and suffice for a product.
_BLOCK_BYTES = 5 * 2**18
_FEWEST_TILES = 128
_MOST_PADDING = 1.4  # of a map of 7 x 7 a third is added, which still pays

# A plain number would make the arithmetic double.
_ZERO, _TWO, _FOUR, _FIVE, _EIGHT = (np.float32(number) for number in (0, 2, 4, 5, 8))
# With these whole numbers on the way in, `transform_of(4)` has its kernel scaled by:
_SCALE = np.array([1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1.0])


class TiledConvolution:
    """A 3 x 3 convolution, stride 1, one place of padding, and what is added to it.

    Parameters
    ----------
    weight : Tensor
        (output unit, input unit, 3, 3), float32 on a processor.
    """

    def __init__(self, weight: Tensor) -> None:
        one = transform_of(4)
        assert one is not None
        filters = one.filter * _SCALE[:, None]
        kernels = np.einsum("ai,bj,ocij->abco", filters, filters, weight.double().cpu().numpy())
        self._kernels = torch.as_tensor(kernels).to(weight).flatten(0, 1)

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
        count, _, height, width = maps.shape
        into, out = self._kernels.shape[1:]
        tiles = -(-height // 4) * -(-width // 4)
        room = max(_FEWEST_TILES, _BLOCK_BYTES // (36 * 4 * max(into, out)))
        blocks = -(-count * tiles // room)
        block = -(-count // blocks)
        parts = torch.empty(36, block * tiles, into)
        mixed = torch.empty(36, block * tiles, out)
        result = torch.empty(count, height, width, out)
        sources, others, added = (_units_last(value) for value in (maps, intact, base))
        numbers = stimulus_of.numpy()
        further = None if shortcut is None else _units_last(shortcut)
        analyze, synthesize = compile_loop(_analyze), compile_loop(_synthesize)
        assert analyze is not None
        assert synthesize is not None
        for first in range(0, count, block):
            rows = slice(first, min(count, first + block))
            analyze(sources[rows], others, numbers[rows], parts.flatten(1).numpy())
            torch.bmm(parts, self._kernels, out=mixed)
            more = result.numpy()[rows] if further is None else further[rows]
            synthesize(
                mixed.flatten(1).numpy(),
                added,
                numbers[rows],
                more,
                further is not None,
                relu,
                result.numpy()[rows],
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
        """Tell whether it is worth it: compiled loops, and enough units and places."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return False
        if tuple(weight.shape[2:]) != (3, 3) or min(weight.shape[:2]) < 32:
            return False
        padded = 16 * -(-height // 4) * -(-width // 4)
        if min(height, width) <= 4 or padded > _MOST_PADDING * height * width:
            return False
        return compile_loop(_analyze) is not None


def _units_last(maps: Tensor) -> Floats:
    values: Floats = maps.permute(0, 2, 3, 1).contiguous().numpy()
    return values


def _analyze(maps: Floats, intact: Floats, stimulus_of: Integers, parts: Floats) -> None:
    """Bring maps (map, y, x, unit) into components (36, tile * unit)."""
    count, height, width, units = maps.shape
    tall, wide = -(-height // 4), -(-width // 4)
    run = wide * units  # a row of tiles
    columns = np.zeros((6, run), np.float32)  # of every tile in a row
    rows = np.zeros((6, 4 * tall + 2, run), np.float32)
    for i in range(count):
        stimulus = stimulus_of[i]
        ready = 0
        for tile in range(tall):
            for y in range(ready, min(height, 4 * tile + 5)):
                for a in range(6):
                    for place in range(wide):
                        x = 4 * place + a - 1
                        if 0 <= x < width:
                            start = place * units
                            for k in range(units):
                                columns[a, start + k] = maps[i, y, x, k] - intact[stimulus, y, x, k]
                for k in range(run):
                    x0, x1, x2 = columns[0, k], columns[1, k], columns[2, k]
                    x3, x4, x5 = columns[3, k], columns[4, k], columns[5, k]
                    even, odd = x4 - _FOUR * x2, x3 - _FOUR * x1
                    even2, odd2 = x4 - x2, _TWO * (x3 - x1)
                    rows[0, y + 1, k] = _FOUR * x0 - _FIVE * x2 + x4
                    rows[1, y + 1, k] = even + odd
                    rows[2, y + 1, k] = even - odd
                    rows[3, y + 1, k] = even2 + odd2
                    rows[4, y + 1, k] = even2 - odd2
                    rows[5, y + 1, k] = _FOUR * x1 - _FIVE * x3 + x5
            ready = min(height, 4 * tile + 5)
            y, start = 4 * tile, (i * tall + tile) * run
            for b in range(6):
                for k in range(run):
                    x0, x1, x2 = rows[b, y, k], rows[b, y + 1, k], rows[b, y + 2, k]
                    x3, x4, x5 = rows[b, y + 3, k], rows[b, y + 4, k], rows[b, y + 5, k]
                    even, odd = x4 - _FOUR * x2, x3 - _FOUR * x1
                    even2, odd2 = x4 - x2, _TWO * (x3 - x1)
                    parts[b, start + k] = _FOUR * x0 - _FIVE * x2 + x4
                    parts[6 + b, start + k] = even + odd
                    parts[12 + b, start + k] = even - odd
                    parts[18 + b, start + k] = even2 + odd2
                    parts[24 + b, start + k] = even2 - odd2
                    parts[30 + b, start + k] = _FOUR * x1 - _FIVE * x3 + x5


def _synthesize(
    mixed: Floats,
    base: Floats,
    stimulus_of: Integers,
    shortcut: Floats,
    has_shortcut: bool,
    relu: bool,
    result: Floats,
) -> None:
    """Bring components (36, tile * unit) back to maps (map, y, x, unit), and add to them."""
    count, height, width, units = result.shape
    tall, wide = -(-height // 4), -(-width // 4)
    run = wide * units
    rows = np.empty((6, 4 * tall, run), np.float32)
    columns = np.empty((4, run), np.float32)
    for i in range(count):
        stimulus = stimulus_of[i]
        for b in range(6):
            for tile in range(tall):
                y, start = 4 * tile, (i * tall + tile) * run
                for k in range(run):
                    x0, x5 = mixed[b, start + k], mixed[30 + b, start + k]
                    x1, x2 = mixed[6 + b, start + k], mixed[12 + b, start + k]
                    x3, x4 = mixed[18 + b, start + k], mixed[24 + b, start + k]
                    even, odd, even2, odd2 = x1 + x2, x1 - x2, x3 + x4, x3 - x4
                    rows[b, y, k] = x0 + even + even2
                    rows[b, y + 1, k] = odd + _TWO * odd2
                    rows[b, y + 2, k] = even + _FOUR * even2
                    rows[b, y + 3, k] = odd + _EIGHT * odd2 + x5
        for y in range(height):
            for k in range(run):
                x0, x1, x2 = rows[0, y, k], rows[1, y, k], rows[2, y, k]
                x3, x4, x5 = rows[3, y, k], rows[4, y, k], rows[5, y, k]
                even, odd, even2, odd2 = x1 + x2, x1 - x2, x3 + x4, x3 - x4
                columns[0, k] = x0 + even + even2
                columns[1, k] = odd + _TWO * odd2
                columns[2, k] = even + _FOUR * even2
                columns[3, k] = odd + _EIGHT * odd2 + x5
            for x in range(width):
                a, start = x % 4, x // 4 * units
                for k in range(units):
                    value = columns[a, start + k] + base[stimulus, y, x, k]
                    if has_shortcut:
                        value += shortcut[i, y, x, k]
                    if relu and value < _ZERO:
                        value = _ZERO
                    result[i, y, x, k] = value
