"""The mean over positions, with a backward pass that costs little beside the layer's own.

Written plainly, the gradient of the mean is expanded over all positions, converted and added to
the layer's gradient: passes over memory that cost more than the arithmetic of the whole term.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

_threshold_backward: Any = torch.ops.aten.threshold_backward

#: Neighbouring values of a broadcast sum that one vectorised loop runs over, at most.
_RUN = 512
#: Half-precision values that a processor converts to single precision at a time: 4 MiB of these.
_CONVERTED = 2**20


def mean_beside(
    activation: Tensor, unit_axis: int, inputs: tuple[Any, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Return the activation, to be passed on in its place, and its mean over positions.

    Parameters
    ----------
    activation : Tensor
        (stimulus, unit, y, x), (stimulus, token, unit), (stimulus, unit) ...
    unit_axis : int
        The axis of the units.
    inputs : tuple
        What the activation was computed from, if that is known.

    Returns
    -------
    activation : Tensor
        The same values in the same memory. Where it is not passed on the mean has the same
        gradient, for a little more time.
    mean : Tensor
        (stimulus, unit), in single precision at least.
    """
    unit = unit_axis % activation.ndim
    result: tuple[Tensor, Tensor]
    if _is_plain_relu(activation, inputs):
        result = _ReluAndMean.apply(inputs[0], activation.detach(), unit)
    else:
        result = _MeanBeside.apply(activation, unit)
    return result


def _is_plain_relu(activation: Tensor, inputs: tuple[Any, ...]) -> bool:
    """Tell whether the backward pass of this activation can be done together with its mean's."""
    node = activation.grad_fn
    if activation.device.type != "cpu" or node is None or node.name() != "ReluBackward0":
        return False
    if not inputs or not isinstance(inputs[0], Tensor) or inputs[0] is activation:
        return False
    # Gradient checkpointing counts what is saved for the backward pass, by hooks.
    saved = getattr(node, "_raw_saved_result", None)
    return getattr(saved, "unpack_hook", ...) is None


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
    """Return the mean over positions of half-precision values, a few stimuli at a time.

    Converted as a whole they would go through memory once more.
    """
    last = activation.movedim(unit_axis, -1)
    if last.is_contiguous():
        rows, axis = last.reshape(len(last), -1, last.shape[-1]), 1
    else:
        first = activation.movedim(unit_axis, 1)
        rows, axis = first.reshape(len(first), first.shape[1], -1), 2
    means = rows.new_empty((len(rows), last.shape[-1]), dtype=torch.float32)
    step = max(1, _CONVERTED * len(rows) // max(1, rows.numel()))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        torch.mean(_scratch.like(part).copy_(part), axis, out=means[start : start + step])
    return means


def _positions(dimensions: int, unit: int) -> list[int]:
    return [axis for axis in range(1, dimensions) if axis != unit]


class _MeanBeside(torch.autograd.Function):
    """The identity and the mean at once, so that their gradients meet in one sum."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.unit, ctx.shape, ctx.dtype = unit, activation.shape, activation.dtype
        return activation.detach(), plain_mean(activation, unit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        gradient, of_mean = gradients
        if of_mean is None:
            return gradient, None
        share = _share(of_mean, ctx.shape, ctx.unit, ctx.dtype)
        if gradient is None:
            return _at_every_position(share, ctx.unit, len(ctx.shape)).expand(ctx.shape), None
        return _add_to_every_position(gradient, share, ctx.unit), None


class _ReluAndMean(torch.autograd.Function):
    """A ReLU, computed already, and its mean at once: what they send back takes one pass."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, activation: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.unit = unit
        ctx.save_for_backward(activation)
        return activation.detach(), plain_mean(activation, unit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        gradient, of_mean = gradients
        (activation,) = ctx.saved_tensors
        if gradient is None and of_mean is None:
            return None, None, None
        if gradient is None:
            gradient = torch.zeros_like(activation)
        if of_mean is None:
            return _threshold_backward(gradient, activation, 0), None, None
        share = _share(of_mean, activation.shape, ctx.unit, activation.dtype)
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            total = _add_to_every_position(gradient, share, ctx.unit)
            return _threshold_backward(total, activation, 0), None, None
        return _send_back(gradient, share, activation, ctx.unit), None, None


def _share(of_mean: Tensor, shape: torch.Size, unit: int, dtype: torch.dtype) -> Tensor:
    """Return what each position gets of the gradient of the mean, (stimulus, unit)."""
    positions = shape.numel() // max(1, shape[0] * shape[unit])
    return (of_mean / max(1, positions)).to(dtype)


def _at_every_position(share: Tensor, unit: int, dimensions: int) -> Tensor:
    """Return (stimulus, unit) with a dimension of length 1 for each axis of positions."""
    shape = [1] * dimensions
    shape[0], shape[unit] = share.shape
    return share.reshape(shape)


def _add_to_every_position(gradient: Tensor, share: Tensor, unit: int) -> Tensor:
    """Return (..., unit, ...) plus (stimulus, unit), the same at every position."""
    rows = _rows(gradient, unit)
    if rows is None:
        return gradient + _at_every_position(share, unit, gradient.ndim)
    last = gradient.movedim(unit, -1)
    return _add_to_rows(rows, share).reshape(last.shape).movedim(-1, unit)


def _send_back(gradient: Tensor, share: Tensor, activation: Tensor, unit: int) -> Tensor:
    """Return the sum of `_add_to_every_position` where the activation of a ReLU is positive."""
    rows, activation_rows = _rows(gradient, unit), _rows(activation, unit)
    if rows is None or activation_rows is None:
        total = gradient + _at_every_position(share, unit, gradient.ndim)
        masked: Tensor = _threshold_backward(total, activation, 0)
        return masked
    # In place: to take memory for another tensor costs as much as to fill it.
    sums = _add_to_rows(rows, share)
    _threshold_backward.grad_input(sums, activation_rows, 0, grad_input=sums)
    return sums.as_strided(gradient.shape, gradient.stride())


def _add_to_rows(rows: Tensor, share: Tensor) -> Tensor:
    """Return (stimulus, row, value) plus (stimulus, unit), repeated along a row."""
    together = rows.shape[-1] // share.shape[-1]
    repeated = torch.cat([share] * together, dim=1) if together > 1 else share
    return rows + repeated[:, None]


def _rows(values: Tensor, unit: int) -> Tensor | None:
    """Return (stimulus, row, value) where units lie side by side in memory, else None.

    A row is several positions, and a power of 2 of them: a sum over as few as 16 values at a time
    is not vectorised, which is five times slower in bfloat16.
    """
    last = values.movedim(unit, -1)
    if values.ndim == 2 or not last.is_contiguous() or not last.numel():
        return None
    stimuli, units = len(last), last.shape[-1]
    positions = last.numel() // (stimuli * units)
    together = next((k for k in (32, 16, 8, 4, 2) if k * units <= _RUN and not positions % k), 1)
    return last.view(stimuli, positions // together, together * units)
