"""Spearman's correlation over units, plain and within layers."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference import rank_correlation


def related(count, strength, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=count)
    return x, strength * x + random.normal(size=count)


def test_it_is_spearmans_correlation_with_ties():
    x, y = related(50, 0.5)
    x, y = x.round(1), y.round(1)
    assert rank_correlation(x, y, resamples=10).value == pytest.approx(spearmanr(x, y).statistic)


def test_the_interval_and_p_value_follow_the_strength():
    strong, none = (rank_correlation(*related(100, s), resamples=200) for s in (2.0, 0.0))
    assert strong.low > 0.5
    assert strong.p == pytest.approx(1 / 201)
    assert none.low < 0 < none.high
    assert none.p > 0.05


def test_a_permutation_p_value_equals_the_literal_one():
    x, y = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
    found = rank_correlation(x, y, resamples=4000)
    # Of the 24 orders of four units, 8 are at least as far from 0 as 0.8.
    assert found.p == pytest.approx(8 / 24, abs=0.03)


def test_strata_give_the_mean_of_their_correlations_weighted_by_units():
    a, b = related(40, 1.0), related(60, -0.3, seed=1)
    x = np.concatenate([a[0], b[0] + 100])
    y = np.concatenate([a[1], b[1] + 100])
    strata = np.repeat([0, 1], [40, 60])
    expected = 0.4 * spearmanr(*a).statistic + 0.6 * spearmanr(*b).statistic
    assert rank_correlation(x, y, strata, resamples=10).value == pytest.approx(expected)
    # As a correlation of ranks, standardized within each stratum.
    ranks = [np.concatenate([standard(v[strata == s]) for s in (0, 1)]) for v in (x, y)]
    assert np.corrcoef(ranks)[0, 1] == pytest.approx(expected)


def standard(values):
    ranks = rankdata(values)
    return (ranks - ranks.mean()) / ranks.std()


def test_what_differs_between_strata_alone_correlates_nothing():
    random = np.random.default_rng(0)
    strata = np.repeat(np.arange(5), 40)
    x, y = (10 * strata + random.normal(size=200) for _ in range(2))
    assert rank_correlation(x, y, resamples=10).value > 0.9
    assert abs(rank_correlation(x, y, strata, resamples=10).value) < 0.2


def test_units_without_a_value_are_left_out():
    x, y = related(30, 1.0)
    expected = rank_correlation(x, y, resamples=20)
    found = rank_correlation([*x, np.nan, 1.0], [*y, 1.0, np.nan], resamples=20)
    assert found.units == expected.units == 30
    assert found.value == expected.value


@pytest.mark.parametrize("x", [[1.0, 1.0, 1.0, 1.0], [np.nan, np.nan, 1.0, 2.0]])
def test_there_is_none_without_variation_or_with_too_few_units(x):
    found = rank_correlation(x, [1.0, 2.0, 3.0, 4.0], resamples=10)
    assert np.isnan([found.value, found.low, found.high, found.p]).all()


def test_bad_input_is_refused_in_the_users_own_values():
    with pytest.raises(ResponseError, match=r"shapes \(3,\), \(2,\)"):
        rank_correlation([1, 2, 3], [1, 2])
    with pytest.raises(OptionError, match="level=95"):
        rank_correlation([1, 2, 3], [1, 2, 3], level=95)
    with pytest.raises(OptionError, match="resamples=0"):
        rank_correlation([1, 2, 3], [1, 2, 3], resamples=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "correlation"),
    [([16] * 7 + [32] * 6 + [64] * 6, 0.8), ([8] * 20, 0.8), ([4] * 40, 0.5)],
)
def test_pooled_intervals_hold_the_correlation_of_many_units(sizes, correlation):
    # Percentiles of redrawn units held it in 0.78, 0.51 and 0.79 of these.
    assert share_of_intervals(sizes, correlation) >= 0.92


@pytest.mark.slow
def test_clusters_widen_the_interval_of_channels_that_recur_in_every_layer():
    plain, clustered = (
        share_of_intervals([32] * 9, 0.5, shared=0.8, clustered=clustered)
        for clustered in (False, True)
    )
    assert plain < 0.85
    assert clustered >= 0.92


def share_of_intervals(sizes, correlation, shared=0.0, clustered=False, sets=40):
    random = np.random.default_rng(0)
    true = 6 / np.pi * np.arcsin(correlation / 2)
    layer = np.repeat(np.arange(len(sizes)), sizes)
    channel = np.concatenate([np.arange(size) for size in sizes])

    def normal():
        of_channel = random.normal(size=max(sizes))[channel]
        return np.sqrt(shared) * of_channel + np.sqrt(1 - shared) * random.normal(size=len(layer))

    held = 0
    for _ in range(sets):
        x = normal()
        y = correlation * x + np.sqrt(1 - correlation**2) * normal()
        found = rank_correlation(x, y, layer, clusters=channel if clustered else None, resamples=1)
        assert -1 <= found.low <= found.value <= found.high <= 1
        held += found.low <= true <= found.high
    return held / sets


def test_clusters_are_permuted_together():
    # Every layer holds the same channels: they are one sample of six, and not of 60.
    x, y = related(6, 1.0)
    layer, channel = np.repeat(np.arange(10), 6), np.tile(np.arange(6), 10)
    found = rank_correlation(
        np.tile(x, 10), np.tile(y, 10), layer, clusters=channel, resamples=2000
    )
    assert found.p == pytest.approx(rank_correlation(x, y, resamples=2000).p, abs=0.03)


def test_a_cluster_of_two_units_in_one_stratum_is_refused():
    with pytest.raises(ResponseError, match="cluster 7 has 2 units in one stratum"):
        rank_correlation([1, 2, 3, 4], [1, 3, 2, 4], clusters=[7, 7, 8, 9])
