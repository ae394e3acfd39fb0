"""Vectors in compiled loops do what arrays of 16 numbers do."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from unitprobe.ablation.partial_forward import simd  # noqa: E402
from unitprobe.ablation.partial_forward.simd import (  # noqa: E402
    fetch,
    floats,
    load,
    load_number,
    rectify,
    shift,
    spread,
    store,
)


def run(function, *arrays):
    """Return what a function of vectors makes of the first 16 numbers of arrays."""
    compute = simd.part(function)

    @numba.njit
    def loop(first, second, result):
        store(floats(result), 0, compute(load(floats(first), 0), load(floats(second), 0)))

    result = np.full(17, 7, np.float32)
    loop(*arrays, result)
    assert result[16] == 7, "wrote further than a vector"
    return result[:16]


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return [generator.normal(size=20).astype(np.float32) for _ in range(2)]


def test_vectors_are_added_subtracted_and_multiplied(arrays):
    left, right = (array[:16] for array in arrays)
    found = run(lambda one, other: one * other, *arrays)
    np.testing.assert_array_equal(found, left * right)
    found = run(lambda one, other: one - other, *arrays)
    np.testing.assert_array_equal(found, left - right)
    found = run(lambda one, other: one + other, *arrays)
    np.testing.assert_array_equal(found, left + right)


def test_a_number_multiplies_a_vector(arrays):
    three = np.float32(3)
    found = run(lambda one, other: three * one - other, *arrays)
    np.testing.assert_allclose(found, 3 * arrays[0][:16] - arrays[1][:16], rtol=1e-6, atol=1e-6)


def test_rectify_keeps_what_is_not_below_zero(arrays):
    arrays[0][:3] = np.nan, -np.inf, np.inf
    found = run(lambda one, _: rectify(one), *arrays)
    np.testing.assert_array_equal(found, np.where(arrays[0] < 0, 0, arrays[0])[:16])


def test_loads_from_any_offset(arrays):
    @numba.njit
    def loop(array, result):
        pointer = floats(array)
        store(floats(result), 1, load(pointer, 3) + spread(load_number(pointer, 19)))

    result = np.zeros(18, np.float32)
    loop(arrays[0], result)
    np.testing.assert_array_equal(result[1:17], arrays[0][3:19] + arrays[0][19])
    assert result[0] == result[17] == 0


def test_fetching_changes_nothing(arrays):
    @numba.njit
    def loop(array, result):
        pointer = shift(floats(array), 2)
        fetch(pointer, 0)
        store(floats(result), 0, load(pointer, 1))

    result = np.zeros(16, np.float32)
    loop(arrays[0], result)
    np.testing.assert_array_equal(result, arrays[0][3:19])
