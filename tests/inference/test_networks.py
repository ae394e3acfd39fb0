"""Intervals over networks: the t interval, its coverage with few networks, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from unitprobe import inference
from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference import difference_over_networks, mean_over_networks


def test_the_mean_has_the_interval_of_scipy():
    values = np.random.default_rng(0).normal(size=6)
    found = mean_over_networks(values, level=0.9)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert found.value == values.mean()
    assert found.networks == 6


@pytest.mark.parametrize("paired", [False, True])
def test_the_difference_has_the_interval_of_scipy(paired):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=5), rng.normal(size=5 if paired else 3) * 3
    found = difference_over_networks(a, b, paired=paired, level=0.9)
    test = scipy.stats.ttest_rel(a, b) if paired else scipy.stats.ttest_ind(a, b, equal_var=False)
    expected = test.confidence_interval(0.9)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.networks == a.size + b.size


@pytest.mark.parametrize("networks", [2, 3, 5])
def test_the_interval_holds_the_truth_even_for_few_networks(networks):
    rng = np.random.default_rng(2)
    held = []
    for _ in range(1500):
        found = mean_over_networks(rng.normal(0.8, 0.01, size=networks))
        held.append(found.low <= 0.8 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_network_has_no_interval_and_so_no_verdict():
    one = mean_over_networks([0.8])
    assert one.value == 0.8
    assert np.isnan([one.low, one.high]).all()
    prediction = inference.Prediction("accuracy", "greater", 0.5)
    assert inference.verdict(prediction, one.value, one.low, one.high) == "inconclusive"
    for a, b in [([0.8], [0.7, 0.6]), ([0.8, 0.7], [0.6]), ([0.8], [0.7])]:
        difference = difference_over_networks(a, b)
        assert difference.value == pytest.approx(np.mean(a) - np.mean(b))
        assert np.isnan([difference.low, difference.high]).all()


def test_networks_that_do_not_differ_have_no_known_spread():
    equal = mean_over_networks([0.1] * 3)
    assert equal.value == pytest.approx(0.1)
    assert np.isnan([equal.low, equal.high]).all()
    assert np.isnan(difference_over_networks([0.1] * 3, [0.7] * 6).low)
    # 0.81 - 0.8 and 0.83 - 0.82 differ by rounding alone.
    assert np.isnan(difference_over_networks([0.81, 0.83], [0.80, 0.82], paired=True).low)
    # One group without spread leaves the other's.
    found = difference_over_networks([0.5, 0.5, 0.5], [0.1, 0.2, 0.3])
    alone = mean_over_networks([0.1, 0.2, 0.3])
    assert found.high - found.low == pytest.approx(alone.high - alone.low)


def test_a_network_without_a_value_is_not_left_out():
    found = mean_over_networks([0.8, np.nan, 0.9])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ResponseError, match=r"shape \(1, 2\)"):
        mean_over_networks([[0.1, 0.2]])
    with pytest.raises(ResponseError, match=r"shape \(0,\)"):
        difference_over_networks([0.1], [])
    with pytest.raises(ResponseError, match="got 2 and 3"):
        difference_over_networks([0.1, 0.2], [0.1, 0.2, 0.3], paired=True)
    for level in (0, 1, 95):
        with pytest.raises(OptionError, match=f"level={level}"):
            mean_over_networks([0.1, 0.2], level=level)
        with pytest.raises(OptionError, match=f"level={level}"):
            difference_over_networks([0.1, 0.2], [0.3, 0.4], level=level)
