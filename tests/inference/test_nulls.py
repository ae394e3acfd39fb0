"""Nulls and bootstraps of every measure: the measure on resampled stimuli, and calibrated."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats

from unitprobe import inference, metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference import class_measures_bootstrap, class_measures_null
from unitprobe.inference.resampling import draw_layouts, redraw, shuffle
from unitprobe.metrics.registry import excess_of_redrawn_f, measures

NAMES = measures("class")


@pytest.fixture(scope="module")
def layer():
    """Rectified noise of 70 units, one dead, to unbalanced classes, one of them absent."""
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1, 3], [300, 35, 11]))
    responses = np.maximum(rng.normal(size=(346, 70)), 0).astype(np.float32)
    responses[:, 4] = 0.0
    responses[:, 5] *= 1e6
    responses[:, 6] = 1000 + responses[:, 6]
    return responses, labels


def layouts(draw, labels, resamples, seed):
    counts = np.bincount(labels)
    slots = np.repeat(np.arange(counts.size), counts)
    for layout in draw_layouts(draw, labels, counts, resamples, seed):
        yield layout, slots


@pytest.mark.parametrize("name", NAMES)
def test_the_null_is_the_measure_on_shuffled_labels(layer, name):
    responses, labels = layer
    null = class_measures_null(responses, labels, names=[name], resamples=4, seed=3)[name]
    assert null.shape == (4, 70)
    for found, (layout, slots) in zip(null, layouts(shuffle, labels, 4, 3), strict=True):
        shuffled = np.empty_like(labels)
        shuffled[layout] = slots
        np.testing.assert_array_equal(np.bincount(shuffled), np.bincount(labels))
        expected = getattr(metrics, name)(responses, shuffled)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_bootstrap_is_the_measure_on_redrawn_stimuli(layer, name):
    responses, labels = layer
    drawn = class_measures_bootstrap(responses, labels, names=[name], resamples=4, seed=3)[name]
    for found, (layout, slots) in zip(drawn, layouts(redraw, labels, 4, 3), strict=True):
        np.testing.assert_array_equal(labels[layout], slots)
        expected = getattr(metrics, name)(responses[layout], slots)
        if name == "mutual_information":
            plug_in = metrics.mutual_information(responses, labels, corrected=False)
            expected -= plug_in - metrics.mutual_information(responses, labels)
        if name == "anova_f":
            observed = metrics.anova_f(responses, labels)
            found = found + excess_of_redrawn_f(observed, np.bincount(labels))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("measures", [class_measures_null, class_measures_bootstrap])
def test_measures_share_their_resamples_whatever_is_beside_them(layer, measures):
    responses, labels = layer
    together = measures(responses, labels, names=NAMES, resamples=3, seed=1)
    assert list(together) == list(NAMES)
    for name in NAMES:
        alone = measures(responses[:, 65:], labels, names=[name], resamples=3, seed=1)[name]
        np.testing.assert_array_equal(alone, together[name][:, 65:])


@pytest.mark.parametrize("name", NAMES)
def test_without_signal_p_is_uniform(name):
    responses = np.random.default_rng(4).normal(size=(240, 200))
    if name in ("class_selectivity", "ccmas"):
        responses = np.maximum(responses, 0)
    labels = np.arange(240) % 4
    null = class_measures_null(responses, labels, names=[name], resamples=79, seed=0)[name]
    observed = getattr(metrics, name)(responses, labels)
    summary = inference.summarize_null(observed, null)
    discrete = len(np.unique(observed)) < 100
    if discrete:
        # Ties make p larger, never smaller.
        for level in (0.05, 0.1, 0.25, 0.5):
            assert np.mean(summary.p <= level) <= level + 2.6 * (level * (1 - level) / 200) ** 0.5
    else:
        assert scipy.stats.kstest(summary.p, "uniform").pvalue > 0.01
        assert abs(summary.z.mean()) < 0.2
    assert np.mean(summary.p <= 0.05) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_with_signal_p_is_the_smallest_it_can_be(name):
    rng = np.random.default_rng(4)
    responses, labels = rng.random((240, 5)), np.arange(240) % 4
    responses[labels == 2] += 2.0
    null = class_measures_null(responses, labels, names=[name], resamples=39, seed=0)[name]
    observed = getattr(metrics, name)(responses, labels)
    np.testing.assert_array_equal(inference.summarize_null(observed, null).p, 1 / 40)


def test_a_constant_unit_is_never_significant():
    responses = np.full((60, 3), [0.1, 0.0, 1e-30])
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nulls = class_measures_null(responses, labels, names=NAMES, resamples=19, seed=0)
        for name, null in nulls.items():
            summary = inference.summarize_null(getattr(metrics, name)(responses, labels), null)
            assert np.all(np.isnan(summary.p) | (summary.p == 1)), name
            assert np.isnan(summary.z).all(), name


def test_perfect_separation_that_a_shuffle_can_reach_is_a_tie():
    # Of the 6 ways to label four stimuli, 2 separate the ones from the zeros.
    responses, labels = np.array([[0.3], [0.3], [0.7], [0.7]]), np.array([0, 0, 1, 1])
    names = ["d_prime", "anova_f", "roc_auc", "eta_squared", "class_correlation"]
    nulls = class_measures_null(responses, labels, names=names, resamples=600, seed=0)
    for name, null in nulls.items():
        with np.errstate(divide="ignore"):
            observed = getattr(metrics, name)(responses, labels)
        p = inference.summarize_null(observed, null).p[0]
        assert p == pytest.approx(1 / 3, abs=0.06), name


def test_a_class_that_hardly_varies_keeps_its_variance_in_the_bootstrap():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    responses = 1e-2 * rng.normal(size=(400, 4)) + 3.0 * (labels == 1)[:, None]
    observed = metrics.d_prime(responses, labels)
    drawn = class_measures_bootstrap(responses, labels, names=["d_prime"], resamples=50, seed=0)
    assert observed.min() > 250
    np.testing.assert_allclose(drawn["d_prime"].mean(0), observed, rtol=0.05)


@pytest.mark.parametrize("base", [0.0, 0.7])
@pytest.mark.parametrize("active", [1, 2, 3])
def test_a_redraw_in_which_a_unit_is_constant_has_no_value(active, base):
    labels, responses = np.repeat(np.arange(10), 20), np.full((200, 1), base)
    responses[5 : 5 + 30 * active : 30] += 1 / np.arange(3, 3 + active)[:, None]
    names = measures("class", needs=["moments"])
    counts = np.bincount(labels)
    null = class_measures_null(responses, labels, names=names, resamples=99, seed=4)
    drawn = class_measures_bootstrap(responses, labels, names=names, resamples=200, seed=4)
    constant = [
        np.ptp(responses[layout, 0]) == 0 for layout in draw_layouts(redraw, labels, counts, 200, 4)
    ]
    assert sum(constant) == 67 or active > 1
    for name in names:
        np.testing.assert_array_equal(np.isnan(drawn[name][:, 0]), constant)
        assert not np.isinf(drawn[name]).any()
        observed = getattr(metrics, name)(responses, labels)
        low, high = inference.class_measure_interval(
            name, observed, drawn[name], null[name], counts=counts, best=np.array([0])
        )
        assert low <= observed <= high
        assert high < 6 * observed


def test_a_unit_that_hardly_varies_but_for_one_response_has_the_measures_of_each_redraw():
    labels = np.repeat(np.arange(10), 20)
    responses = 1e-5 * np.random.default_rng(0).random((200, 1))
    responses[5] = 1.0
    names = measures("class", needs=["moments"])
    drawn = class_measures_bootstrap(responses, labels, names=names, resamples=60, seed=0)
    layouts_drawn = draw_layouts(redraw, labels, np.bincount(labels), 60, 0)
    for row, layout in enumerate(layouts_drawn):
        for name in names:
            excess = 0.0
            if name == "anova_f":
                excess = excess_of_redrawn_f(
                    metrics.anova_f(responses, labels), np.bincount(labels)
                )
            expected = getattr(metrics, name)(responses[layout], labels) - excess
            np.testing.assert_allclose(drawn[name][row], expected, rtol=1e-4, atol=1e-5)


def test_wrong_arguments_are_refused(layer):
    responses, labels = layer
    for resample in (class_measures_null, class_measures_bootstrap):
        with pytest.raises(OptionError, match=r"'selectivity' is not known.*class_selectivity"):
            resample(responses, labels, names=["selectivity"], resamples=2, seed=0)
        with pytest.raises(OptionError, match="resamples=0"):
            resample(responses, labels, names=["roc_auc"], resamples=0, seed=0)
        with pytest.raises(LabelError, match=r"roc_auc.*two classes"):
            resample(responses, np.zeros(346, int), names=["roc_auc"], resamples=2, seed=0)
        with pytest.raises(ResponseError, match="NaN"):
            resample(responses * np.nan, labels, names=["roc_auc"], resamples=2, seed=0)
