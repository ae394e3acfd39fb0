"""The mean over positions, with a backward pass that costs little beside the layer's own.

Written plainly, the gradient of the mean is expanded over all positions, converted and added to
the layer's gradient: passes over memory that cost more than the arithmetic of the whole term.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from unitprobe.compiled import compile_loop
from unitprobe.regularizer import mean_loops

#: Half-precision values that a processor converts to single precision at a time: 4 MiB of these.
_CONVERTED = 2**20

#: Threads of torch up to which one thread of the compiled loop is quicker. Alone it takes 0.4 to
#: 0.7 of the time of two of torch's, and a third of it within a training step.
_THREADS = 4


def mean_beside(activation: Tensor, unit_axis: int) -> tuple[Tensor, Tensor]:
    """Return the activation, to be passed on in its place, and its mean over positions.

    Parameters
    ----------
    activation : Tensor
        (stimulus, unit, y, x), (stimulus, token, unit), (stimulus, unit) ...
    unit_axis : int
        The axis of the units.

    Returns
    -------
    activation : Tensor
        The same values in the same memory. Where it is not passed on the mean has the same
        gradient, for a little more time.
    mean : Tensor
        (stimulus, unit), in single precision at least.
    """
    result: tuple[Tensor, Tensor]
    result = _MeanBeside.apply(activation, activation, unit_axis % activation.ndim)
    return result


def plain_mean(activation: Tensor, unit_axis: int) -> Tensor:
    """Return the mean over positions, (stimulus, unit), in single precision at least."""
    positions = _positions(activation.ndim, unit_axis % activation.ndim)
    half = activation.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if half else activation.dtype
    if not positions:
        return activation.to(dtype, copy=True)
    if half and activation.device.type == "cpu" and not torch.compiler.is_compiling():
        return _mean_of_half(activation, unit_axis)
    return activation.mean(positions, dtype=dtype)


class _Scratch(threading.local):
    """Memory that is taken once: to take it anew for each layer costs more than to fill it."""

    def __init__(self) -> None:
        self.values = torch.empty(0)

    def like(self, part: Tensor) -> Tensor:
        if self.values.numel() < part.numel():
            self.values = torch.empty(part.numel())
        return self.values[: part.numel()].view(part.shape)


_scratch = _Scratch()


def _mean_of_half(activation: Tensor, unit_axis: int) -> Tensor:
    """Return the mean over positions of half-precision values.

    They are converted one by one as they are added, in the compiled loop, or else a few stimuli at
    a time: converted as a whole they would go through memory once more.
    """
    last = activation.movedim(unit_axis, -1)
    if last.is_contiguous():
        rows, axis = last.reshape(len(last), -1, last.shape[-1]), 1
        if rows.dtype == torch.bfloat16 and torch.get_num_threads() <= _THREADS:
            loop = compile_loop(mean_loops.mean_over_positions)
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


def _positions(dimensions: int, unit: int) -> list[int]:
    return [axis for axis in range(1, dimensions) if axis != unit]


class _MeanBeside(torch.autograd.Function):
    """The identity and the mean at once.

    The activation is given twice, so that two gradients go back to what computed it. Autograd adds
    the second to the first in place if nobody else holds the first, as it alone can tell, and then
    takes no memory for the sum.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, _again: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.unit, ctx.shape, ctx.dtype = unit, activation.shape, activation.dtype
        return activation.detach(), plain_mean(activation, unit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        gradient, of_mean = gradients
        if of_mean is None:
            return gradient, None, None
        positions = ctx.shape.numel() // max(1, ctx.shape[0] * ctx.shape[ctx.unit])
        share = (of_mean / max(1, positions)).to(ctx.dtype)
        side_by_side = gradient is not None and gradient.stride(ctx.unit) == 1
        return gradient, _at_every_position(share, ctx.shape, ctx.unit, side_by_side), None


def _at_every_position(share: Tensor, shape: torch.Size, unit: int, side_by_side: bool) -> Tensor:
    """Return (stimulus, unit) in the shape of the activation, the same at every position.

    It stands in memory once; or, for a map whose units lie side by side, once for each place in a
    row of the map: a sum over as few as 16 values at a time is not vectorised, which is 15 times
    slower in bfloat16.
    """
    *rows, place = _positions(len(shape), unit) or [0]
    if not (side_by_side and rows):
        one = [length if axis in (0, unit) else 1 for axis, length in enumerate(shape)]
        return share.reshape(one).expand(shape)
    width, units = shape[place], shape[unit]
    row = torch.cat([share] * width, dim=1)
    strides = {0: width * units, place: units, unit: 1}
    return row.as_strided(shape, [strides.get(axis, 0) for axis in range(len(shape))])
