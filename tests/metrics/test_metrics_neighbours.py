"""Nearest neighbours: none is missed, whichever way they are searched."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from unitprobe.metrics import _neighbours, _rounded
from unitprobe.metrics._neighbours import nearest_distances

WAYS = ["bfloat16", "single precision", "without compiled loops"]
each_way = pytest.mark.parametrize("way", WAYS)


@contextlib.contextmanager
def searching(way, **constants):
    if way == "bfloat16" and not _rounded.multiplies_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        if way == "without compiled loops":
            patch.setattr(_neighbours, "compile_loop", lambda function: None)
        else:
            pytest.importorskip("numba")
            patch.setattr(_rounded, "multiplies_bfloat16", lambda: way == "bfloat16")
        for name, value in constants.items():
            patch.setattr(_neighbours, name, value)
        yield


def literal_distances(points, count):
    return np.sort(cdist(points, points), axis=1)[:, 1 : count + 1]


def clustered(seed, n, units, scale, spread):
    rng = np.random.default_rng(seed)
    # Tight clusters and outliers, where narrow numbers alone cannot tell distances apart.
    clusters = rng.normal(size=(3, units)) * 10.0 ** rng.uniform(0, 6)
    points = clusters[rng.integers(0, 3, n)] + rng.normal(size=(n, units))
    return points * np.exp(spread * rng.normal(size=(n, 1))) * 10.0**scale


seeds, sizes = st.integers(0, 2**32 - 1), st.integers(3, 200)


@pytest.mark.slow
@each_way
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, sizes, st.integers(1, 30), st.floats(-8, 8), st.floats(0, 3))
def test_no_neighbour_is_missed_whatever_the_scale_and_spread(way, seed, n, units, scale, spread):
    points = clustered(seed, n, units, scale, spread)
    with searching(way, _BLOCK=64, _SAMPLE=16, _FEW=3):
        for count in {1, 2, min(20, n - 1)}:
            found = nearest_distances(points, count)
            np.testing.assert_allclose(found, literal_distances(points, count), rtol=1e-12)


@pytest.mark.parametrize("way", WAYS[:-1])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, sizes, st.integers(1, 300), st.floats(-8, 8), st.floats(0, 3))
def test_the_bounds_of_rounded_points_are_below_the_distances(way, seed, n, units, scale, spread):
    points = clustered(seed, n, units, scale, spread)
    with searching(way):
        multiply, floor, factor = _rounded.round_points(points)
        products = np.empty((n, n), dtype=np.int32)
        multiply(slice(0, n), slice(0, n), products)
    bounds = floor[:, None].astype(float) + floor - 2.0 * products
    assert np.all(np.abs(bounds) < 2**31)
    bounds = factor * np.sqrt(np.maximum(bounds, 0))
    np.fill_diagonal(bounds, 0)
    assert np.all(bounds <= cdist(points, points) * (1 + 1e-12))


@each_way
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_give_what_the_whole_gives(way, threads):
    points = np.random.default_rng(3).normal(size=(300, 7))
    before = torch.get_num_threads()
    with searching(way):
        whole = nearest_distances(points, 20)
    torch.set_num_threads(threads)
    try:
        with searching(way, _BLOCK=64, _BOUNDS=5000, _DIFFERENCES=100):
            np.testing.assert_array_equal(nearest_distances(points, 20), whole)
    finally:
        torch.set_num_threads(before)


@each_way
def test_the_values_are_those_of_the_others(way):
    points = np.maximum(np.random.default_rng(4).normal(size=(2500, 33)), 0)
    with searching(way):
        found = nearest_distances(points, 5)
    np.testing.assert_allclose(found, literal_distances(points, 5), rtol=1e-13)
