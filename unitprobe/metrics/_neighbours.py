"""Distances to the nearest neighbours: exact, and quick where loops are compiled.

A matrix product in a narrow type bounds every squared distance from below, as sharply as the type
allows. Of each point those with the lowest bounds are measured in double precision, until the bound
of the next exceeds what was found. So no neighbour is ever missed, and few distances are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import compile_loop, run_in_threads

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]
SingleArray = NDArray[np.float32]
IndexArray = NDArray[np.intp]

_BLOCK = 1024  # points whose products with as many others a thread holds at a time
_SPARE = 8  # candidates of each point beyond twice the neighbours sought
_TABLES = 8  # tables of candidates, of a thread each
_BOUNDS = 1 << 24  # bounds of distances that are held at a time without compiled loops
_DIFFERENCES = 1 << 18  # differences that are: few enough for the cache of a processor


def nearest_distances(points: FloatArray, count: int) -> FloatArray:
    """Return the exact distances of each point to its nearest neighbours.

    Parameters
    ----------
    points : array
        (point, coordinate), finite.
    count : int
        Neighbours of each point, fewer than there are points.

    Returns
    -------
    array
        (point, neighbour), ascending, the point itself left out.

    Notes
    -----
    The bounds are those of rounding, so no neighbour is ever missed; where clusters are tight
    beside the distances between them they say little, more distances have to be measured, and it
    takes longer.

    Examples
    --------
    >>> import numpy as np
    >>> nearest_distances(np.array([[0.0], [1.0], [3.0]]), 2)
    array([[1., 3.],
           [1., 2.],
           [2., 3.]])
    """
    nearest = np.empty((len(points), count))
    unsure = np.arange(len(points))
    scaled = _scaled(points)
    lowest, measure = compile_loop(_lowest_bounds), compile_loop(_measure_lowest)
    if lowest is not None and measure is not None:
        unsure = _search(points, scaled, nearest, lowest, measure)
    if unsure.size:
        _search_further(points, scaled, nearest, unsure)
    return nearest


class _Scaled(NamedTuple):
    """Points about their mean, at most 1; what they were divided by; and their squared lengths."""

    points: FloatArray
    scale: float
    squares: FloatArray


def _scaled(points: FloatArray) -> _Scaled:
    scaled = points - points.mean(axis=0)
    scale = float(max(scaled.max(), -scaled.min())) or 1.0
    scaled /= scale
    return _Scaled(scaled, scale, np.einsum("ij,ij->i", scaled, scaled))


def _slack(squares: FloatArray, units: int) -> FloatArray:
    """Return twice what rounding to, and sums of products in, single precision come to."""
    small = units * np.finfo(np.float32).tiny
    return (units + 16) * np.finfo(np.float32).eps * squares + small


def _narrowed(scaled: FloatArray, squares: FloatArray) -> tuple[torch.Tensor, FloatArray]:
    """Return the points in bfloat16, and what that may cost.

    The second is (point,): with L a squared distance made of the squared lengths and the product of
    the narrow points, in bfloat16, ``L - slack[i] - slack[j]`` is at most the squared distance.
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
    return narrow, slack + _slack(squares, scaled.shape[1])


def _multiplies_bfloat16() -> bool:
    """Whether the processor does: elsewhere torch is slower in it than in single precision."""
    import torch

    tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 may not have it
    return tell is not None and bool(tell().get("avx512_bf16", False))


def _search(
    points: FloatArray,
    scaled_points: _Scaled,
    nearest: FloatArray,
    lowest: Callable[..., None],
    measure: Callable[..., None],
) -> IndexArray:
    """Fill in the distances by compiled loops; return the points that need a longer search."""
    import torch

    scaled, scale, squares = scaled_points
    total, count = nearest.shape
    if _multiplies_bfloat16():
        narrow, slack = _narrowed(scaled, squares)
    else:
        single, slack = scaled.astype(np.float32), _slack(squares, scaled.shape[1])

    def products(rows: slice, columns: slice) -> SingleArray:
        # torch may be set to multiply less exactly than in single precision, NumPy not.
        if _multiplies_bfloat16():
            return torch.mm(narrow[rows], narrow[columns].T).float().numpy()
        return single[rows] @ single[columns].T

    floor = (squares - slack).astype(np.float32)
    blocks = [slice(start, min(start + _BLOCK, total)) for start in range(0, total, _BLOCK)]
    # A distance is the same both ways, and so half of the products suffice.
    pairs = iter(list(itertools.combinations_with_replacement(blocks, 2)))
    kept = min(2 * count + _SPARE, total - 1)
    threads = min(torch.get_num_threads(), _TABLES)
    candidates = np.zeros((total, threads, kept), dtype=np.int32)
    bounds = np.full((total, threads, kept), np.inf, dtype=np.float32)
    reach = np.full(total, np.inf, dtype=np.float32)

    def rank(thread: int) -> None:
        table = candidates[:, thread], bounds[:, thread], reach
        for rows, columns in pairs:
            lowest(products(rows, columns), floor, rows.start, columns.start, *table)

    run_in_threads(rank, range(threads))
    sure = np.zeros(total, dtype=np.bool_)

    def settle(rows: slice) -> None:
        bounds_of_rows = bounds[rows].reshape(-1, threads * kept)
        order = np.argsort(bounds_of_rows, axis=1)[:, :kept]
        chosen = np.take_along_axis(candidates[rows].reshape(-1, threads * kept), order, axis=1)
        reached = np.take_along_axis(bounds_of_rows, order, axis=1) + floor[rows, None].astype(
            float
        )
        measure(points, rows.start, chosen, reached * (scale * scale), nearest, sure)

    run_in_threads(settle, blocks)
    return np.flatnonzero(~sure)


def _lowest_bounds(
    products: SingleArray,
    floor: SingleArray,
    first_row: int,
    first_column: int,
    candidates: NDArray[np.int32],
    bounds: SingleArray,
    reach: SingleArray,
) -> None:
    """Keep for each point the others of the lowest bounds, as a heap: the highest of them is first.

    Of points i and j the bound is ``floor[j] - 2 products[i, j]``, less the ``floor[i]`` that all
    bounds of i have in common. `reach` is the lowest of the highest that any thread has kept, or
    was so a moment ago: whatever exceeds it is not needed.
    """
    kept = bounds.shape[1]
    rows, columns = products.shape
    floor_of_columns = floor[first_column : first_column + columns]
    reach_of_columns = reach[first_column : first_column + columns]
    for row in range(rows):
        i = first_row + row
        floor_of_i = floor[i]
        reach_of_i = reach[i]
        for column in range(columns):
            doubled = np.float32(2) * products[row, column]
            near_i = floor_of_columns[column] - doubled < reach_of_i
            near_j = floor_of_i - doubled < reach_of_columns[column]
            if near_i | near_j:
                j = first_column + column
                for way in range(2 if i < j else 0):
                    point = j if way else i
                    other = i if way else j
                    bound = floor[other] - doubled
                    if bound < reach[point] and bound < bounds[point, 0]:
                        place = 0
                        child = 1
                        while child < kept:
                            if child + 1 < kept and bounds[point, child + 1] > bounds[point, child]:
                                child += 1
                            if bounds[point, child] <= bound:
                                break
                            bounds[point, place] = bounds[point, child]
                            candidates[point, place] = candidates[point, child]
                            place = child
                            child = 2 * place + 1
                        bounds[point, place] = bound
                        candidates[point, place] = other
                        reach[point] = min(reach[point], bounds[point, 0])
                reach_of_i = reach[i]


def _measure_lowest(
    points: FloatArray,
    start: int,
    candidates: NDArray[np.int32],
    bounds: FloatArray,
    nearest: FloatArray,
    sure: NDArray[np.bool_],
) -> None:
    """Measure the candidates of each row until the next bound exceeds the farthest sought."""
    count = nearest.shape[1]
    kept = candidates.shape[1]
    units = points.shape[1]
    for row in range(candidates.shape[0]):
        point = start + row
        for place in range(count):
            nearest[point, place] = np.inf
        measured = 0
        while measured < kept and bounds[row, measured] <= nearest[point, count - 1]:
            other = candidates[row, measured]
            # Two sums, of which neither waits for the other.
            squared = 0.0
            beside = 0.0
            for unit in range(0, units - 1, 2):
                squared += (points[point, unit] - points[other, unit]) ** 2
                beside += (points[point, unit + 1] - points[other, unit + 1]) ** 2
            if units % 2:
                squared += (points[point, units - 1] - points[other, units - 1]) ** 2
            squared += beside
            place = count - 1
            if squared < nearest[point, place]:
                while place > 0 and nearest[point, place - 1] > squared:
                    nearest[point, place] = nearest[point, place - 1]
                    place -= 1
                nearest[point, place] = squared
            measured += 1
        everything = kept == points.shape[0] - 1
        sure[point] = everything or bounds[row, kept - 1] > nearest[point, count - 1]
        for place in range(count):
            nearest[point, place] = np.sqrt(nearest[point, place])


def _search_further(
    points: FloatArray, scaled_points: _Scaled, nearest: FloatArray, rows: IndexArray
) -> None:
    """Fill in the distances of some points, measuring all that may be neighbours."""
    total, count = nearest.shape
    scaled, _, squares = scaled_points
    # In groups of points of like length: the nearest of each group bounds the distances sought.
    size = max(1, min(64, total // (8 * count)))
    groups = -(-total // size)
    places = np.full(groups * size, -1)
    places[:total] = np.argsort(squares)
    places = places.reshape(groups, size).T.ravel()  # place p is of group p % groups
    filled = places >= 0
    single = np.where(filled[:, None], scaled[places], 0.0).astype(np.float32)
    lengths = np.where(filled, squares[places], np.inf).astype(np.float32)
    slack = np.where(filled, _slack(squares, points.shape[1])[places], 0.0).astype(np.float32)
    group_slack = 2 * slack.reshape(size, groups).max(axis=0)
    place_of = np.empty(total, dtype=np.intp)
    place_of[places[filled]] = np.flatnonzero(filled)

    step = max(1, _BOUNDS // len(places))
    for start in range(0, len(rows), step):
        block = place_of[rows[start : start + step]]
        # Lower bounds of the squared distances, less the squared length of the block's points.
        lower = (-2 * single[block]) @ single.T
        lower += lengths - slack
        lower[np.arange(len(block)), block] = np.inf
        upper = lower.reshape(len(block), size, groups).min(axis=1) + group_slack
        reach = np.partition(upper, count - 1, axis=1)[:, count - 1] + 2 * slack[block]
        own, other = np.divmod(np.flatnonzero(lower <= reach[:, None]), len(places))
        own_places = places[block]
        distances = _exact_distances(points, own_places[own], places[other])
        ascending = np.lexsort((distances, own))
        first = np.searchsorted(own, np.arange(len(block)))
        nearest[own_places] = distances[ascending][first[:, None] + np.arange(count)]


def _exact_distances(points: FloatArray, first: IndexArray, second: IndexArray) -> FloatArray:
    """Return the distance of each pair of points, without cancellation."""
    distances = np.empty(len(first))
    step = max(1, _DIFFERENCES // points.shape[1])
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        difference = points[first[part]]
        difference -= points[second[part]]
        distances[part] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(distances)
