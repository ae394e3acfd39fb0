"""The mean over positions, with a backward pass that costs little beside the layer's own.

Written plainly, the gradient of the mean is expanded over all positions, converted and added to
the layer's gradient: passes over memory that cost more than the arithmetic of the whole term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_threshold_backward: Any = torch.ops.aten.threshold_backward

#: Neighbouring values of a broadcast sum that one vectorised loop runs over, at most.
_RUN = 512
#: Half-precision values that a processor converts to single precision at a time: 1 MiB of these.
_CONVERTED = 2**18


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
        # Converted as a whole it would go through memory once more.
        stimuli = max(1, _CONVERTED * len(activation) // max(1, activation.numel()))
        return torch.cat(
            [part.mean(positions, dtype=dtype) for part in torch.split(activation, stimuli)]
        )
    return activation.mean(positions, dtype=dtype)


def _positions(dimensions: int, unit: int) -> list[int]:
    return [axis for axis in range(1, dimensions) if axis != unit]


class _MeanBeside(torch.autograd.Function):
    """The identity and the mean at once, so that their gradients meet in one sum."""

    @staticmethod
    def forward(activation: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        return activation.detach(), plain_mean(activation, unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        activation, ctx.unit = inputs
        ctx.shape, ctx.dtype = activation.shape, activation.dtype

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
    def forward(before: Tensor, activation: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        return activation.detach(), plain_mean(activation, unit)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.set_materialize_grads(False)
        _, activation, ctx.unit = inputs
        ctx.save_for_backward(activation)

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
    together = _positions_together(gradient, unit)
    if not together:
        return gradient + _at_every_position(share, unit, gradient.ndim)
    last = gradient.movedim(unit, -1)
    rows: Tensor = _rows(last, together) + share.repeat(1, together)[:, None, :]
    return rows.reshape(last.shape).movedim(-1, unit)


def _send_back(gradient: Tensor, share: Tensor, activation: Tensor, unit: int) -> Tensor:
    """Return the sum of `_add_to_every_position` where the activation of a ReLU is positive."""
    total = _add_to_every_position(gradient, share, unit)
    together = _positions_together(total, unit)
    if not together or together != _positions_together(activation, unit):
        masked: Tensor = _threshold_backward(total, activation, 0)
        return masked
    # In place: to take memory for another tensor costs as much as to fill it.
    rows, ours = (_rows(tensor.movedim(unit, -1), together) for tensor in (total, activation))
    _threshold_backward.grad_input(rows, ours, 0, grad_input=rows)
    return total


def _positions_together(values: Tensor, unit: int) -> int:
    """Return how many positions to take as one where units lie side by side in memory, else 0.

    A sum over as few as 16 values at a time is not vectorised: five times slower in bfloat16.
    """
    last = values.movedim(unit, -1)
    if values.ndim == 2 or not last.is_contiguous() or not last.numel():
        return 0
    units, positions = last.shape[-1], last.shape[1:-1].numel()
    return next((k for k in (32, 16, 8, 4, 2) if k * units <= _RUN and not positions % k), 1)


def _rows(last: Tensor, together: int) -> Tensor:
    """Return (stimulus, ..., unit) as (stimulus, row, value), several positions in a row."""
    units, positions = last.shape[-1], last.shape[1:-1].numel()
    return last.reshape(len(last), positions // together, together * units)
