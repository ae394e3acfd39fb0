"""Rounded points, whose products bound the distances of the points themselves from below.

The fewer bits a number has, the quicker a processor multiplies it: four times as quick in bytes as
in single precision, twice in bfloat16. Bytes have one step for all coordinates, bfloat16 has one
for each number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import run_in_threads
from unitprobe.typing import FloatArray

if TYPE_CHECKING:
    import torch

WholeArray: TypeAlias = NDArray[np.int32]
IndexArray: TypeAlias = NDArray[np.intp]
Rows: TypeAlias = slice | IndexArray

_ROWS = 512  # points that are rounded at a time
_SAMPLE = 256  # points whose distances tell whether bytes are enough
_LOSS = 0.03  # of the distance to a neighbour, that bytes may lose: more is more to measure
_LARGEST = 127  # byte
_LONGEST = 2.0**14  # scaled point, so that products are whole numbers of 32 bits


class Rounded(NamedTuple):
    """Points as rounded, of which some are multiplied with some.

    The distance of points i and j is at least
    ``step * sqrt(floor[i] + floor[j] - 2 product) - lost[i] - lost[j]``.
    """

    multiply: Callable[[Rows, Rows, WholeArray], None]
    floor: WholeArray
    step: float
    lost: FloatArray


class Scaled(NamedTuple):
    """Points about their mean, scaled; what they were divided by; and their squared lengths."""

    points: FloatArray
    scale: float
    squares: FloatArray


def round_points(points: FloatArray) -> Rounded:
    """Round points to the narrowest numbers that this processor multiplies, and that suffice.

    Parameters
    ----------
    points : array
        (point, coordinate), finite.

    Returns
    -------
    Rounded
        Whatever the numbers are, the bound of a distance holds.
    """
    if multiplies_bytes() and 4 * _LARGEST**2 * points.shape[1] < np.iinfo(np.int32).max:
        rounded = _round_to_bytes(points)
        if _suffices(rounded, len(points)):
            return rounded
    return _round_each(points)


@functools.cache
def multiplies_bytes() -> bool:
    """Tell whether the processor does, exactly and quickly: torch does not say so elsewhere."""
    import torch

    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 may not have it
    multiply = getattr(torch, "_int_mm", None)  # and this has no public name
    if tell is None or multiply is None or not tell().get("avx512_vnni", False):
        return False
    largest = torch.full((64, 64), _LARGEST, dtype=torch.int8)
    return bool((multiply(largest, -largest) == -64 * _LARGEST**2).all())


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether the processor does: elsewhere torch is slower in it than in single precision."""
    import torch

    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 may not have it
    return tell is not None and bool(tell().get("avx512_bf16", False))


def _round_to_bytes(points: FloatArray) -> Rounded:
    import torch

    lowest = points.min(axis=0)
    half = points.max(axis=0) / 2 - lowest / 2
    step = max(float(half.max()) / _LARGEST, float(np.finfo(np.float64).tiny))
    units = points.shape[1]
    # A column of zeros beside a single unit: torch 2.14 multiplies n x 1 by 1 x n bytes wrongly.
    narrow = np.zeros((len(points), max(units, 2)), dtype=np.int8)
    floor, lost = np.empty(len(points), dtype=np.int32), np.empty(len(points))

    def round_rows(start: int) -> None:
        rows = slice(start, start + _ROWS)
        steps = (points[rows] - lowest) / step - _LARGEST
        # The lowest of each coordinate, 0 of a rectified unit, loses nothing.
        whole = np.rint(steps)
        narrow[rows, :units] = whole
        floor[rows] = np.einsum("ij,ij->i", whole, whole)
        steps -= whole
        lost[rows] = np.sqrt(np.einsum("ij,ij->i", steps, steps))

    run_in_threads(round_rows, range(0, len(points), _ROWS))
    # More than the double precision of the steps, and of distances that are measured, comes to.
    lost += 1e-6 * np.sqrt(units)
    tensor = torch.from_numpy(narrow)

    def multiply(rows: Rows, columns: Rows, products: WholeArray) -> None:
        torch._int_mm(tensor[rows], tensor[columns].T, out=torch.from_numpy(products))

    return Rounded(multiply, floor, step, step * lost)


def _suffices(rounded: Rounded, total: int) -> bool:
    """Tell whether little is lost of the distance to a neighbour, by that of some points."""
    among = slice(0, total, -(-total // _SAMPLE))
    floor = rounded.floor[among]
    products = np.empty((len(floor), len(floor)), dtype=np.int32)
    rounded.multiply(among, among, products)
    bounds = floor[:, None] + floor - 2 * products
    np.fill_diagonal(bounds, np.iinfo(np.int32).max)
    neighbour = rounded.step * np.sqrt(np.median(bounds.min(axis=1)))
    return bool(2 * rounded.lost.max() <= _LOSS * neighbour)


def _round_each(points: FloatArray) -> Rounded:
    """Round every number to as many bits: in bfloat16, or in single precision."""
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
    return Rounded(multiply, floor, scale, np.zeros(len(points)))


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
