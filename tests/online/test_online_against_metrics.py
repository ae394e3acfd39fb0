"""Each accumulator against the metric of the same name, or else an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from accumulators import CLASSES, accumulate, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics, online
from unitprobe.errors import ResponseError
from unitprobe.metrics import separation
from unitprobe.metrics.localist import localist_selectivity_from_extremes

PARTS = [np.arange(0, 7), np.arange(7, 8), np.arange(8, 120), np.arange(120, 200)]


@pytest.fixture(scope="module", params=[False, True], ids=["rectified", "signed"])
def data(request):
    return layer(200, 6, seed=1, signed=request.param)


def assert_equals(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_class_moments(data):
    responses, labels = data
    moments = accumulate("ClassMoments", responses, labels, PARTS)
    assert_equals(moments.class_counts(), np.bincount(labels, minlength=CLASSES))
    assert_equals(moments.class_means(), metrics.class_means(responses, labels, CLASSES))
    variances = np.full((CLASSES, 6), np.nan)
    minima, maxima = variances.copy(), variances.copy()
    for class_index in np.unique(labels):
        of_class = responses[labels == class_index]
        variances[class_index] = np.var(of_class, axis=0)
        minima[class_index], maxima[class_index] = of_class.min(axis=0), of_class.max(axis=0)
    assert_equals(moments.class_variances(), variances)
    assert_equals(moments.class_minima(), minima)
    assert_equals(moments.class_maxima(), maxima)
    assert_equals(moments.class_selectivity(), metrics.class_selectivity(responses, labels))
    assert_equals(moments.ccmas(), metrics.ccmas(responses, labels))
    preferred = moments.preferred_class()
    varies = np.ptp(responses, axis=0) > 0  # the class means of another unit tie but for rounding
    expected = metrics.preferred_class(responses, labels)
    np.testing.assert_array_equal(preferred[varies], expected[varies])


def test_a_constant_unit_prefers_the_first_of_its_equal_classes_and_a_dead_one_none(data):
    preferred = accumulate("ClassMoments", *data, PARTS).preferred_class()
    assert preferred[:2].tolist() == [-1, 0]


def test_measures_of_separation_follow_from_class_moments(data):
    responses, labels = data
    moments = accumulate("ClassMoments", responses, labels, PARTS)
    arguments = moments.class_counts(), moments.class_means(), moments.class_variances()
    for name in ("d_prime", "class_correlation"):
        by_class = getattr(separation, f"{name}_from_moments")(*arguments)
        expected = getattr(metrics, name)(responses, labels, class_count=CLASSES, reduce=None)
        np.testing.assert_allclose(by_class, expected, rtol=1e-7, atol=1e-9, err_msg=name)
    for name in ("anova_f", "eta_squared"):
        found = getattr(separation, f"{name}_from_moments")(*arguments)
        expected = getattr(metrics, name)(responses, labels)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9, err_msg=name)


def test_localist_selectivity_follows_from_extremes(data):
    responses, labels = data
    moments = accumulate("ClassMoments", responses, labels, PARTS)
    found = localist_selectivity_from_extremes(moments.class_minima(), moments.class_maxima())
    for class_index in range(CLASSES):
        of_class, rest = responses[labels == class_index], responses[labels != class_index]
        if not len(of_class):
            assert np.isnan(found[class_index]).all()
            continue
        above = of_class.min(axis=0) - rest.max(axis=0)
        below = rest.min(axis=0) - of_class.max(axis=0)
        np.testing.assert_array_equal(found[class_index], np.maximum(above, below))


def test_a_large_mean_cancels_no_variance():
    responses, labels = layer(300, 4, seed=2)
    offset = 1e9 + np.round(responses * 8) / 8
    parts = np.split(np.arange(300), [1, 40, 200])
    moments = accumulate("ClassMoments", offset, labels, parts)
    plain = accumulate("ClassMoments", offset - 1e9, labels, parts)
    np.testing.assert_allclose(moments.class_variances(), plain.class_variances(), rtol=1e-6)
    covariance = accumulate("Covariance", offset, labels, parts).covariance()
    np.testing.assert_allclose(covariance, np.cov((offset - 1e9).T), rtol=1e-6, atol=1e-9)
    kurtosis = accumulate("ResponseMoments", offset, labels, parts).kurtosis()
    np.testing.assert_allclose(kurtosis[2:], scipy.stats.kurtosis(offset[:, 2:] - 1e9), rtol=1e-5)


def test_an_outlier_that_comes_first_cancels_no_variance():
    responses, labels = layer(300, 4, seed=2)
    responses[0] = 1e7
    parts = np.split(np.arange(300), [1, 40])
    moments = accumulate("ClassMoments", responses, labels, parts)
    other = np.unique(labels[labels != labels[0]])
    expected = [np.var(responses[labels == class_index], axis=0) for class_index in other]
    np.testing.assert_allclose(moments.class_variances()[other], expected, rtol=1e-9, atol=1e-15)


def test_a_constant_unit_has_exactly_no_variance():
    responses, labels = np.full((50, 2), 0.1), np.arange(50) % CLASSES
    parts = np.split(np.arange(50), [1, 8, 29])
    assert not accumulate("ClassMoments", responses, labels, parts).class_variances().any()
    assert not accumulate("Covariance", responses, labels, parts).covariance().any()
    assert np.isnan(accumulate("ResponseMoments", responses, labels, parts).kurtosis()).all()


def test_response_moments(data):
    responses, labels = data
    moments = accumulate("ResponseMoments", responses, labels, PARTS)
    for name in ("activity_ratio", "lifetime_sparseness", "hoyer_sparseness", "kurtosis"):
        assert_equals(getattr(moments, name)(), getattr(metrics, name)(responses))
    assert_equals(moments.means(), responses.mean(axis=0))


def test_one_stimulus_says_nothing_of_sparseness():
    moments = online.ResponseMoments()
    moments.update(np.ones((1, 2)))
    assert np.isnan(moments.lifetime_sparseness()).all()
    assert np.isnan(moments.hoyer_sparseness()).all()


def test_activity_counts(data):
    responses, labels = data
    activity = accumulate("ActivityCounts", responses, labels, PARTS)
    assert_equals(activity.fraction_active(), metrics.fraction_active(responses))
    expected = metrics.class_means((responses > 0).astype(float), labels, CLASSES)
    assert_equals(activity.class_fraction_active(), expected)
    np.testing.assert_array_equal(activity.dead(), metrics.dead(responses))
    np.testing.assert_array_equal(activity.zeros(), (responses == 0).sum(axis=0))
    np.testing.assert_array_equal(activity.negatives(), (responses < 0).sum(axis=0))


@pytest.mark.parametrize(("stimuli", "units"), [(200, 6), (6, 20), (20, 20), (1, 3)])
def test_the_spectrum_is_that_of_all_stimuli_at_once(stimuli, units):
    responses, labels = layer(stimuli, units, seed=4)
    covariance = accumulate("Covariance", responses, labels, np.split(np.arange(stimuli), [4]))
    expected = metrics.covariance_spectrum(responses)
    found = covariance.spectrum()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found == 0, expected == 0)
    for name in ("participation_ratio", "effective_rank"):
        expected = float(getattr(metrics, name)(responses))
        assert getattr(covariance, name)() == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert covariance.components_for(0.9) == metrics.components_90(responses)


@pytest.mark.parametrize(("stimuli", "units"), [(200, 6), (5, 20)])
def test_linear_cka(stimuli, units):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(stimuli, units))
    y = np.maximum(x[:, :3] @ rng.normal(size=(3, 4)), 0) + 5.0
    alignment = online.LinearCKA()
    for part in np.split(np.arange(stimuli), [1, 4]):
        alignment.update(x[part], y[part])
    assert alignment.linear_cka() == pytest.approx(float(metrics.linear_cka(x, y)), rel=1e-9)


def test_linear_cka_refuses_layers_that_do_not_belong_together():
    alignment = online.LinearCKA()
    with pytest.raises(ResponseError, match="same stimuli, got 3 and 4"):
        alignment.update(np.ones((3, 2)), np.ones((4, 2)))
    alignment.update(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ResponseError, match="x of 4 units came after x of 2"):
        alignment.update(np.ones((3, 4)), np.ones((3, 2)))
    other = online.LinearCKA()
    other.update(np.ones((3, 4)), np.ones((3, 2)))
    with pytest.raises(ResponseError, match="x of 4 units cannot be merged into x of 2"):
        alignment.merge(other)
    constant = alignment.linear_cka()
    assert np.isnan(constant)


@settings(deadline=None, max_examples=40)
@given(stimuli=st.integers(3, 30), k=st.integers(1, 12), seed=st.integers(0, 999))
def test_top_stimuli_are_the_first_of_all_sorted(stimuli, k, seed):
    rng = np.random.default_rng(seed)
    responses = rng.integers(0, 4, size=(stimuli, 5)).astype(float)
    top = online.TopStimuli(k)
    # Batches come in any order, and their stimuli too: ties go to the lowest index all the same.
    order = rng.permutation(stimuli)
    for part in np.array_split(order, rng.integers(1, 5)):
        if len(part):
            top.update(responses[part], part)
    expected = np.argsort(-responses, axis=0, kind="stable")[:k]
    np.testing.assert_array_equal(top.top_stimuli(), expected)
    np.testing.assert_array_equal(top.responses(), np.take_along_axis(responses, expected, 0))
    if k <= stimuli:
        np.testing.assert_array_equal(top.top_stimuli(), metrics.top_stimuli(responses, k))


def test_population_sparseness_is_in_order_of_the_indices(data):
    responses, labels = data
    backwards = accumulate("PopulationSparseness", responses, labels, PARTS[::-1])
    assert_equals(backwards.population_sparseness(), metrics.population_sparseness(responses))


@pytest.mark.parametrize("make", [lambda: online.TopStimuli(2), online.PopulationSparseness])
def test_each_stimulus_needs_its_index(make):
    with pytest.raises(ResponseError, match=r"3 stimuli need one index each, got shape \(2,\)"):
        make().update(np.ones((3, 2)), np.array([0, 1]))
