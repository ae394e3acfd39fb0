"""Split-half reliability: halves that are halves, the correlation of a plain loop, known limits."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference import reliability, split_half_reliability, tuning_reliability


@pytest.fixture(scope="module")
def layer():
    """40 units, the more tuned to class 1 the higher, over unbalanced classes, one absent."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 3, 4], [41, 30, 7, 22]))
    responses = rng.random((100, 40)) + np.linspace(0, 1, 40) * (labels == 1)[:, None]
    return responses, labels


def test_halves_hold_half_of_every_class_and_every_stimulus_once(layer):
    _, labels = layer
    counts = np.bincount(labels)
    odd_ones = set()
    for a, b in reliability._halves(labels, counts, 40, 0):
        np.testing.assert_array_equal(np.sort(np.concatenate([a, b])), np.arange(100))
        a_counts, b_counts = (np.bincount(labels[half], minlength=5) for half in (a, b))
        assert np.abs(a_counts - b_counts).max() <= 1
        odd_ones.add(a_counts[0] > b_counts[0])
    assert odd_ones == {True, False}


def test_the_reliability_is_that_of_a_plain_loop(layer):
    responses, labels = layer
    found = split_half_reliability(metrics.class_selectivity, responses, labels, splits=5, seed=2)
    loop = []
    for a, b in reliability._halves(labels, np.bincount(labels), 5, 2):
        values = [metrics.class_selectivity(responses[half], labels[half]) for half in (a, b)]
        loop.append(np.corrcoef(values)[0, 1])
    assert found.correlation == pytest.approx(np.mean(loop))
    assert found.spearman_brown == pytest.approx(2 * np.mean(loop) / (1 + np.mean(loop)))
    assert found.units == 40


def test_spearman_brown_foretells_the_reliability_of_twice_the_stimuli():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 200)
    truth = rng.normal(size=600)

    def draw():
        return rng.normal(size=(400, 600)) + truth * 0.07 * (labels == 1)[:, None]

    def gap(responses, labels):
        return responses[labels == 1].mean(0) - responses[labels == 0].mean(0)

    found = split_half_reliability(gap, draw(), labels, splits=10)
    again = np.corrcoef(gap(draw(), labels), gap(draw(), labels))[0, 1]
    assert found.correlation < again - 0.05
    assert found.spearman_brown == pytest.approx(again, abs=0.08)


def test_the_tuning_reliability_is_that_of_a_plain_loop(layer):
    responses, labels = layer
    found = tuning_reliability(responses, labels, splits=5, seed=2)
    loop = []
    for a, b in reliability._halves(labels, np.bincount(labels), 5, 2):
        curves = [metrics.class_means(responses[half], labels[half]) for half in (a, b)]
        present = ~np.isnan(curves[0][:, 0])
        columns = zip(*(curve[present].T for curve in curves), strict=True)
        loop.append([np.corrcoef(x, y)[0, 1] for x, y in columns])
    np.testing.assert_allclose(found.correlation, np.mean(loop, axis=0))
    expected = 2 * found.correlation / (1 + found.correlation)
    np.testing.assert_allclose(found.spearman_brown, expected)


def test_tuning_without_noise_is_wholly_reliable_and_noise_not_at_all():
    labels = np.arange(300) % 6
    exact = np.eye(6)[labels]
    np.testing.assert_allclose(tuning_reliability(exact, labels).spearman_brown, 1.0)
    noise = np.random.default_rng(3).normal(size=(300, 400))
    assert abs(tuning_reliability(noise, labels, splits=5).correlation.mean()) < 0.1


def test_dead_units_have_no_reliability_and_hardly_active_ones_little():
    labels = np.arange(120) % 6
    responses = np.zeros((120, 3))
    responses[:, 1] = 0.1
    responses[17, 2] = 1.0
    found = tuning_reliability(responses, labels)
    assert np.isnan(found.correlation).tolist() == [True, True, False]
    assert found.correlation[2] == 0.0
    with_dead = np.concatenate([np.random.default_rng(0).random((120, 9)), responses[:, :1]], 1)
    measured = split_half_reliability(metrics.class_selectivity, with_dead, labels)
    assert measured.units == 9
    alone = split_half_reliability(metrics.class_selectivity, with_dead[:, :9], labels)
    assert measured == alone


def test_too_few_units_have_no_correlation():
    labels = np.arange(40) % 2
    found = split_half_reliability(metrics.class_selectivity, np.eye(40)[:, :2], labels)
    assert np.isnan([found.correlation, found.spearman_brown]).all()


def test_wrong_arguments_are_refused(layer):
    responses, labels = layer
    with pytest.raises(OptionError, match="splits=0"):
        tuning_reliability(responses, labels, splits=0)
    with pytest.raises(LabelError, match="class 2 has one stimulus"):
        tuning_reliability(np.ones((7, 1)), np.array([0, 0, 0, 1, 1, 1, 2]))
    with pytest.raises(LabelError, match="hold 2"):
        tuning_reliability(np.ones((4, 1)), np.array([0, 0, 1, 1]))
    with pytest.raises(ResponseError, match=r"shape \(\)"):
        split_half_reliability(lambda x, labels: x.mean(), responses, labels)
