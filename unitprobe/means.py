"""The mean of an activation over its positions, in single precision at least."""

from __future__ import annotations

import torch
from torch import Tensor


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
        (stimulus, unit), in single precision at least; never a view.

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
