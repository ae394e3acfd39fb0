"""Extremes drawn from the tails of classes: what they are for tails that are known."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe.inference import redraw_extremes


def test_of_an_exponential_tail_the_extremes_are_as_high_as_those_of_other_stimuli():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    responses = rng.exponential(size=(200, 400)) + 20.0 * (labels == 1)[:, None]
    gaps = redraw_extremes(responses, labels, resamples=200, seed=0)["localist_selectivity"]
    # The lowest of one class is near 20, the highest of 100 is the harmonic number of 100.
    assert gaps.mean() == pytest.approx(20 - 5.19, abs=0.25)


def test_the_run_counts_what_is_expected_above_all_other_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    responses = rng.exponential(size=(200, 400))
    runs = redraw_extremes(responses, labels, resamples=200, seed=0)["top_class_selectivity"]
    # Each of the top is of either class with a chance of a half: 2 on average.
    assert runs.mean() == pytest.approx(2.0, abs=0.6)
    apart = responses + 1000.0 * (labels == 1)[:, None]
    runs = redraw_extremes(apart, labels, resamples=5, seed=0)["top_class_selectivity"]
    np.testing.assert_array_equal(runs, 100.0)


def test_responses_that_tie_have_no_tail():
    labels = np.repeat([0, 1, 2], [1, 4, 20])
    responses = np.zeros((25, 2))
    responses[labels == 1, 1] = 2.0
    drawn = redraw_extremes(responses, labels, resamples=3, seed=0)
    np.testing.assert_array_equal(drawn["localist_selectivity"], [[0.0, 2.0]] * 3)
    np.testing.assert_array_equal(drawn["top_class_selectivity"], [[0.0, 4.0]] * 3)


def test_units_and_scale_do_not_matter():
    rng = np.random.default_rng(1)
    labels, responses = rng.permutation(np.arange(60) % 4), rng.normal(size=(60, 6))
    drawn = redraw_extremes(responses, labels, resamples=4, seed=7)
    some = redraw_extremes(8.0 * responses[:, 2:4], labels, resamples=4, seed=7)
    gaps, runs = drawn["localist_selectivity"], drawn["top_class_selectivity"]
    np.testing.assert_allclose(some["localist_selectivity"], 8.0 * gaps[:, 2:4], rtol=1e-12)
    np.testing.assert_allclose(some["top_class_selectivity"], runs[:, 2:4], rtol=1e-12)
    other = redraw_extremes(responses, labels, resamples=4, seed=8)
    assert (other["localist_selectivity"] != gaps).any()
