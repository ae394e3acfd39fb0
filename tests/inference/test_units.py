"""Intervals over units: the bootstrap of the mean, and the comparison with a baseline."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference import compare_to_baseline, mean_over_units


def test_the_interval_is_the_percentile_bootstrap_of_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    found = mean_over_units(values, level=0.9, resamples=20_000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.value == values.mean()
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.01)


def test_the_interval_holds_the_truth():
    rng = np.random.default_rng(1)
    found = [mean_over_units(rng.normal(0.3, 0.1, 64), resamples=300) for _ in range(400)]
    held = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert held == pytest.approx(0.94, abs=0.035)


def test_units_without_a_value_are_left_out_and_counted():
    values = np.array([0.1, np.nan, 0.4, 0.2])
    assert mean_over_units(values) == mean_over_units(values[[0, 2, 3]])
    assert mean_over_units(values).units == 3
    one = mean_over_units([np.nan, 0.3])
    assert (one.value, one.units) == (0.3, 1)
    none = mean_over_units([np.nan])
    assert np.isnan([one.low, one.high, none.value, none.low]).all()


def test_the_seed_decides():
    values = np.random.default_rng(2).normal(size=5000)
    assert mean_over_units(values, seed=4) == mean_over_units(values, seed=4)
    assert mean_over_units(values, seed=4) != mean_over_units(values, seed=5)


def test_the_comparison_is_that_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 9, size=80) / 10, rng.integers(0, 7, size=50) / 10
    found = compare_to_baseline(np.append(a, np.nan), b)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.auc == pytest.approx(roc_auc_score([1] * 80 + [0] * 50, np.append(a, b)))
    assert found.p == scipy.stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    assert (found.units, found.baseline_units) == (80, 50)
    half = 1.96 * (a.var() / 80 + b.var() / 50) ** 0.5
    expected = [found.difference - half, found.difference + half]
    np.testing.assert_allclose([found.low, found.high], expected, atol=0.01)


def test_swapping_trained_and_baseline_mirrors_the_comparison():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=40), rng.normal(size=30) - 0.5
    forward, back = compare_to_baseline(a, b), compare_to_baseline(b, a)
    assert forward.difference == pytest.approx(-back.difference)
    assert forward.auc == pytest.approx(1 - back.auc)
    assert forward.p == pytest.approx(back.p)


def test_units_that_are_all_alike_differ_in_nothing():
    found = compare_to_baseline([0.5, 0.5], [0.5, 0.5, 0.5])
    assert (found.difference, found.auc, found.p) == (0.0, 0.5, 1.0)


def test_an_empty_group_has_no_comparison():
    found = compare_to_baseline([np.nan, np.nan], [0.5])
    assert np.isnan([found.difference, found.low, found.high, found.auc, found.p]).all()
    assert np.isnan(compare_to_baseline([0.2], [0.5, 0.1]).low)


def test_wrong_arguments_are_refused():
    with pytest.raises(ResponseError, match=r"shape \(1, 1\)"):
        mean_over_units([[0.5]])
    with pytest.raises(OptionError, match="level=95"):
        mean_over_units([0.5, 0.6], level=95)
    with pytest.raises(OptionError, match="resamples=0"):
        compare_to_baseline([0.5], [0.6], resamples=0)


def test_infinite_values_are_left_out_of_means_and_counted():
    values = np.array([1.0, 2.0, 4.0, np.nan])
    plain, mixed = mean_over_units(values), mean_over_units(np.append(values, np.inf))
    assert (mixed.value, mixed.low, mixed.high) == (plain.value, plain.low, plain.high)
    assert (mixed.units, mixed.infinite, plain.infinite) == (3, 1, 0)
    found = compare_to_baseline([1.0, 3.0, np.inf], [1.0, 2.0, 0.0])
    assert found.difference == 1.0
    assert found.low < 1.0 < found.high
    assert found.auc == pytest.approx((1.5 + 3 + 3) / 9)
    assert (found.units, found.baseline_units) == (3, 3)
