"""Nulls, intervals and false discoveries: exact properties, references and measured coverage."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats

from unitprobe import inference, metrics
from unitprobe.errors import OptionError, ResponseError


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


# The null.


@pytest.mark.parametrize("weighting", ["class", "stimulus"])
def test_the_null_is_the_selectivity_of_the_shuffles(layer, weighting):
    responses, labels = layer
    null = inference.class_selectivity_null(
        responses, labels, resamples=15, seed=3, weighting=weighting
    )
    counts = metrics.class_counts(labels)
    means = all_of(inference.shuffled_class_means(responses, labels, resamples=15, seed=3))
    for one, shuffled in zip(null, means, strict=True):
        expected = metrics.selectivity_index(shuffled, counts, weighting=weighting)
        np.testing.assert_array_equal(one, expected)
    assert np.isnan(null).any(axis=0).tolist() == [False, False, False, False, True, False]


# science.md, section 1: what rectified Gaussian noise has of class selectivity.
@pytest.mark.parametrize(
    ("classes", "each", "floor"), [(10, 100, 0.115), (10, 13, 0.28), (200, 50, 0.235)]
)
def test_the_noise_floor_is_the_known_one_and_the_null_knows_it(classes, each, floor):
    responses = np.maximum(np.random.default_rng(0).normal(size=(classes * each, 300)), 0)
    labels = np.arange(classes * each) % classes
    assert metrics.class_selectivity(responses, labels).mean() == pytest.approx(floor, rel=0.04)
    null = inference.class_selectivity_null(responses[:, :100], labels, resamples=5, seed=0)
    assert null.mean() == pytest.approx(floor, rel=0.04)


def test_without_signal_p_is_uniform_and_the_corrected_value_centres_on_zero():
    responses = np.maximum(np.random.default_rng(4).normal(size=(200, 500)), 0)
    labels = np.arange(200) % 5
    observed = metrics.class_selectivity(responses, labels)
    null = inference.class_selectivity_null(responses, labels, resamples=99, seed=0)
    summary = inference.summarize_null(observed, null)
    assert scipy.stats.kstest(summary.p, "uniform").pvalue > 0.01
    assert np.mean(summary.p <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert abs(summary.corrected.mean()) < 0.005
    assert summary.z.std() == pytest.approx(1, abs=0.1)


def test_with_signal_p_is_the_smallest_it_can_be():
    labels = np.arange(200) % 5
    responses = np.maximum(np.random.default_rng(4).normal(size=(200, 20)), 0)
    responses[labels == 2] += 1.0
    observed = metrics.class_selectivity(responses, labels)
    null = inference.class_selectivity_null(responses, labels, resamples=99, seed=0)
    summary = inference.summarize_null(observed, null)
    np.testing.assert_array_equal(summary.p, 1 / 100)
    assert (summary.z > 4).all()


def test_the_summary_is_its_formulas():
    null = np.array([[0.0, 0.5, 0.2], [0.5, 0.5, np.nan], [1.0, 0.5, 0.2]])
    summary = inference.summarize_null([0.5, 0.7, 0.3], null)
    nan = np.nan
    np.testing.assert_allclose(summary.mean, [0.5, 0.5, nan])
    np.testing.assert_allclose(summary.std, [0.5, 0.0, nan])
    np.testing.assert_allclose(summary.z, [0.0, nan, nan])
    np.testing.assert_allclose(summary.p, [3 / 4, 1 / 4, nan])
    np.testing.assert_allclose(summary.corrected, [0.0, 0.2, nan], atol=1e-15)


def test_a_unit_whose_selectivity_no_shuffle_can_change_has_p_one():
    # The one class of the one stimulus that it responds to is all of its tuning.
    responses = np.zeros((12, 1))
    responses[5] = 0.7
    labels = np.arange(12) % 4
    observed = metrics.class_selectivity(responses, labels)
    null = inference.class_selectivity_null(responses, labels, resamples=50, seed=0)
    assert inference.summarize_null(observed, null).p == [1.0]
    # And rounding does not break a tie.
    assert inference.summarize_null([0.1 + 0.2], [[0.3], [0.3]]).p == [1.0]


def test_a_dead_unit_has_no_null_no_interval_and_no_warning(layer):
    responses, labels = layer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        observed = metrics.class_selectivity(responses, labels)
        null = inference.class_selectivity_null(responses, labels, resamples=9, seed=0)
        draws = inference.class_selectivity_bootstrap(responses, labels, resamples=9, seed=0)
        summary = inference.summarize_null(observed, null)
        values = [summary.mean, summary.std, summary.z, summary.p, summary.corrected]
        for method in ("envelope", "percentile", "basic", "bias_corrected"):
            values += inference.bootstrap_interval(observed, draws, method=method, null=null)
        values.append(inference.false_discovery_rate(summary.p))
    for value in values:
        assert np.isnan(value).tolist() == [False, False, False, False, True, False]


def test_shapes_that_do_not_fit_are_refused():
    for null in (np.ones((5, 3)), np.ones(2), np.ones((0, 2))):
        with pytest.raises(ResponseError, match="null must be"):
            inference.summarize_null([0.1, 0.2], null)
        with pytest.raises(ResponseError, match="resampled values must be"):
            inference.bootstrap_interval([0.1, 0.2], null)


# Intervals.


def test_each_method_is_its_formula():
    rng = np.random.default_rng(8)
    draws, observed = rng.normal(size=(501, 7)), rng.normal(size=7) * 0.5
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    share = (draws < observed).mean(0)
    normal = scipy.stats.norm
    levels = normal.cdf(2 * normal.ppf(share)[:, None] + normal.ppf([0.05, 0.95]))
    expected = {
        "percentile": (low, high),
        "basic": (2 * observed - high, 2 * observed - low),
        "envelope": (np.minimum(low, 2 * observed - high), np.maximum(high, 2 * observed - low)),
        "bias_corrected": np.transpose(
            [np.quantile(column, level) for column, level in zip(draws.T, levels, strict=True)]
        ),
    }
    for method, interval in expected.items():
        found = inference.bootstrap_interval(observed, draws, 0.9, method)
        np.testing.assert_allclose(found, interval, rtol=1e-12, err_msg=method)


def test_the_bias_corrected_interval_is_that_of_scipy_without_acceleration():
    # On symmetric data the acceleration of scipy's BCa vanishes.
    sample = np.concatenate([np.linspace(-3, 3, 41)])
    reference = scipy.stats.bootstrap(
        (sample,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(0)
    )
    found = inference.bootstrap_interval(
        [sample.mean()], reference.bootstrap_distribution[:, None], method="bias_corrected"
    )
    expected = reference.confidence_interval
    np.testing.assert_allclose(np.ravel(found), [expected.low, expected.high], atol=0.01)


def test_resamples_without_a_value_are_left_out():
    draws = np.array([[0.1, 0.1], [0.2, np.nan], [0.3, 0.3], [0.4, np.nan]])
    low, high = inference.bootstrap_interval([0.2, 0.2], draws, method="percentile")
    np.testing.assert_allclose([low[1], high[1]], np.quantile([0.1, 0.3], [0.025, 0.975]))
    none = inference.bootstrap_interval([0.2], np.full((3, 1), np.nan))
    assert np.isnan(none).all()


def test_the_null_takes_the_interval_down_to_zero_only_where_it_is_not_rejected():
    draws = np.linspace(0.4, 0.6, 101)[:, None] * np.ones(2)
    null = np.stack([np.linspace(0, 0.3, 99), np.linspace(0, 0.9, 99)], axis=1)
    low, high = inference.bootstrap_interval([0.5, 0.5], draws, null=null)
    np.testing.assert_allclose(low, [0.405, 0.0])
    np.testing.assert_allclose(high, [0.595, 0.595])


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(OptionError, match="'bca'"):
        inference.bootstrap_interval([0.1], [[0.1]], method="bca")
    for level in (0, 1, 95):
        with pytest.raises(OptionError, match=f"level={level}"):
            inference.bootstrap_interval([0.1], [[0.1]], level=level)


def rectified_mean(shift):
    """Mean of max(z + shift, 0) for standard normal z."""
    return shift * scipy.stats.norm.cdf(shift) + scipy.stats.norm.pdf(shift)


def simulated_coverage(shifts, each, methods, *, use_null, units=300, resamples=200, seed=0):
    """Share of units whose interval holds their true selectivity, for each method."""
    classes = len(shifts)
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    responses = np.maximum(rng.normal(size=(labels.size, units)) + shifts[labels][:, None], 0)
    truth = metrics.selectivity_index(rectified_mean(shifts)[:, None])
    observed = metrics.class_selectivity(responses, labels)
    options = {"resamples": resamples, "seed": seed + 1}
    draws = inference.class_selectivity_bootstrap(responses, labels, **options)
    null = inference.class_selectivity_null(responses, labels, **options) if use_null else None
    coverage = {}
    for method in methods:
        interval = inference.bootstrap_interval(observed, draws, method=method, null=null)
        low, high = np.clip(interval, 0, 1)
        coverage[method] = np.mean((low <= truth + 1e-12) & (high >= truth - 1e-12))
    return coverage


@pytest.mark.parametrize("each", [30, 100])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5, 1.0, 2.0])
def test_the_default_interval_holds_the_truth_at_every_selectivity(shift, each):
    shifts = np.zeros(10)
    shifts[3] = shift
    coverage = simulated_coverage(shifts, each, ["envelope"], use_null=True)
    assert coverage["envelope"] >= 0.92


def test_the_other_intervals_fail_where_selectivity_is_weak():
    noise = simulated_coverage(
        np.zeros(10), 30, ["percentile", "basic", "bias_corrected"], use_null=False
    )
    assert noise["percentile"] < 0.05
    assert noise["bias_corrected"] < 0.05
    assert noise["basic"] < 0.7
    strong = simulated_coverage(np.eye(10)[3] * 2.0, 100, ["percentile", "basic"], use_null=False)
    assert min(strong.values()) > 0.92


# Multiple testing.


def test_q_values_are_those_of_benjamini_and_hochberg():
    p = np.random.default_rng(0).random(50) ** 3
    expected = scipy.stats.false_discovery_control(p, method="bh")
    np.testing.assert_array_equal(inference.false_discovery_rate(p), expected)
    order = np.argsort(p)
    literal = [min(p[order[j]] * 50 / (j + 1) for j in range(i, 50)) for i in range(50)]
    np.testing.assert_allclose(inference.false_discovery_rate(p)[order], np.minimum(literal, 1))


def test_nan_is_not_counted_as_a_test_and_the_shape_is_kept():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.5, np.nan]])
    q = inference.false_discovery_rate(p)
    np.testing.assert_array_equal(np.isnan(q), np.isnan(p))
    expected = scipy.stats.false_discovery_control([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_array_equal(q[~np.isnan(q)], expected)
    assert np.isnan(inference.false_discovery_rate([np.nan, np.nan])).all()
    assert inference.false_discovery_rate([]).shape == (0,)


def test_p_values_outside_zero_to_one_are_refused():
    with pytest.raises(ResponseError, match=r"1\.2"):
        inference.false_discovery_rate([0.1, 1.2])


def test_a_family_without_signal_makes_few_discoveries_and_one_with_signal_finds_it():
    rng = np.random.default_rng(9)
    labels = np.arange(300) % 5
    responses = np.maximum(rng.normal(size=(300, 200)), 0)
    responses[labels == 1, :40] += 1.0
    observed = metrics.class_selectivity(responses, labels)
    null = inference.class_selectivity_null(responses, labels, resamples=199, seed=0)
    q = inference.false_discovery_rate(inference.summarize_null(observed, null).p)
    found = q <= 0.05
    assert found[:40].all()
    assert found[40:].sum() <= 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("method", "expected"),
    [("percentile", [1.0, np.inf]), ("basic", [np.nan, np.inf]), ("envelope", [1.0, np.inf])],
)
def test_the_interval_of_an_infinite_value_has_the_ends_that_there_are(method, expected):
    draws = np.repeat([1.0, np.inf], [5, 16])[:, None]
    low, high = inference.bootstrap_interval([np.inf], draws, 0.9, method)
    np.testing.assert_array_equal([low[0], high[0]], expected)
