"""Shares of zeros and of half-maximal responses against literal loops and exact values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unitprobe import metrics
from unitprobe.errors import ResponseError


def literal_share_of_zeros(activations):
    """Hu et al. 2016, equation 1, for (stimulus, unit, y, x)."""
    stimuli, units, height, width = activations.shape
    shares = []
    for unit in range(units):
        zeros = 0
        for stimulus in range(stimuli):
            for y in range(height):
                for x in range(width):
                    zeros += activations[stimulus, unit, y, x] == 0
        shares.append(zeros / (stimuli * height * width))
    return shares


def test_zeros_are_counted_over_stimuli_and_positions_wherever_the_units_lie():
    activations = np.maximum(np.random.default_rng(0).normal(size=(5, 3, 4, 2)), 0)
    activations[:, 1] = 0.0
    expected = literal_share_of_zeros(activations)
    assert expected[1] == 1
    np.testing.assert_allclose(metrics.average_percentage_of_zeros(activations), expected)
    last = np.moveaxis(activations, 1, -1)
    np.testing.assert_allclose(metrics.average_percentage_of_zeros(last, unit_axis=-1), expected)
    tensor = torch.from_numpy(last.astype(np.float32))
    found = metrics.average_percentage_of_zeros(tensor, unit_axis=3)
    assert torch.is_tensor(found)
    np.testing.assert_allclose(found, expected)


def test_of_pooled_responses_that_are_never_negative_zeros_are_the_stimuli_not_active():
    responses = np.maximum(np.random.default_rng(1).normal(size=(30, 4)), 0)
    np.testing.assert_allclose(
        metrics.average_percentage_of_zeros(responses), 1 - metrics.fraction_active(responses)
    )


@pytest.mark.parametrize("unit_axis", [0, -3, 3, -4])
def test_an_axis_that_cannot_be_the_units_is_refused(unit_axis):
    with pytest.raises(ResponseError, match=rf"unit_axis={unit_axis} .* \(2, 3, 4\)"):
        metrics.average_percentage_of_zeros(np.zeros((2, 3, 4)), unit_axis=unit_axis)


def test_activations_without_units_or_with_nan_are_refused():
    with pytest.raises(ResponseError, match=r"\(4,\)"):
        metrics.average_percentage_of_zeros(np.zeros(4))
    with pytest.raises(ResponseError, match="activations must be finite, but of 4 values 1 are"):
        metrics.average_percentage_of_zeros(np.array([[[0.0, np.nan]], [[1.0, 2.0]]]))


def test_the_half_max_share_is_that_of_a_loop_over_units():
    responses = np.maximum(np.random.default_rng(2).normal(size=(40, 6)), 0)
    expected = [sum(r >= max(unit) / 2 for r in unit) / 40 for unit in responses.T]
    np.testing.assert_allclose(metrics.half_max_share(responses), expected)


@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 3), (7, 7)])
def test_a_unit_that_responds_alike_to_k_of_n_has_the_share_k_of_n(n, k):
    responses = np.zeros((n, 1))
    responses[:k] = 0.3
    assert metrics.half_max_share(responses) == pytest.approx(k / n)


def test_a_unit_that_nothing_drives_above_zero_has_no_half_max_share():
    responses = np.array([[0.0, -1.0, 2.0], [0.0, -3.0, 1.0]])
    assert np.isnan(metrics.half_max_share(responses)).tolist() == [True, True, False]


def test_gini_of_responses_that_cancel_is_nan():
    responses = np.array([[0.1], [0.2], [-0.3]])
    assert responses.sum() != 0
    assert np.isnan(metrics.gini(responses)).all()
