"""The mean over positions, with a backward pass that costs little beside the layer's own.

Written plainly, the gradient of the mean is expanded over all positions, converted and added to
the layer's gradient: passes over memory that cost more than the arithmetic of the whole term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitprobe.means import mean_over_positions, position_axes


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
        return activation.detach(), mean_over_positions(activation, unit)

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
    *rows, place = position_axes(len(shape), unit) or [0]
    if not (side_by_side and rows):
        one = [length if axis in (0, unit) else 1 for axis, length in enumerate(shape)]
        return share.reshape(one).expand(shape)
    width, units = shape[place], shape[unit]
    row = torch.cat([share] * width, dim=1)
    strides = {0: width * units, place: units, unit: 1}
    return row.as_strided(shape, [strides.get(axis, 0) for axis in range(len(shape))])
