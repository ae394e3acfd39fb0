"""Distances to the nearest neighbours: exact, and quick where loops are compiled.

Products of rounded points bound every distance from below. Of each point those with the lowest
bounds are measured in double precision, until the bound of the next exceeds what was found. So no
neighbour is ever missed, and few distances are measured.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import compile_loop, run_in_threads
from unitprobe.metrics._rounded import (
    IndexArray,
    Rounded,
    WholeArray,
    round_points,
    scale_points,
    slack_of_single,
)
from unitprobe.typing import FloatArray

_BLOCK = 512  # points whose products with as many others a thread holds at a time
_SPARE = 36  # candidates of each point beyond thrice the neighbours sought
_SAMPLE = 512  # points whose bounds tell which of the others are worth listing
_FEW = 64  # points that are measured again with all others as candidates, not searched further
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
    list_near, measure = compile_loop(_list_near), compile_loop(_measure_near)
    if list_near is not None and measure is not None:
        unsure = _search(points, round_points(points), nearest, list_near, measure)
    if unsure.size:
        _search_further(points, nearest, unsure)
    return nearest


def _search(
    points: FloatArray,
    rounded: Rounded,
    nearest: FloatArray,
    list_near: Callable[..., None],
    measure: Callable[..., None],
) -> IndexArray:
    """Fill in the distances by compiled loops; return the points that need a longer search."""
    total, count = nearest.shape
    kept = 3 * count + _SPARE
    candidates = np.full((total, 3 * kept), np.iinfo(np.int64).max)
    filled = np.zeros(total, dtype=np.int32)
    reach = _first_reach(rounded, total, kept)
    blocks = [slice(start, min(start + _BLOCK, total)) for start in range(0, total, _BLOCK)]
    locks = [threading.Lock() for _ in blocks]
    # A distance is the same both ways, and so half of the products suffice; in a random order
    # threads seldom want the same block.
    pairs = list(itertools.combinations_with_replacement(range(len(blocks)), 2))
    random.Random(0).shuffle(pairs)
    to_do = iter(pairs)

    def rank(_: int) -> None:
        space, near = np.empty(_BLOCK * _BLOCK, dtype=np.int32), np.empty(_BLOCK, dtype=np.intp)
        for first, second in to_do:
            rows, columns = blocks[first], blocks[second]
            shape = rows.stop - rows.start, columns.stop - columns.start
            products = space[: shape[0] * shape[1]].reshape(shape)
            rounded.multiply(rows, columns, products)
            both = locks[second] if first < second else contextlib.nullcontext()
            with locks[first], both:
                listed = candidates, filled, reach, kept, near
                list_near(products, rounded.floor, rows.start, columns.start, *listed)

    run_in_threads(rank, range(len(locks)))
    sure = np.zeros(total, dtype=np.bool_)

    def settle(rows: IndexArray) -> None:
        ascending = np.sort(candidates[rows], axis=1)
        measure(points, rows, ascending, filled, reach, rounded.scale, nearest, sure)

    run_in_threads(settle, [np.arange(rows.start, rows.stop) for rows in blocks])
    unsure = np.flatnonzero(~sure)
    if len(unsure) > _FEW:
        return unsure
    ascending = _all_others(rounded, unsure)
    filled[unsure] = total - 1
    measure(points, unsure, ascending, filled, reach, rounded.scale, nearest, sure)
    return unsure[:0]


def _all_others(rounded: Rounded, rows: IndexArray) -> NDArray[np.int64]:
    """Return all others as candidates of some points, (row, candidate), the point itself last."""
    total = len(rounded.floor)
    products = np.empty((len(rows), total), dtype=np.int32)
    rounded.multiply(rows, slice(0, total), products)
    bounds = (rounded.floor[rows, None] + rounded.floor - 2 * products).astype(np.int64)
    candidates = (bounds << 32) | np.arange(total)
    candidates[np.arange(len(rows)), rows] = np.iinfo(np.int64).max
    return np.sort(candidates, axis=1)


def _first_reach(rounded: Rounded, total: int, kept: int) -> WholeArray:
    """Return bounds, of which each point has at least `kept` lower ones with few exceptions."""
    reach = np.full(total, np.iinfo(np.int32).max, dtype=np.int32)
    # More of the sample than its share, so that few points have less than `kept` others as near.
    place = 5 + 2 * kept * _SAMPLE // total
    if total < 8 * _SAMPLE or place >= _SAMPLE:
        return reach
    sample = np.arange(_SAMPLE) * (total // _SAMPLE)

    def guess(start: int) -> None:
        rows = slice(start, min(start + _BLOCK, total))
        bounds = np.empty((rows.stop - rows.start, _SAMPLE), dtype=np.int32)
        rounded.multiply(rows, sample, bounds)
        bounds *= -2
        bounds += rounded.floor[sample]
        bounds.partition(place, axis=1)
        reach[rows] = bounds[:, place] + rounded.floor[rows]

    run_in_threads(guess, range(0, total, _BLOCK))
    return reach


def _list_near(
    products: WholeArray,
    floor: WholeArray,
    first_row: int,
    first_column: int,
    candidates: NDArray[np.int64],
    filled: WholeArray,
    reach: WholeArray,
    kept: int,
    near: IndexArray,
) -> None:
    """List for each point the others of the lowest bounds.

    Of points i and j the bound is ``floor[i] + floor[j] - 2 products[i, j]``; it stands above the
    other's number in one number of 64 bits. A full list is cut down to its `kept` lowest, and from
    then on `reach` is the lowest bound that the point may have lost. `near` is work space.
    """
    rows, columns = products.shape
    capacity = candidates.shape[1]
    floor_of_columns = floor[first_column : first_column + columns]
    reach_of_columns = reach[first_column : first_column + columns]
    for row in range(rows):
        i = first_row + row
        floor_of_i = floor[i]
        reach_of_i = reach[i]
        line = products[row]
        found = 0
        for start in range(0, columns, 32):
            product = line[start : start + 32]
            floors = floor_of_columns[start : start + 32]
            reaches = reach_of_columns[start : start + 32]
            # Most 32 hold none that is near, which is told with no branch between them.
            any_near = len(product) < 32
            if not any_near:
                count = np.int32(0)
                for place in range(32):
                    bound = floor_of_i + floors[place] - 2 * product[place]
                    count += np.int32(bound < max(reaches[place], reach_of_i))
                any_near = bool(count > 0)
            if any_near:
                for place in range(len(product)):
                    near[found] = start + place
                    bound = floor_of_i + floors[place] - 2 * product[place]
                    found += bound < max(reaches[place], reach_of_i)
        for place in range(found):
            column = near[place]
            j = first_column + column
            bound = floor_of_i + floor_of_columns[column] - 2 * line[column]
            for way in range(2 if i < j else 0):
                point = j if way else i
                if bound < reach[point]:
                    candidates[point, filled[point]] = (np.int64(bound) << 32) | (i if way else j)
                    filled[point] += 1
                    if filled[point] == capacity:
                        lowest = np.partition(candidates[point], kept)
                        candidates[point, :kept] = lowest[:kept]
                        candidates[point, kept:] = np.iinfo(np.int64).max
                        reach[point] = lowest[kept] >> 32
                        filled[point] = kept


def _measure_near(
    points: FloatArray,
    rows: IndexArray,
    candidates: NDArray[np.int64],
    filled: WholeArray,
    reach: WholeArray,
    scale: float,
    nearest: FloatArray,
    sure: NDArray[np.bool_],
) -> None:
    """Measure the candidates of each row until the next bound exceeds the farthest sought."""
    count = nearest.shape[1]
    units = points.shape[1]
    whole = units - units % 4
    for row in range(len(rows)):
        point = rows[row]
        for place in range(count):
            nearest[point, place] = np.inf
        measured = 0
        # The lowest bound of those not measured: of the next candidate, or of those not listed.
        while True:
            unlisted = measured == filled[point]
            rounded = reach[point] if unlisted else candidates[row, measured] >> 32
            sure[point] = scale * scale * np.float64(max(rounded, 0)) > nearest[point, count - 1]
            if unlisted or sure[point]:
                break
            other = candidates[row, measured] & 0xFFFFFFFF
            # Four sums, of which none waits for the others.
            first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
            for unit in range(0, whole, 4):
                first += (points[point, unit] - points[other, unit]) ** 2
                second += (points[point, unit + 1] - points[other, unit + 1]) ** 2
                third += (points[point, unit + 2] - points[other, unit + 2]) ** 2
                fourth += (points[point, unit + 3] - points[other, unit + 3]) ** 2
            for unit in range(whole, units):
                first += (points[point, unit] - points[other, unit]) ** 2
            squared = (first + second) + (third + fourth)
            place = count - 1
            if squared < nearest[point, place]:
                while place > 0 and nearest[point, place - 1] > squared:
                    nearest[point, place] = nearest[point, place - 1]
                    place -= 1
                nearest[point, place] = squared
            measured += 1
        if filled[point] == points.shape[0] - 1:
            sure[point] = True
        for place in range(count):
            nearest[point, place] = np.sqrt(nearest[point, place])


def _search_further(points: FloatArray, nearest: FloatArray, rows: IndexArray) -> None:
    """Fill in the distances of some points, measuring all that may be neighbours."""
    total, count = nearest.shape
    scaled, _, squares = scale_points(points)
    # In groups of points of like length: the nearest of each group bounds the distances sought.
    size = max(1, min(64, total // (8 * count)))
    groups = -(-total // size)
    places = np.full(groups * size, -1)
    places[:total] = np.argsort(squares)
    places = places.reshape(groups, size).T.ravel()  # index p is in group p % groups
    filled = places >= 0
    single = np.where(filled[:, None], scaled[places], 0.0).astype(np.float32)
    lengths = np.where(filled, squares[places], np.inf).astype(np.float32)
    slack = np.where(filled, slack_of_single(squares, points.shape[1])[places], 0.0).astype(
        np.float32
    )
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
