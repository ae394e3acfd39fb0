"""The rotation that shows the most selectivity: planted, absent, and honest about overfitting."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference.upper_bound import selectivity_upper_bound

CLASSES = 6
LABELS = np.arange(1200) % CLASSES


def perfectly_selective(units=12, seed=0):
    """Each unit responds to the stimuli of one class alone."""
    rng = np.random.default_rng(seed)
    strength = np.maximum(rng.normal(2.0, 0.5, (len(LABELS), units)), 0.0)
    return strength * (LABELS[:, None] == np.arange(units) % CLASSES)


def rotated(responses, seed=1):
    return responses @ scipy.stats.ortho_group.rvs(responses.shape[1], random_state=seed)


def noise(units=12, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(len(LABELS), units)), 0.0)


@pytest.mark.slow
def test_selectivity_that_was_rotated_away_is_found_again():
    responses = rotated(perfectly_selective())
    found = selectivity_upper_bound(responses, LABELS, seed=0)
    assert found.at_axes < 0.8
    assert found.value > 0.98


def test_selectivity_rotated_away_and_rectified_is_found_in_part():
    # The rectification between loses what the rotation could bring back.
    responses = np.maximum(rotated(perfectly_selective()), 0.0)
    found = selectivity_upper_bound(responses, LABELS, seed=0)
    assert found.at_axes + 0.1 < found.value < 1.0


def test_of_noise_nothing_remains_on_other_stimuli():
    found = selectivity_upper_bound(noise(), LABELS, seed=0)
    assert found.fitted > found.fitted_null + 0.1
    assert found.value == pytest.approx(found.value_null, abs=0.07)
    assert found.at_axes == pytest.approx(found.at_axes_null, abs=0.02)


def test_a_layer_that_is_selective_already_stays_so():
    found = selectivity_upper_bound(perfectly_selective(), LABELS, restarts=0, seed=0)
    assert found.at_axes == 1.0
    assert found.value == pytest.approx(1.0, abs=1e-6)


def test_the_values_are_those_of_the_measured_index():
    # Responses that only the class decides are the same in both halves.
    responses = np.random.default_rng(3).uniform(size=(CLASSES, 5))[LABELS]
    found = selectivity_upper_bound(responses, LABELS, seed=3)
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(5), atol=1e-12)
    directions = np.maximum(responses @ found.rotation, 0.0)
    expected = metrics.class_selectivity(directions, LABELS)
    np.testing.assert_allclose(found.selectivity, expected, atol=1e-12)
    assert found.value == pytest.approx(np.nan_to_num(expected).mean())
    assert found.fitted == pytest.approx(found.value, abs=1e-4)
    assert found.at_axes == pytest.approx(metrics.class_selectivity(responses, LABELS).mean())


def test_silent_units_count_nothing_and_do_not_hide_what_a_rotation_shows():
    # From the axes alone: a silent direction has no gradient unless the rectification is smooth.
    responses = np.hstack([perfectly_selective(6), np.zeros((len(LABELS), 6))])
    found = selectivity_upper_bound(responses, LABELS, restarts=0, seed=0)
    assert found.at_axes == 0.5
    assert found.value == pytest.approx(1.0, abs=1e-3)


def test_a_silent_direction_counts_nothing():
    # The negative half of a direction that is nowhere positive.
    responses = np.column_stack([perfectly_selective(1), -noise(1)])
    found = selectivity_upper_bound(responses, LABELS, restarts=0, steps=1, seed=0)
    silent = np.isnan(found.selectivity)
    assert found.at_axes == 0.5
    assert found.value == np.where(silent, 0.0, found.selectivity).mean()


def test_directions_that_respond_to_almost_nothing_are_not_taken_for_selective():
    # Where all units respond to everything, the highest SI itself is that of directions turned
    # away from nearly all stimuli: 0.61 here, of which 0.51 are noise.
    rng = np.random.default_rng(5)
    signal = 0.5 * rng.normal(size=(CLASSES, 16))[LABELS]
    responses = np.maximum(3.0 + rng.normal(size=(len(LABELS), 16)) + signal, 0.0)
    found = selectivity_upper_bound(responses, LABELS, seed=0)
    assert found.at_axes - found.at_axes_null < 0.1
    assert found.value - found.value_null > 0.25
    assert np.median((responses @ found.rotation > 0).mean(0)) > 0.03


def test_a_dead_layer_has_no_selectivity_under_any_rotation():
    found = selectivity_upper_bound(np.zeros((12, 3)), np.arange(12) % 2, seed=0)
    assert (found.value, found.at_axes, found.fitted, found.value_null) == (0, 0, 0, 0)
    assert found.fitted_null == 0


def test_one_unit_can_only_be_turned_round():
    responses = -perfectly_selective(1)
    found = selectivity_upper_bound(responses, LABELS, seed=0)
    assert found.at_axes == 0.0
    assert found.value == 1.0
    assert found.rotation.tolist() == [[-1.0]]


def test_absent_classes_do_not_matter():
    present = selectivity_upper_bound(noise(4), LABELS, steps=20, seed=0)
    spread = selectivity_upper_bound(noise(4), LABELS * 3, steps=20, seed=0)
    assert spread.value == present.value


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_scale_of_the_responses_does_not_matter_and_the_seed_decides_all(seed, scale):
    responses = noise(4, seed)[:200]
    first = selectivity_upper_bound(responses, LABELS[:200], steps=10, seed=seed)
    again = selectivity_upper_bound(responses, LABELS[:200], steps=10, seed=seed)
    scaled = selectivity_upper_bound(responses * scale, LABELS[:200], steps=10, seed=seed)
    np.testing.assert_array_equal(first.rotation, again.rotation)
    assert scaled.value == pytest.approx(first.value, abs=0.05)


def test_no_more_selectivity_is_kept_than_the_start_has_if_the_ascent_finds_less():
    responses = noise() + perfectly_selective()
    short = selectivity_upper_bound(responses, LABELS, steps=1, restarts=0, seed=0)
    long = selectivity_upper_bound(responses, LABELS, steps=60, restarts=0, seed=0)
    at_axes = selectivity_upper_bound(perfectly_selective(), LABELS, steps=1, restarts=0, seed=0)
    np.testing.assert_array_equal(at_axes.rotation, np.eye(12))
    assert long.fitted - long.fitted_null > short.fitted - short.fitted_null


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(LabelError, match="class 2 has one stimulus"):
        selectivity_upper_bound(np.ones((5, 2)), [0, 0, 1, 1, 2], seed=0)
    with pytest.raises(LabelError, match="two classes"):
        selectivity_upper_bound(np.ones((4, 2)), [0, 0, 0, 0], seed=0)
    with pytest.raises(ResponseError, match="finite"):
        selectivity_upper_bound(np.full((4, 2), np.nan), [0, 0, 1, 1], seed=0)
    with pytest.raises(OptionError, match="steps=0"):
        selectivity_upper_bound(np.ones((4, 2)), [0, 0, 1, 1], steps=0, seed=0)
    with pytest.raises(OptionError, match="restarts=-1"):
        selectivity_upper_bound(np.ones((4, 2)), [0, 0, 1, 1], restarts=-1, seed=0)
