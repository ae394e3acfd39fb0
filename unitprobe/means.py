"""The mean of an activation over its positions, in single precision at least.

Half-precision values are converted where they are added, since converted as a whole they would go
through memory once more each way: one by one in a compiled loop, or else a few stimuli at a time.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unitprobe.compiled import compile_loop

#: Values that torch converts to single precision at a time on a processor: 4 MiB of these.
_CONVERTED = 2**20

#: Threads of torch up to which one thread of the compiled loop is quicker. Alone it takes 0.4 to
#: 0.7 of the time of two of torch's, and a third of it within a training step.
_THREADS = 4

# A plain number would make the arithmetic of the loop double.
_ZERO, _HALF_WORD = np.float32(0), np.uint32(16)


def mean_over_positions(activation: Tensor, unit_axis: int) -> Tensor:
    """Return the mean over positions.

    Parameters
    ----------
    activation : Tensor
        (stimulus, unit, y, x), (stimulus, token, unit), (stimulus, unit) ...
    unit_axis : int
        The axis of the units.

    Returns
    -------
    Tensor
        (stimulus, unit), in single precision at least; never a view. On a processor the mean of
        half precision has no gradient.

    Examples
    --------
    >>> import torch
    >>> mean_over_positions(torch.tensor([[[[1.0, 3.0]]]]).bfloat16(), unit_axis=1)
    tensor([[2.]])
    """
    positions = position_axes(activation.ndim, unit_axis)
    half = activation.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if half else activation.dtype
    if not positions:
        return activation.to(dtype, copy=True)
    here = activation.device.type == "cpu" and not torch.compiler.is_compiling()
    if half and here and activation.numel():
        return _mean_of_half(activation, unit_axis)
    return activation.mean(positions, dtype=dtype)


def position_axes(dimensions: int, unit_axis: int) -> list[int]:
    """Return the axes of the positions: all but that of the stimuli, 0, and that of the units.

    Examples
    --------
    >>> position_axes(4, unit_axis=1), position_axes(3, unit_axis=-1), position_axes(2, unit_axis=1)
    ([2, 3], [1], [])
    """
    unit = unit_axis % dimensions
    return [axis for axis in range(1, dimensions) if axis != unit]


class _Scratch(threading.local):
    """Memory that is taken once: to allocate it for each layer costs more than to fill it."""

    def __init__(self) -> None:
        self.values = torch.empty(0)

    def like(self, part: Tensor) -> Tensor:
        if self.values.numel() < part.numel():
            self.values = torch.empty(part.numel())
        return self.values[: part.numel()].view(part.shape)


_scratch = _Scratch()


def _mean_of_half(activation: Tensor, unit_axis: int) -> Tensor:
    last = activation.movedim(unit_axis, -1)
    if last.is_contiguous():
        rows, axis = last.reshape(len(last), -1, last.shape[-1]), 1
        if rows.dtype == torch.bfloat16 and torch.get_num_threads() <= _THREADS:
            loop = compile_loop(_add_up_bfloat16)
            if loop is not None:
                means = torch.empty(len(rows), rows.shape[2])
                loop(rows.detach().view(torch.uint16).numpy(), means.numpy())
                return means
    else:
        first = activation.movedim(unit_axis, 1)
        rows, axis = first.reshape(len(first), first.shape[1], -1), 2
    means = rows.new_empty((len(rows), last.shape[-1]), dtype=torch.float32)
    step = max(1, _CONVERTED * len(rows) // rows.numel())
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        torch.mean(_scratch.like(part).copy_(part), axis, out=means[start : start + step])
    return means


def _add_up_bfloat16(values: npt.NDArray[np.uint16], result: npt.NDArray[np.float32]) -> None:
    """Fill ``result`` with the mean of bfloat16 values over positions.

    Parameters
    ----------
    values : ndarray
        (stimulus, position, unit), the bits of bfloat16 numbers: the upper half of those of the
        same numbers in single precision.
    result : ndarray
        (stimulus, unit).
    """
    stimuli, positions, units = values.shape
    # Four at a time: a sum that waits for the one before it would leave the processor idle.
    fours = positions // 4 * 4
    for i in range(stimuli):
        sums = result[i]
        for unit in range(units):
            sums[unit] = _ZERO
        for p in range(0, fours, 4):
            for unit in range(units):
                first = np.uint32(np.uint32(values[i, p, unit]) << _HALF_WORD)
                second = np.uint32(np.uint32(values[i, p + 1, unit]) << _HALF_WORD)
                third = np.uint32(np.uint32(values[i, p + 2, unit]) << _HALF_WORD)
                fourth = np.uint32(np.uint32(values[i, p + 3, unit]) << _HALF_WORD)
                sums[unit] += (first.view(np.float32) + second.view(np.float32)) + (
                    third.view(np.float32) + fourth.view(np.float32)
                )
        for p in range(fours, positions):
            for unit in range(units):
                last = np.uint32(np.uint32(values[i, p, unit]) << _HALF_WORD)
                sums[unit] += last.view(np.float32)
        for unit in range(units):
            sums[unit] /= np.float32(positions)
