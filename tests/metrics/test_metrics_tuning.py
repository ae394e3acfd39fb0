"""Tuning: variances and activity by class, and the stimuli that drive a unit most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics import _arrays


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.repeat([0, 1, 2, 4], [11, 1, 31, 17]))
    responses = np.maximum(rng.normal(size=(5, 6))[labels] + rng.normal(size=(60, 6)), 0)
    responses[:, 3] = 0.0
    return responses, labels


def test_variances_are_those_of_a_loop_over_classes(layer):
    responses, labels = layer
    variances = metrics.class_variances(responses, labels, 6)
    for c in (0, 1, 2, 4):
        np.testing.assert_allclose(variances[c], responses[labels == c].var(axis=0), rtol=1e-12)
    assert (variances[1] == 0).all()
    assert np.isnan(variances[[3, 5]]).all()


def test_variances_do_not_drown_in_a_large_mean():
    labels = np.arange(400) % 4
    deviations = np.random.default_rng(0).integers(-4, 5, size=(400, 3)) / 4.0
    near, far = (metrics.class_variances(deviations + m, labels) for m in (0, 1e12))
    np.testing.assert_allclose(far, near, rtol=1e-9)


def test_the_variance_of_a_class_that_does_not_vary_is_0():
    labels = np.repeat([0, 1], [3, 50])
    variances = metrics.class_variances(np.where(labels == 1, 0.3, 0.1)[:, None], labels)
    assert variances.tolist() == [[0.0], [0.0]]


def test_the_share_active_is_counted_within_each_class(layer):
    responses, labels = layer
    share = metrics.class_fraction_active(responses, labels, 6)
    for c in (0, 1, 2, 4):
        np.testing.assert_allclose(share[c], (responses[labels == c] > 0).mean(axis=0))
    assert np.isnan(share[[3, 5]]).all()
    weights = metrics.class_counts(labels, 6)[:, None]
    np.testing.assert_allclose(
        np.nansum(share * weights, axis=0) / 60, metrics.fraction_active(responses), rtol=1e-12
    )
    assert metrics.class_fraction_active(-responses - 1, labels)[0].tolist() == [0] * 6


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([2, 5, 1000]))
def test_the_top_stimuli_are_the_first_of_a_stable_descending_sort(seed, k, values):
    responses = np.random.default_rng(seed).integers(0, values, size=(20, 4)) - 1.0
    expected = [sorted(range(20), key=lambda i, x=column: (-x[i], i))[:k] for column in responses.T]
    assert metrics.top_stimuli(responses, k).T.tolist() == expected


def test_blocks_of_units_change_no_top_stimuli(layer, monkeypatch):
    responses, _ = layer
    whole = metrics.top_stimuli(responses, 5)
    monkeypatch.setattr(_arrays, "BLOCK_SIZE", 130)
    np.testing.assert_array_equal(metrics.top_stimuli(responses, 5), whole)


def test_what_makes_no_sense_is_refused():
    responses = np.ones((4, 2))
    for k in (0, 5):
        with pytest.raises(OptionError, match=f"k={k} is not between 1 and the 4 stimuli"):
            metrics.top_stimuli(responses, k)
    with pytest.raises(ResponseError, match="NaN"):
        metrics.top_stimuli(responses * np.nan, 1)
    for measure in (metrics.class_variances, metrics.class_fraction_active):
        with pytest.raises(LabelError, match="label 3 is not one of the classes"):
            measure(responses, np.array([0, 1, 2, 3]), 3)
        with pytest.raises(ResponseError, match="NaN"):
            measure(responses * np.nan, np.array([0, 1, 2, 3]))
