"""Canonical correlations, SVCCA and PWCCA against the eigenvalue problem and exact limits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError, UnitprobeWarning

MEASURES = {
    "canonical_correlations": metrics.canonical_correlations,
    "svcca": metrics.svcca,
    "pwcca": metrics.pwcca,
}
each = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
quick = settings(max_examples=20, deadline=None, derandomize=True)


def related(stimuli, units, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(stimuli, 3))
    return [
        shared @ rng.normal(size=(3, d)) + 0.5 * rng.normal(size=(stimuli, d)) + 3.0 for d in units
    ]


def literal_cca(x, y):
    """Correlations and variates of `x` from the covariances: Sxy Syy^-1 Syx a = rho^2 Sxx a."""
    x, y = x - x.mean(0), y - y.mean(0)
    sxx, syy, sxy = x.T @ x, y.T @ y, x.T @ y
    squares, directions = scipy.linalg.eigh(sxy @ np.linalg.solve(syy, sxy.T), sxx)
    order = np.argsort(squares)[::-1][: min(x.shape[1], y.shape[1])]
    variates = x @ directions[:, order]
    return np.sqrt(squares[order]), variates / np.linalg.norm(variates, axis=0)


def literal_pwcca(x, y):
    correlations, variates = literal_cca(x, y)
    weights = np.zeros(len(correlations))
    for i, h in enumerate(variates.T):
        for z in (x - x.mean(0)).T:
            weights[i] += abs(h @ z)
    return np.sum(weights * correlations) / np.sum(weights)


def literal_svcca(x, y, share):
    kept = []
    for layer in (x - x.mean(0), y - y.mean(0)):
        u, s, _ = np.linalg.svd(layer, full_matrices=False)
        count = next(k for k in range(1, len(s) + 1) if np.sum(s[:k] ** 2) >= share * np.sum(s**2))
        kept.append(u[:, :count] * s[:count])
    return literal_cca(*kept)[0].mean()


@pytest.mark.parametrize("units", [(4, 7), (7, 4), (5, 5)])
def test_the_measures_are_those_of_the_eigenvalue_problem(units):
    x, y = related(60, units)
    np.testing.assert_allclose(
        metrics.canonical_correlations(x, y), literal_cca(x, y)[0], rtol=1e-8
    )
    for share in (0.5, 0.9, 0.99):
        expected = literal_svcca(x, y, share)
        assert metrics.svcca(x, y, share=share) == pytest.approx(expected, rel=1e-8)
    assert metrics.svcca(x, y) == metrics.svcca(x, y, share=0.99)


@pytest.mark.parametrize("units", [(4, 7), (7, 4), (5, 5)])
def test_pwcca_weights_by_the_smaller_layer_whichever_comes_first(units):
    x, y = related(60, units)
    expected = literal_pwcca(x, y) if units[0] <= units[1] else literal_pwcca(y, x)
    assert metrics.pwcca(x, y) == pytest.approx(expected, rel=1e-8)


def test_pwcca_of_two_layers_of_one_size_weights_by_the_first():
    x, y = related(60, (5, 5))
    assert metrics.pwcca(y, x) == pytest.approx(literal_pwcca(y, x), rel=1e-8)
    assert abs(metrics.pwcca(y, x) - metrics.pwcca(x, y)) > 1e-4


def test_pwcca_weighs_directions_by_their_variance_where_svcca_does_not():
    rng = np.random.default_rng(0)
    large, small, noise = rng.normal(size=(3, 5000, 1))
    x = np.hstack([10 * large, small])
    y = np.hstack([large, noise, rng.normal(size=(5000, 1))])
    assert metrics.pwcca(x, y) == pytest.approx(10 / 11, abs=0.02)
    assert metrics.svcca(x, y, share=1.0) == pytest.approx(0.5, abs=0.02)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8))
def test_an_invertible_map_does_not_matter_to_canonical_correlations(seed, a, b):
    x, y = related(40, (a, b), seed)
    rng = np.random.default_rng(seed)
    map_x = np.linalg.qr(rng.normal(size=(a, a)))[0] * rng.uniform(0.1, 10, size=a)
    before = metrics.canonical_correlations(x, y)
    after = metrics.canonical_correlations(x @ map_x + 7.0, y)
    np.testing.assert_allclose(after, before, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(metrics.canonical_correlations(y, x), before, rtol=1e-7, atol=1e-9)
    assert len(before) == min(a, b)
    assert (np.diff(before) <= 1e-12).all()
    for measure in (metrics.svcca, metrics.pwcca):
        assert 0 <= measure(x, y) <= 1
        assert measure(x, 3.0 * x @ np.linalg.qr(map_x)[0] - 2.0) == pytest.approx(1, abs=1e-9)


def test_noise_correlates_with_noise_by_its_known_amount():
    # The largest of the angles between random subspaces of a and b of n dimensions.
    rng = np.random.default_rng(1)
    n, a, b = 2000, 200, 200
    x, y = rng.normal(size=(n, a)), rng.normal(size=(n, b))
    p, q = a / n, b / n
    edge = np.sqrt(p * (1 - q)) + np.sqrt(q * (1 - p))
    assert metrics.canonical_correlations(x, y)[0] == pytest.approx(edge, rel=0.05)
    # Their squares have the mean b/n.
    assert np.mean(metrics.canonical_correlations(x, y) ** 2) == pytest.approx(q, rel=0.01)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_directions_that_only_rounding_makes_are_left_out(dtype):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(500, 6))
    logits = (features @ rng.normal(size=(6, 30)) + 1.0).astype(dtype)
    other = rng.normal(size=(500, 40))
    assert len(metrics.canonical_correlations(logits, other)) == 6
    assert len(metrics.canonical_correlations(torch.from_numpy(logits), torch.tensor(other))) == 6
    expected = metrics.pwcca(features @ np.eye(6), other)
    assert metrics.pwcca(other, logits) == pytest.approx(expected, abs=0.05)


def test_dead_and_doubled_units_change_nothing():
    x, y = related(60, (5, 8))
    more = np.hstack([x, np.zeros((60, 2)), x[:, :2] * 0 + 3.0])
    for measure in MEASURES.values():
        np.testing.assert_allclose(measure(more, y), measure(x, y), rtol=1e-9)
    doubled = metrics.canonical_correlations(np.hstack([x, x]), y)
    np.testing.assert_allclose(doubled, metrics.canonical_correlations(x, y), rtol=1e-9)


@each
def test_too_few_stimuli_are_warned_of_with_the_number_of_certain_correlations(measure):
    x, y = np.random.default_rng(0).normal(size=(2, 12, 8))
    with pytest.warns(UnitprobeWarning, match=r"at least [45] of [78] canonical corr"):
        value = measure(x, y)
    if np.ndim(value):
        # 8 + 8 dimensions in the 11 that 12 stimuli leave.
        np.testing.assert_allclose(value[:5], 1, atol=1e-9)
        assert value[5] < 1 - 1e-6


@each
def test_a_constant_layer_has_no_correlation(measure):
    x = np.random.default_rng(0).normal(size=(20, 3))
    for value in (measure(x, np.full((20, 2), 0.1)), measure(np.zeros((20, 2)), x)):
        assert np.isnan(value) if np.ndim(value) == 0 else value.size == 0


@each
def test_different_numbers_of_stimuli_are_refused(measure):
    with pytest.raises(ResponseError, match="got 4 and 3"):
        measure(np.ones((4, 2)), np.ones((3, 2)))


def test_an_invalid_share_is_refused():
    for share in (0, 1.5, -0.1):
        with pytest.raises(OptionError, match="share"):
            metrics.svcca(np.eye(9, 2), np.eye(9, 2), share=share)


def test_enough_stimuli_give_no_warning():
    x, y = np.random.default_rng(0).normal(size=(2, 17, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.svcca(x, y, share=1.0)
