"""CKA without bias, Procrustes and RSA against literal versions, scipy and exact limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError

SIMILARITIES = {
    "linear_cka": metrics.linear_cka,
    "unbiased linear_cka": lambda x, y: metrics.linear_cka(x, y, unbiased=True),
    "procrustes_similarity": metrics.procrustes_similarity,
    "euclidean representational_similarity": lambda x, y: metrics.representational_similarity(
        x, y, distance="euclidean"
    ),
}
each = pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES.keys())


def related(stimuli, units, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(stimuli, 3))
    return [
        shared @ rng.normal(size=(3, d)) + noise * rng.normal(size=(stimuli, d)) + 3.0
        for d in units
    ]


def rotation(units, seed=9):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(units, units)))[0]


def literal_hsic(k, l):  # noqa: E741
    """Song et al. 2012, equation 5, term by term."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + sums - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


@pytest.mark.parametrize("units", [(4, 7), (4, 90), (80, 90)])
def test_unbiased_cka_is_that_of_the_published_estimator(units):
    x, y = related(40, units)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = literal_hsic(k, l) / np.sqrt(literal_hsic(k, k) * literal_hsic(l, l))
    assert metrics.linear_cka(x, y, unbiased=True) == pytest.approx(expected, rel=1e-9)


def test_noise_has_no_unbiased_cka_with_noise_however_few_the_stimuli():
    rng = np.random.default_rng(0)
    plain, unbiased = np.transpose(
        [
            (metrics.linear_cka(x, y), metrics.linear_cka(x, y, unbiased=True))
            for x, y in (rng.normal(size=(2, 30, 60)) for _ in range(200))
        ]
    )
    assert plain.mean() > 0.5
    assert abs(unbiased.mean()) < 4 * unbiased.std() / np.sqrt(200)


def test_unbiased_cka_is_nan_where_there_is_nothing_to_estimate_it_from():
    x = np.random.default_rng(0).normal(size=(3, 5))
    assert np.isnan(metrics.linear_cka(x, x, unbiased=True))
    assert np.isnan(metrics.linear_cka(np.eye(9), np.eye(9), unbiased=True))
    rotated = np.eye(9) @ rotation(9)
    assert np.isnan(metrics.linear_cka(rotated, rotated, unbiased=True))


@each
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(5, 30), st.integers(2, 40), st.integers(2, 40))
def test_rotation_scale_shift_and_exchange_do_not_matter(similarity, seed, stimuli, a, b):
    x, y = related(stimuli, (a, b), seed)
    value = float(similarity(x, y))
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert similarity(y, x) == pytest.approx(value, rel=1e-7, abs=1e-9)
    moved = 0.3 * x @ rotation(a) + np.arange(a)
    assert similarity(moved, y) == pytest.approx(value, rel=1e-7, abs=1e-9)
    assert similarity(moved, x) == pytest.approx(1, abs=1e-9)


@each
def test_a_constant_layer_is_like_nothing(similarity):
    x = np.random.default_rng(6).normal(size=(10, 3))
    assert np.isnan(similarity(x, np.full((10, 2), 0.1)))
    assert np.isnan(similarity(np.full((10, 2), 0.1), x))
    assert np.isnan(similarity(np.ones((1, 2)), np.ones((1, 2))))


@each
def test_different_numbers_of_stimuli_are_refused(similarity):
    with pytest.raises(ResponseError, match="got 4 and 3"):
        similarity(np.ones((4, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("stimuli", [40, 6])
def test_procrustes_is_that_of_scipy(stimuli):
    x, y = related(stimuli, (9, 9))
    disparity = scipy.spatial.procrustes(x, y)[2]
    assert metrics.procrustes_similarity(x, y) ** 2 == pytest.approx(1 - disparity, rel=1e-9)


def test_procrustes_is_the_best_fit_by_a_rotation_with_the_smaller_layer_padded():
    x, y = related(40, (6, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    padded = np.hstack([y, np.zeros((40, 2))])
    best = scipy.linalg.orthogonal_procrustes(padded, x)[0]
    expected = 1 - np.sum((x - padded @ best) ** 2) / 2
    assert metrics.procrustes_similarity(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
def test_rsa_is_the_rank_correlation_of_scipys_distances(distance):
    x, y = related(25, (8, 11))
    expected = scipy.stats.spearmanr(pdist(x, distance), pdist(y, distance)).statistic
    similarity = metrics.representational_similarity(x, y, distance=distance)
    assert similarity == pytest.approx(expected, rel=1e-10)


def test_rsa_takes_tied_distances_together_though_rounding_would_order_them():
    # Few distinct patterns: most distances occur many times. Rotated, only rounding tells them.
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 2, size=(2, 40, 5)).astype(float)
    expected = scipy.stats.spearmanr(
        pdist(x, "sqeuclidean").round(6), pdist(y, "sqeuclidean").round(6)
    ).statistic
    similarity = metrics.representational_similarity(x @ rotation(5), y, distance="euclidean")
    assert similarity == pytest.approx(expected, rel=1e-10)
    assert np.isnan(metrics.representational_similarity(np.eye(6), x[:6], distance="euclidean"))


def test_rsa_by_correlation_ignores_the_gain_and_offset_of_each_stimulus():
    x, y = related(20, (7, 9))
    rng = np.random.default_rng(3)
    changed = x * rng.uniform(0.5, 2, size=(20, 1)) + rng.normal(size=(20, 1))
    before = metrics.representational_similarity(x, y)
    assert metrics.representational_similarity(changed, y) == pytest.approx(before, rel=1e-9)


def test_a_stimulus_that_drives_all_units_alike_correlates_with_nothing():
    x, y = related(20, (7, 9))
    x[4] = 0.0
    assert np.isnan(metrics.representational_similarity(x, y))
    assert np.isfinite(metrics.representational_similarity(x, y, distance="euclidean"))


def test_an_unknown_distance_is_refused():
    with pytest.raises(OptionError, match="'cityblock' is not known; choose one of correlation"):
        metrics.representational_similarity(np.eye(3), np.eye(3), distance="cityblock")


def test_the_gradients_of_cka_and_procrustes_are_the_derivatives():
    x, y = (torch.tensor(v[:, :4], requires_grad=True) for v in related(9, (4, 4)))
    assert torch.autograd.gradcheck(lambda a, b: metrics.linear_cka(a, b, unbiased=True), (x, y))
    assert torch.autograd.gradcheck(metrics.procrustes_similarity, (x, y))
