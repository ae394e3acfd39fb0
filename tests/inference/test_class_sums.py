"""Sums over draws: as the slow sums, to the stated precision, in any block and beside any unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe.inference.class_sums import ResponseTiles, prepare_draws


def class_means(responses, layouts, counts):
    tiles, draws = ResponseTiles(responses), prepare_draws(layouts, counts)
    assert [units.start for units in tiles.units_of_tile] == [*range(0, responses.shape[1], 32)]
    parts = [tiles.class_means(tile, draws) for tile in range(len(tiles.units_of_tile))]
    return np.concatenate(parts, axis=2)


def slow_class_means(responses, layouts, counts):
    ends = np.cumsum(counts)
    return np.array(
        [
            [
                responses[layout[end - count : end]].mean(0) if count else responses[0] * np.nan
                for end, count in zip(ends, counts, strict=True)
            ]
            for layout in layouts
        ]
    )


@given(
    counts=st.lists(st.sampled_from([0, 1, 5, 256, 300, 4096]), min_size=1, max_size=4).filter(sum),
    units=st.sampled_from([1, 31, 32, 33, 70]),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    scale=st.sampled_from([1e-40, 1.0, 1e40]),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=15)
def test_means_are_within_the_stated_distance_of_the_slow_ones(counts, units, offset, scale, seed):
    rng = np.random.default_rng(seed)
    responses = scale * (offset + np.maximum(rng.normal(size=(sum(counts), units)), 0))
    layouts = np.stack([rng.permutation(sum(counts)) for _ in range(3)])
    found = class_means(responses, layouts, np.array(counts))
    expected = slow_class_means(responses, layouts, counts)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    bound = 1.6e-5 * (expected - responses.min(0)) + 1e-12 * np.abs(responses).max()
    assert np.all((np.abs(found - expected) <= bound) | np.isnan(found))
    spread = np.ptp(responses, axis=0)
    if sum(counts) > 1:
        error = np.abs(found - expected) / np.where(spread > 0, spread, np.inf)
        assert np.nanmax(error) < 1e-6


def test_small_integers_and_constants_are_summed_exactly():
    rng = np.random.default_rng(0)
    responses = rng.integers(0, 100, size=(3000, 3)).astype(float)
    responses[:, 2] = 0.1
    layouts, counts = rng.permutation(3000)[None], np.array([2000, 1000])
    means = class_means(responses, layouts, counts)
    expected = slow_class_means(responses, layouts, counts)
    np.testing.assert_array_equal(means[:, :, :2], expected[:, :, :2])
    np.testing.assert_array_equal(means[:, :, 2], 0.1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads):
    import torch

    rng = np.random.default_rng(0)
    responses = rng.normal(size=(500, 100))
    layouts = np.stack([rng.permutation(500) for _ in range(20)])
    whole = class_means(responses, layouts, np.array([300, 200]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = class_means(responses[:, 70:], layouts[7:], np.array([300, 200]))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again, whole[7:, :, 70:])
