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
