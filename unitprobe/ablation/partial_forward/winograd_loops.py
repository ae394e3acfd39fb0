"""The compiled loop of `winograd_tiles`: a convolution in tiles, and what follows it.

A few tiles at a time are brought into components, multiplied and brought back while they lie near
the processor. Units lie next to each other in memory and are taken `WIDTH` at a time.

This module needs numba, and is imported only where the loop is compiled.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unitprobe.ablation.partial_forward.simd import (
    WIDTH,
    fetch,
    floats,
    load,
    load_number,
    part,
    rectify,
    shift,
    spread,
    store,
)

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
Shape: TypeAlias = tuple[int, int, int, int]
#: What only numba can tell apart.
Pointer: TypeAlias = Any
Vector: TypeAlias = Any
Six: TypeAlias = tuple[Vector, Vector, Vector, Vector, Vector, Vector]

#: Tiles whose sums are held in registers at a time; of 16 registers of 8 numbers they take 12.
STEP = 6

# A plain number would make the arithmetic double.
_ZERO, _TWO, _FOUR, _FIVE, _EIGHT = (np.float32(number) for number in (0, 2, 4, 5, 8))


def convolve(
    maps: Floats,
    intact: Floats,
    base: Floats,
    stimulus_of: Integers,
    kernels: Floats,
    shortcut: Floats,
    has_shortcut: bool,
    relu: bool,
    result: Floats,
    patch: Floats,
    parts: Floats,
    mixed: Floats,
) -> None:
    """Fill ``result = convolution(maps - intact) + base + shortcut``, with a ReLU if asked.

    Parameters
    ----------
    maps, shortcut, result : array (map, y, x, unit)
        A shortcut is read only if `has_shortcut`.
    intact, base : array (stimulus, y, x, unit)
        Subtracted before, and added after.
    stimulus_of : array (map,)
        The stimulus of each map.
    kernels : array (36, output unit / WIDTH, input unit, WIDTH)
        In components.
    patch : array (36 * unit,)
        Work space for one tile.
    parts, mixed : array (36, number)
        Work space for the components of some tiles, a multiple of `STEP`, before and after the
        product: as many numbers as tiles times units, and perhaps a few more.
    """
    count, height, width, out = result.shape
    into = maps.shape[3]
    tiles = -(-height // 4) * -(-width // 4)
    places = height * width
    room = min(parts.shape[1] // into, mixed.shape[1] // out) // STEP * STEP
    one = floats(patch)
    for first in range(0, count * tiles, room):
        some = min(room, count * tiles - first)
        _analyze(maps, intact, stimulus_of, first, some, parts, one)
        # Memory has nothing to do while the processor multiplies: it brings what comes after, of
        # the positions from here on, as far as they lie in order.
        row, now = first // tiles, first * places // tiles
        next_row = min(first + some, count * tiles - 1) // tiles
        then = (first + some) * places // tiles
        soon = (
            shift(floats(maps), then * into),
            shift(floats(intact), (then + (stimulus_of[next_row] - next_row) * places) * into),
            shift(floats(base), (now + (stimulus_of[row] - row) * places) * out),
            shift(floats(shortcut), now * out),
            shift(floats(result), now * out),
        )
        numbers = some * places // tiles * min(into, out)
        _multiply(parts, kernels, mixed, some, into, out, soon, numbers)
        _synthesize(
            mixed, base, stimulus_of, shortcut, has_shortcut, relu, result, first, some, one
        )


@part
def _analyze(
    maps: Floats,
    intact: Floats,
    stimulus_of: Integers,
    first: int,
    count: int,
    parts: Floats,
    patch: Pointer,
) -> None:
    """Bring the change in some tiles into components (36, tile * unit)."""
    _, height, width, units = maps.shape
    tall, wide = -(-height // 4), -(-width // 4)
    one, other, to, slot = floats(maps), floats(intact), floats(parts), parts.shape[1]
    for tile in range(count):
        row, place = divmod(first + tile, tall * wide)
        top, left = 4 * (place // wide) - 1, 4 * (place % wide) - 1
        apart = (stimulus_of[row] - row) * height * width * units
        for y in range(6):
            inside = 0 <= top + y < height
            for unit in range(0, units, WIDTH):
                at = ((row * height + top + y) * width + left) * units + unit
                line = (
                    _change(one, other, at, apart, inside and left >= 0),
                    _change(one, other, at + units, apart, inside),
                    _change(one, other, at + 2 * units, apart, inside and left + 2 < width),
                    _change(one, other, at + 3 * units, apart, inside and left + 3 < width),
                    _change(one, other, at + 4 * units, apart, inside and left + 4 < width),
                    _change(one, other, at + 5 * units, apart, inside and left + 5 < width),
                )
                _store_six(patch, 6 * y * units + unit, units, _to_components(line))
        for x in range(6):
            for unit in range(0, units, WIDTH):
                column = _load_six(patch, x * units + unit, 6 * units)
                at = x * slot + tile * units + unit
                _store_six(to, at, 6 * slot, _to_components(column))


@part
def _multiply(
    parts: Floats,
    kernels: Floats,
    mixed: Floats,
    count: int,
    into: int,
    out: int,
    soon: tuple[Pointer, Pointer, Pointer, Pointer, Pointer],
    numbers: int,
) -> None:
    """Multiply components (36, tile * input unit) by their kernels; fetch what is needed soon."""
    given, given_slot = floats(parts), parts.shape[1]
    found, found_slot = floats(mixed), mixed.shape[1]
    weights = floats(kernels)
    rounds = 36 * (out // WIDTH) * -(-count // STEP)
    share = -(-numbers // (rounds * WIDTH)) * WIDTH
    fetched = 0
    for component in range(36):
        for unit in range(0, out, WIDTH):
            panel = (component * out + unit) * into
            for tile in range(0, count, STEP):
                for ahead in range(fetched, min(numbers, fetched + share), WIDTH):
                    fetch(soon[0], ahead)
                    fetch(soon[1], ahead)
                    fetch(soon[2], ahead)
                    fetch(soon[3], ahead)
                    fetch(soon[4], ahead)
                fetched += share
                at = component * given_slot + tile * into
                sum0 = sum1 = sum2 = sum3 = sum4 = sum5 = spread(_ZERO)
                for k in range(into):
                    weight = load(weights, panel + k * WIDTH)
                    sum0 = sum0 + load_number(given, at + k) * weight
                    sum1 = sum1 + load_number(given, at + into + k) * weight
                    sum2 = sum2 + load_number(given, at + 2 * into + k) * weight
                    sum3 = sum3 + load_number(given, at + 3 * into + k) * weight
                    sum4 = sum4 + load_number(given, at + 4 * into + k) * weight
                    sum5 = sum5 + load_number(given, at + 5 * into + k) * weight
                to = component * found_slot + tile * out + unit
                _store_six(found, to, out, (sum0, sum1, sum2, sum3, sum4, sum5))


@part
def _synthesize(
    mixed: Floats,
    base: Floats,
    stimulus_of: Integers,
    shortcut: Floats,
    has_shortcut: bool,
    relu: bool,
    result: Floats,
    first: int,
    count: int,
    patch: Pointer,
) -> None:
    """Bring components (36, tile * unit) back to tiles, and add to them."""
    _, height, width, units = result.shape
    tall, wide = -(-height // 4), -(-width // 4)
    given, slot = floats(mixed), mixed.shape[1]
    intact, added, to = floats(base), floats(shortcut), floats(result)
    for tile in range(count):
        row, place = divmod(first + tile, tall * wide)
        top, left = 4 * (place // wide), 4 * (place % wide)
        apart = (stimulus_of[row] - row) * height * width * units
        for x in range(6):
            for unit in range(0, units, WIDTH):
                column = _load_six(given, x * slot + tile * units + unit, 6 * slot)
                places = _to_positions(column)
                at = x * units + unit
                store(patch, at, places[0])
                store(patch, at + 6 * units, places[1])
                store(patch, at + 12 * units, places[2])
                store(patch, at + 18 * units, places[3])
        for y in range(min(4, height - top)):
            for unit in range(0, units, WIDTH):
                at = ((row * height + top + y) * width + left) * units + unit
                line = _to_positions(_load_six(patch, 6 * y * units + unit, units))
                _put(line[0], intact, at + apart, added, has_shortcut, relu, to, at)
                if left + 1 < width:
                    at += units
                    _put(line[1], intact, at + apart, added, has_shortcut, relu, to, at)
                if left + 2 < width:
                    at += units
                    _put(line[2], intact, at + apart, added, has_shortcut, relu, to, at)
                if left + 3 < width:
                    at += units
                    _put(line[3], intact, at + apart, added, has_shortcut, relu, to, at)


@part
def _put(
    value: Vector,
    intact: Pointer,
    place: int,
    added: Pointer,
    has_shortcut: bool,
    relu: bool,
    result: Pointer,
    at: int,
) -> None:
    value = value + load(intact, place)
    if has_shortcut:
        value = value + load(added, at)
    if relu:
        value = rectify(value)
    store(result, at, value)


@part
def _change(maps: Pointer, intact: Pointer, at: int, apart: int, inside: bool) -> Vector:
    if inside:
        return load(maps, at) - load(intact, at + apart)
    return spread(_ZERO)


@part
def _to_components(places: Six) -> Six:
    """Apply the analysis of `transform_of(4)`, in whole numbers, to 6 positions of a line."""
    x0, x1, x2, x3, x4, x5 = places
    even, odd = x4 - _FOUR * x2, x3 - _FOUR * x1
    even2, odd2 = x4 - x2, _TWO * (x3 - x1)
    return (
        _FOUR * x0 - _FIVE * x2 + x4,
        even + odd,
        even - odd,
        even2 + odd2,
        even2 - odd2,
        _FOUR * x1 - _FIVE * x3 + x5,
    )


@part
def _to_positions(components: Six) -> tuple[Vector, Vector, Vector, Vector]:
    """Apply the synthesis of `transform_of(4)` to 6 components of a line."""
    x0, x1, x2, x3, x4, x5 = components
    even, odd, even2, odd2 = x1 + x2, x1 - x2, x3 + x4, x3 - x4
    return (
        x0 + even + even2,
        odd + _TWO * odd2,
        even + _FOUR * even2,
        odd + _EIGHT * odd2 + x5,
    )


@part
def _load_six(pointer: Pointer, at: int, step: int) -> Six:
    return (
        load(pointer, at),
        load(pointer, at + step),
        load(pointer, at + 2 * step),
        load(pointer, at + 3 * step),
        load(pointer, at + 4 * step),
        load(pointer, at + 5 * step),
    )


@part
def _store_six(pointer: Pointer, at: int, step: int, values: Six) -> None:
    store(pointer, at, values[0])
    store(pointer, at + step, values[1])
    store(pointer, at + 2 * step, values[2])
    store(pointer, at + 3 * step, values[3])
    store(pointer, at + 4 * step, values[4])
    store(pointer, at + 5 * step, values[5])
