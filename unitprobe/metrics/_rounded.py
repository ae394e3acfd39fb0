"""Rounded points, whose products bound the distances of the points themselves from below.

Products of rounded numbers are faster than those in double precision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unitprobe.typing import FloatArray

if TYPE_CHECKING:
    import torch

WholeArray: TypeAlias = NDArray[np.int32]
IndexArray: TypeAlias = NDArray[np.intp]
Rows: TypeAlias = slice | IndexArray

_LONGEST = 2.0**14  # scaled point, so that products are whole numbers of 32 bits


class Rounded(NamedTuple):
    """Rounded points, and a function that multiplies some of them with others.

    The distance of points i and j is at least ``scale * sqrt(floor[i] + floor[j] - 2 product)``.
    """

    multiply: Callable[[Rows, Rows, WholeArray], None]
    floor: WholeArray
    scale: float


class Scaled(NamedTuple):
    """Points about their mean, scaled; what they were divided by; and their squared lengths."""

    points: FloatArray
    scale: float
    squares: FloatArray


def round_points(points: FloatArray) -> Rounded:
    """Round points to bfloat16 where the processor multiplies it, else to single precision.

    Parameters
    ----------
    points : array
        (point, coordinate), finite.
    """
    import torch

    scaled, scale, squares = scale_points(points)
    if multiplies_bfloat16():
        narrow, slack = narrowed(scaled, squares)
    else:
        single, slack = scaled.astype(np.float32), slack_of_single(squares, scaled.shape[1])

    def multiply(rows: Rows, columns: Rows, products: WholeArray) -> None:
        # torch may be set to multiply less exactly than in single precision, NumPy not.
        if multiplies_bfloat16():
            torch.from_numpy(products).copy_(torch.mm(narrow[rows], narrow[columns].T))
        else:
            np.copyto(products, single[rows] @ single[columns].T, casting="unsafe")

    # A product loses less than 1, and so both points together less than 2, to whole numbers.
    floor = (np.floor(squares - slack) - 1).astype(np.int32)
    return Rounded(multiply, floor, scale)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether the processor does: elsewhere torch is slower in it than in single precision."""
    import torch

    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 may not have it
    return tell is not None and bool(tell().get("avx512_bf16", False))


def scale_points(points: FloatArray) -> Scaled:
    """Move points to their mean, and scale the longest to a length of 2^14.

    Parameters
    ----------
    points : array
        (point, coordinate), finite.

    Returns
    -------
    Scaled
        The points, what they were divided by, and their squared lengths, (point,).
    """
    scaled = points - points.mean(axis=0)
    scale = float(max(scaled.max(), -scaled.min())) or 1.0
    scaled /= scale
    shrink = np.sqrt(np.einsum("ij,ij->i", scaled, scaled).max()) / _LONGEST or 1.0
    scaled /= shrink
    return Scaled(scaled, scale * float(shrink), np.einsum("ij,ij->i", scaled, scaled))


def slack_of_single(squares: FloatArray, units: int) -> FloatArray:
    """Return twice what rounding to, and sums of products in, single precision come to.

    Parameters
    ----------
    squares : array
        (point,), squared lengths.
    units : int
        Coordinates of each point.

    Returns
    -------
    array
        (point,), what to take from a squared distance for either of its points.
    """
    small = units * np.finfo(np.float32).tiny
    return (units + 16) * np.finfo(np.float32).eps * squares + small


def narrowed(scaled: FloatArray, squares: FloatArray) -> tuple[torch.Tensor, FloatArray]:
    """Return the points in bfloat16, and what that may cost.

    Parameters
    ----------
    scaled : array
        (point, coordinate).
    squares : array
        (point,), squared lengths.

    Returns
    -------
    narrow : torch.Tensor
        (point, coordinate), bfloat16.
    slack : array
        (point,): with L a squared distance made of the squared lengths and the product of the
        narrow points, in bfloat16, ``L - slack[i] - slack[j]`` is at most the squared distance.
    """
    import torch

    narrow = torch.from_numpy(scaled).bfloat16()
    lost = scaled - narrow.double().numpy()
    lengths, lost_lengths = np.sqrt(squares), np.sqrt(np.einsum("ij,ij->i", lost, lost))
    # With e and f what x and y lost, 2 x.y is off by at most 2 (|x| |f| + |e| |y| + |e| |f|);
    # and 2 a b <= r a^2 + b^2 / r, for any r. The product has 8 bits: it is rounded by 2^-8 of it.
    ratio = (lost_lengths.max() or np.finfo(np.float32).tiny) / (lengths.max() or 1.0)
    slack = ratio * squares + lost_lengths**2 / ratio + lost_lengths**2
    slack += 2.0**-8 * (lengths + lost_lengths) ** 2
    return narrow, slack + slack_of_single(squares, scaled.shape[1])
