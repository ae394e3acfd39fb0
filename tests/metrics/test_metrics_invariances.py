"""What must not change a measure, and which way it must change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.inference import class_measures_bootstrap, class_measures_null
from unitprobe.metrics import dimensionality
from unitprobe.metrics.registry import MEASURES, measures

PER_UNIT = {
    "class_selectivity": metrics.class_selectivity,
    "ccmas": metrics.ccmas,
    "lifetime_sparseness": lambda x, y: metrics.lifetime_sparseness(x),
    "hoyer_sparseness": lambda x, y: metrics.hoyer_sparseness(x),
    "gini": lambda x, y: metrics.gini(x),
    "kurtosis": lambda x, y: metrics.kurtosis(x),
    "fraction_active": lambda x, y: metrics.fraction_active(x),
    "dead": lambda x, y: metrics.dead(x),
}
PER_LAYER = {
    "participation_ratio": lambda x, y: metrics.participation_ratio(x),
    "effective_rank": lambda x, y: metrics.effective_rank(x),
    "components_90": lambda x, y: metrics.components_90(x),
}
per_unit = pytest.mark.parametrize("measure", PER_UNIT.values(), ids=PER_UNIT.keys())
both = pytest.mark.parametrize(
    "measure", (PER_UNIT | PER_LAYER).values(), ids=(PER_UNIT | PER_LAYER).keys()
)
quick = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def layers(draw):
    """Non-negative responses with many exact zeros, and labels of at least two classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stimuli, units = draw(st.integers(4, 40)), draw(st.integers(1, 6))
    active = draw(st.sampled_from([0.1, 0.5, 1.0]))
    responses = rng.exponential(size=(stimuli, units)) * (rng.random((stimuli, units)) < active)
    labels = rng.integers(0, draw(st.integers(2, 6)), size=stimuli)
    labels[:2] = [0, 1]
    return responses, labels, rng


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@both
@quick
@given(layers())
def test_the_order_of_stimuli_does_not_matter(measure, layer):
    responses, labels, rng = layer
    order = rng.permutation(len(labels))
    same(measure(responses[order], labels[order]), measure(responses, labels))


@both
@quick
@given(layers(), st.floats(1e-3, 1e3))
def test_the_scale_of_the_responses_does_not_matter(measure, layer, scale):
    responses, labels, _ = layer
    same(measure(scale * responses, labels), measure(responses, labels))


@per_unit
@quick
@given(layers())
def test_units_are_measured_alone(measure, layer):
    responses, labels, rng = layer
    order = rng.permutation(responses.shape[1])
    same(measure(responses[:, order], labels), measure(responses, labels)[order])
    same(measure(responses[:, :1], labels), measure(responses, labels)[:1])


@pytest.mark.parametrize("measure", [metrics.class_selectivity, metrics.ccmas])
@quick
@given(layers())
def test_the_names_of_classes_do_not_matter(measure, layer):
    responses, labels, rng = layer
    # Into more classes than there are, so that some are absent.
    names = rng.permutation(9)[:6]
    same(measure(responses, names[labels]), measure(responses, labels))


@quick
@given(layers())
def test_the_preferred_class_follows_the_names_of_classes(layer):
    responses, labels, rng = layer
    names = rng.permutation(6)
    means = metrics.class_means(responses, labels)
    highest = np.sort(np.where(np.isnan(means), -1.0, means), axis=0)
    clear = highest[-1] > highest[-2] + 1e-9
    before = metrics.preferred_class(responses, labels)[clear]
    after = metrics.preferred_class(responses, names[labels])[clear]
    np.testing.assert_array_equal(after, names[before])


@pytest.mark.parametrize("name", ["class_selectivity", "lifetime_sparseness", "gini"])
@quick
@given(layers(), st.floats(0.01, 10))
def test_a_constant_added_lowers_selectivity_and_sparseness(name, layer, constant):
    responses, labels, _ = layer
    before = PER_UNIT[name](responses, labels)
    after = PER_UNIT[name](responses + constant, labels)
    varies = before > 1e-6  # not NaN, not flat
    assert (after[varies] < before[varies]).all()


@quick
@given(layers())
def test_non_negative_responses_keep_every_measure_in_its_range(layer):
    responses, labels, _ = layer
    stimuli, units = responses.shape
    values = {name: measure(responses, labels) for name, measure in PER_UNIT.items()}
    values["population_sparseness"] = metrics.population_sparseness(responses)
    for name in ("class_selectivity", "lifetime_sparseness", "hoyer_sparseness", "gini",
                 "fraction_active", "population_sparseness"):  # fmt: skip
        defined = values[name][~np.isnan(values[name])]
        assert (defined >= -1e-12).all(), name
        assert (defined <= 1 + 1e-12).all(), name
    np.testing.assert_array_equal(np.isnan(values["class_selectivity"]), values["dead"])
    for measure in (metrics.participation_ratio, metrics.effective_rank):
        value = measure(responses)
        assert np.isnan(value) or 1 - 1e-9 <= value <= min(stimuli - 1, units) + 1e-9


@quick
@given(layers())
def test_dimensionality_is_the_same_from_responses_and_from_their_spectrum(layer):
    responses, _, _ = layer
    spectrum = metrics.covariance_spectrum(responses)
    assert (np.diff(spectrum) <= 0).all()
    assert len(spectrum) == min(responses.shape)
    same(
        dimensionality.participation_ratio_from_spectrum(spectrum),
        metrics.participation_ratio(responses),
    )
    same(dimensionality.effective_rank_from_spectrum(spectrum), metrics.effective_rank(responses))
    assert dimensionality.components_from_spectrum(spectrum, 0.5) == metrics.components_for(
        responses, 0.5
    )
    same(spectrum.sum(), responses.var(axis=0, ddof=1).sum())


HAVE_A_SCALE = ("localist_selectivity", "tuning_curve", "class_variance")
OF_PAIRS = (
    "canonical_correlations",
    "linear_cka",
    "procrustes_similarity",
    "pwcca",
    "svcca",
    "representational_similarity",
)


@quick
@given(
    st.sampled_from([name for name in MEASURES if name not in HAVE_A_SCALE]),
    st.sampled_from([-900, -664, -300, 300, 664, 900]),
    st.integers(0, 2**16),
)
def test_no_scale_of_responses_changes_a_measure_without_a_scale(name, exponent, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    responses = np.maximum(rng.normal(size=(90, 5)) + (labels == 0)[:, None], 0)
    responses[:, 4] = 0.0
    found = [
        np.asarray(MEASURES[name].compute(scale * responses, labels, 3), dtype=float)
        for scale in (1.0, 2.0**exponent)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("exponent", [-664, 664])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_no_scale_of_responses_changes_a_similarity(name, exponent):
    x = np.random.default_rng(0).normal(size=(40, 5))
    y = x[:, :4] + np.random.default_rng(1).normal(size=(40, 4))
    function = getattr(metrics, name)
    np.testing.assert_allclose(function(2.0**exponent * x, y), function(x, y), rtol=1e-9)


@pytest.mark.parametrize("exponent", [-664, 664])
def test_no_scale_of_responses_changes_nulls_and_bootstraps(exponent):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    responses = np.maximum(rng.normal(size=(60, 4)), 0)
    for resample in (class_measures_null, class_measures_bootstrap):
        names = [name for name in measures("class") if name not in HAVE_A_SCALE]
        plain, scaled = (
            resample(values, labels, names=names, resamples=5, seed=0)
            for values in (responses, 2.0**exponent * responses)
        )
        for name in names:
            np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-6, atol=1e-9)
