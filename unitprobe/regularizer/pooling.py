"""The mean over positions, with a fast backward pass.

In plain PyTorch, the gradient of the mean is expanded over all positions, converted and added to
the gradient of the layer. These passes over memory cost more than the arithmetic of the whole term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitprobe.means import mean_over_positions, position_axes


def activation_and_mean(activation: Tensor, unit_axis: int) -> tuple[Tensor, Tensor]:
    """Return the activation, to be used instead of the original, and its mean over positions.

    Parameters
    ----------
    activation : Tensor
        (stimulus, unit, y, x), (stimulus, token, unit), (stimulus, unit) ...
    unit_axis : int
        The axis of the units.

    Returns
    -------
    activation : Tensor
        The same values in the same memory. If the network does not use it, the mean has the same
        gradient, but takes a little longer.
    mean : Tensor
        (stimulus, unit), in single precision at least.
    """
    result: tuple[Tensor, Tensor]
    result = _ActivationAndMean.apply(activation, activation, unit_axis % activation.ndim)
    return result


class _ActivationAndMean(torch.autograd.Function):
    """The identity and the mean in one operation.

    The activation is an argument twice, so that it gets two gradients. Autograd adds the second to
    the first in place, without more memory, if nothing else refers to the first. Only autograd
    knows this.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, _again: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.unit, ctx.shape, ctx.dtype = unit, activation.shape, activation.dtype
        return activation.detach(), mean_over_positions(activation, unit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        gradient, of_mean = gradients
        if of_mean is None:
            return gradient, None, None
        positions = ctx.shape.numel() // max(1, ctx.shape[0] * ctx.shape[ctx.unit])
        share = (of_mean / max(1, positions)).to(ctx.dtype)
        units_last = gradient is not None and gradient.stride(ctx.unit) == 1
        return gradient, _at_every_position(share, ctx.shape, ctx.unit, units_last), None


def _at_every_position(share: Tensor, shape: torch.Size, unit: int, units_last: bool) -> Tensor:
    """Return (stimulus, unit) in the shape of the activation, with equal values at all positions.

    It is in memory once. For a channels-last map it is there once for each position in a row of
    the map: a sum over as few as 16 values at a time is not vectorized, which is 15 times slower in
    bfloat16.
    """
    *rows, column = position_axes(len(shape), unit) or [0]
    if not (units_last and rows):
        one = [length if axis in (0, unit) else 1 for axis, length in enumerate(shape)]
        return share.reshape(one).expand(shape)
    width, units = shape[column], shape[unit]
    row = torch.cat([share] * width, dim=1)
    strides = {0: width * units, column: units, unit: 1}
    return row.as_strided(shape, [strides.get(axis, 0) for axis in range(len(shape))])
