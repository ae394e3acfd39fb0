"""Resampled class means: every draw is the draw it claims to be, and the seed decides it."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference import resampling

BOTH = [resampling.shuffled_class_means, resampling.bootstrapped_class_means]


@pytest.fixture(scope="module")
def layer():
    """Rectified noise of 6 units, one of them dead, to unbalanced classes, one of them absent."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1, 3], [20, 5, 11]))
    responses = np.maximum(rng.normal(size=(36, 6)), 0)
    responses[:, 4] = 0.0
    return responses, labels


def all_of(blocks):
    return np.concatenate(list(blocks))


def test_a_shuffle_is_the_class_means_of_permuted_labels():
    # Responses that are powers of two name the stimuli in every class sum.
    responses = 2.0 ** np.arange(12)[:, None]
    labels = np.repeat([0, 1, 3], [5, 4, 3])
    means = all_of(resampling.shuffled_class_means(responses, labels, resamples=30, seed=1))
    assert means.shape == (30, 4, 1)
    assert np.isnan(means[:, 2]).all()
    sums = (means[:, [0, 1, 3], 0] * [5, 4, 3]).round().astype(int)
    for classes in sums:
        assert [bin(members).count("1") for members in classes] == [5, 4, 3]
        assert classes.sum() == 2**12 - 1
    assert len(np.unique(sums[:, 0])) > 20


def test_a_bootstrap_draws_as_many_stimuli_of_each_class_from_that_class():
    # Base 4 tells how often each stimulus was drawn.
    labels = np.array([1, 0, 1, 0, 1])
    responses = 4.0 ** np.array([0, 1, 2, 3, 4])[:, None]
    means = all_of(resampling.bootstrapped_class_means(responses, labels, resamples=40, seed=1))
    sums = (means[:, :, 0] * [2, 3]).round().astype(int)
    times = sums[:, :, None] // 4 ** np.arange(5) % 4
    assert (times.sum(2) == [2, 3]).all()
    assert not times[:, 0, labels == 1].any()
    assert not times[:, 1, labels == 0].any()
    assert len(np.unique(sums[:, 1])) > 5


def test_bootstrapped_means_vary_as_the_standard_error(layer):
    responses, labels = layer
    means = all_of(resampling.bootstrapped_class_means(responses, labels, resamples=4000, seed=0))
    members = responses[labels == 0]
    np.testing.assert_allclose(means[:, 0].std(0), members.std(0) / 20**0.5, rtol=0.05)
    np.testing.assert_allclose(means[:, 0].mean(0), members.mean(0), atol=0.02)


@pytest.mark.parametrize("resampled", BOTH)
def test_the_seed_decides_and_the_block_size_does_not(layer, resampled):
    responses, labels = layer
    whole = all_of(resampled(responses, labels, resamples=20, seed=5))
    for block_size in (1, 7, 20, 100):
        blocks = list(resampled(responses, labels, resamples=20, seed=5, block_size=block_size))
        assert max(map(len, blocks)) == min(block_size, 20)
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
    other = all_of(resampled(responses, labels, resamples=20, seed=6))
    assert (other != whole)[:, 0, 0].any()


@pytest.mark.parametrize("resampled", BOTH)
def test_a_unit_has_the_same_resamples_whatever_is_beside_it(layer, resampled):
    responses, labels = layer
    whole = all_of(resampled(responses, labels, resamples=8, seed=5))
    alone = all_of(resampled(responses[:, [3]], labels, resamples=8, seed=5))
    np.testing.assert_array_equal(alone[:, :, 0], whole[:, :, 3])


@pytest.mark.parametrize("resampled", BOTH)
def test_blocks_are_bounded_in_memory(resampled):
    responses = np.ones((2000, 500), dtype=np.float32)
    blocks = resampled(responses, np.arange(2000) % 100, resamples=400, seed=0)
    first = next(blocks)
    assert first.nbytes <= resampling.BLOCK_BYTES
    assert first.dtype == np.float64


@pytest.mark.parametrize("resampled", BOTH)
def test_class_count_adds_absent_classes(layer, resampled):
    responses, labels = layer
    means = all_of(resampled(responses, labels, resamples=3, seed=0, class_count=7))
    assert np.isnan(means).all(axis=(0, 2)).tolist() == [False, False, True, False, *[True] * 3]


@pytest.mark.parametrize("resampled", BOTH)
def test_wrong_arguments_are_refused_at_the_call(layer, resampled):
    responses, labels = layer
    with pytest.raises(OptionError, match="resamples=0"):
        resampled(responses, labels, resamples=0, seed=0)
    with pytest.raises(OptionError, match="block_size=0"):
        resampled(responses, labels, resamples=1, seed=0, block_size=0)
    with pytest.raises(LabelError, match="fit"):
        resampled(responses, labels[:-1], resamples=1, seed=0)
    with pytest.raises(ResponseError, match="NaN"):
        resampled(responses * np.nan, labels, resamples=1, seed=0)
