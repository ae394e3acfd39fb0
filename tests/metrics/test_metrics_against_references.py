"""Each measure against exact values and against references that share no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.decomposition import PCA

from unitprobe import metrics
from unitprobe.metrics import dimensionality


def one_of_k(n, k):
    """A unit that responds with 1 to the first k of n classes (or stimuli), else with 0."""
    responses = np.zeros((n, 1))
    responses[:k] = 1.0
    return responses


@pytest.fixture(scope="module")
def layer():
    """Rectified responses of 12 units to 5 classes of unequal sizes, class 3 without stimuli."""
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.repeat([0, 1, 2, 4], [11, 2, 31, 17]))
    preference = rng.normal(size=(5, 12))
    responses = np.maximum(preference[labels] + rng.normal(size=(61, 12)), 0)
    responses[:, 5] = 0.0
    return responses, labels


# Exact values: the unit that responds to k of n.


@pytest.mark.parametrize(("n", "k"), [(10, 1), (10, 3), (200, 20), (7, 7)])
def test_a_unit_that_responds_to_k_of_n_has_the_exact_value(n, k):
    unit = one_of_k(n, k)
    values = {
        "class_selectivity": metrics.class_selectivity(unit, np.arange(n)),
        "ccmas": metrics.ccmas(unit, np.arange(n)),
        "lifetime_sparseness": metrics.lifetime_sparseness(unit),
        "population_sparseness": metrics.population_sparseness(unit.T),
        "gini": metrics.gini(unit),
        "hoyer_sparseness": metrics.hoyer_sparseness(unit),
        "activity_ratio": metrics.activity_ratio(unit),
        "fraction_active": metrics.fraction_active(unit),
    }
    exact = {
        "class_selectivity": (n - k) / (n + k - 2),
        "ccmas": (n - k) / (n + k - 2),
        "lifetime_sparseness": (1 - k / n) / (1 - 1 / n),
        "population_sparseness": (1 - k / n) / (1 - 1 / n),
        "gini": 1 - k / n,
        "hoyer_sparseness": (n**0.5 - k**0.5) / (n**0.5 - 1),
        "activity_ratio": k / n,
        "fraction_active": k / n,
    }
    assert {name: float(value[0]) for name, value in values.items()} == pytest.approx(
        exact, abs=1e-12
    )


def test_the_published_values_of_the_exact_oracle():
    labels = np.arange(10)
    assert metrics.class_selectivity(one_of_k(10, 1), labels)[0] == 1
    assert metrics.class_selectivity(one_of_k(10, 3), labels)[0] == pytest.approx(0.6364, abs=5e-5)
    assert metrics.class_selectivity(one_of_k(200, 20), np.arange(200))[0] == pytest.approx(
        0.8257, abs=5e-5
    )
    assert metrics.lifetime_sparseness(one_of_k(10, 3))[0] == pytest.approx(0.7778, abs=5e-5)
    assert metrics.hoyer_sparseness(one_of_k(10, 3))[0] == pytest.approx(0.6614, abs=5e-5)


def test_a_flat_response_has_neither_selectivity_nor_sparseness():
    flat = np.full((12, 1), 0.1, dtype=np.float32)
    assert metrics.class_selectivity(flat, np.arange(12) % 3) == pytest.approx(0, abs=1e-12)
    for measure in (metrics.lifetime_sparseness, metrics.hoyer_sparseness, metrics.gini):
        assert measure(flat) == pytest.approx(0, abs=1e-12)


# Class-based measures against literal loops.


def literal_means(responses, labels, classes):
    means = np.full((classes, responses.shape[1]), np.nan)
    for c in range(classes):
        members = [responses[i] for i in range(len(labels)) if labels[i] == c]
        if members:
            means[c] = sum(members) / len(members)
    return means


def test_class_means_are_those_of_a_loop_over_classes(layer):
    responses, labels = layer
    means = metrics.class_means(responses, labels, 6)
    np.testing.assert_allclose(means, literal_means(responses, labels, 6), rtol=1e-13)
    assert np.isnan(means[[3, 5]]).all()
    assert not np.isnan(means[[0, 1, 2, 4]]).any()


def test_class_counts_are_those_of_the_labels(layer):
    _, labels = layer
    assert metrics.class_counts(labels, 6).tolist() == [11, 2, 31, 0, 17, 0]


@pytest.mark.parametrize("weighting", ["class", "stimulus"])
def test_selectivity_is_that_of_a_loop_over_units(layer, weighting):
    responses, labels = layer
    means = literal_means(responses, labels, 5)
    expected = np.full(12, np.nan)
    for u in range(12):
        best = max((c for c in (0, 1, 2, 4)), key=lambda c: means[c, u])
        others = [c for c in (0, 1, 2, 4) if c != best]
        if weighting == "class":
            rest = np.mean([means[c, u] for c in others])
        else:
            rest = np.mean([r for r, c in zip(responses[:, u], labels, strict=True) if c != best])
        if means[best, u] + rest > 0:
            expected[u] = (means[best, u] - rest) / (means[best, u] + rest)
    selectivity = metrics.class_selectivity(responses, labels, weighting=weighting)
    np.testing.assert_allclose(selectivity, expected, rtol=1e-12)
    if weighting == "stimulus":
        np.testing.assert_array_equal(metrics.ccmas(responses, labels), selectivity)


def test_the_two_weightings_differ_only_where_classes_are_unbalanced(layer):
    responses, labels = layer
    alive = ~metrics.dead(responses)
    difference = metrics.ccmas(responses, labels) - metrics.class_selectivity(responses, labels)
    assert np.abs(difference[alive]).max() > 0.01

    balanced = np.arange(60) % 4
    np.testing.assert_allclose(
        metrics.ccmas(responses[:60], balanced),
        metrics.class_selectivity(responses[:60], balanced),
        rtol=1e-12,
    )


def test_counts_do_not_leak_into_selectivity():
    # A unit that responds alike to everything, and a class that has 100 times the stimuli.
    labels = np.repeat([0, 1, 2], [1000, 10, 10])
    responses = np.full((1020, 1), 0.3)
    assert metrics.class_selectivity(responses, labels) == pytest.approx(0, abs=1e-12)


def test_the_preferred_class_is_the_highest_mean_the_lowest_class_of_a_tie_and_none_if_dead(layer):
    responses, labels = layer
    preferred = metrics.preferred_class(responses, labels)
    means = np.nan_to_num(literal_means(responses, labels, 5), nan=-1)
    alive = ~metrics.dead(responses)
    np.testing.assert_array_equal(preferred[alive], means.argmax(0)[alive])
    assert preferred[5] == -1
    tied = np.array([[0.0], [2.0], [2.0]])
    assert metrics.preferred_class(tied, np.array([0, 2, 1])) == [1]
    # The only class seen is preferred even by a unit that it inhibits, never an absent one.
    assert metrics.preferred_class(np.array([[-1.0], [-2.0]]), np.array([3, 1])) == [3]


def test_selectivity_takes_any_dimensions_before_the_tuning_curves(layer):
    responses, labels = layer
    means = metrics.class_means(responses, labels)
    counts = metrics.class_counts(labels)
    batch = np.stack([means, means * 2, means[::-1]]).reshape(3, 1, 5, 12)
    batch_counts = np.stack([counts, counts, counts[::-1]]).reshape(3, 1, 5)
    for weighting in ("class", "stimulus"):
        one = metrics.selectivity_index(means, counts, weighting=weighting)
        many = metrics.selectivity_index(batch, batch_counts, weighting=weighting)
        assert many.shape == (3, 1, 12)
        np.testing.assert_allclose(many[:, 0], np.stack([one] * 3), rtol=1e-12)


# Sparsity.


def test_kurtosis_is_that_of_scipy(layer):
    responses, _ = layer
    alive = ~metrics.dead(responses)
    np.testing.assert_allclose(
        metrics.kurtosis(responses)[alive], scipy.stats.kurtosis(responses[:, alive]), rtol=1e-10
    )
    assert np.isnan(metrics.kurtosis(responses)[~alive]).all()
    assert np.isnan(metrics.kurtosis(np.full((7, 1), 0.1))).all()


def test_gini_is_the_mean_absolute_difference(layer):
    responses, _ = layer
    for r, value in zip(responses.T, metrics.gini(responses), strict=True):
        if r.sum() > 0:
            literal = np.abs(r[:, None] - r[None, :]).sum() / (2 * len(r) * r.sum())
            assert value == pytest.approx(literal, rel=1e-12)


def test_sparseness_is_its_formula_along_the_right_axis(layer):
    responses, _ = layer
    alive = ~metrics.dead(responses)
    n, d = responses.shape
    for u in np.flatnonzero(alive):
        r = responses[:, u]
        a = (r.sum() / n) ** 2 / ((r * r).sum() / n)
        assert metrics.lifetime_sparseness(responses)[u] == pytest.approx((1 - a) / (1 - 1 / n))
        l1, l2 = np.abs(r).sum(), np.sqrt((r * r).sum())
        hoyer = (np.sqrt(n) - l1 / l2) / (np.sqrt(n) - 1)
        assert metrics.hoyer_sparseness(responses)[u] == pytest.approx(hoyer)
    for s in range(n):
        r = responses[s]
        a = (r.sum() / d) ** 2 / ((r * r).sum() / d)
        expected = pytest.approx((1 - a) / (1 - 1 / d))
        assert metrics.population_sparseness(responses)[s] == expected


def test_measures_without_a_value_are_nan_and_the_unit_is_dead():
    responses = np.zeros((4, 3))
    responses[:3, 1:] = 1.0
    assert metrics.dead(responses).tolist() == [True, False, False]
    for measure in (metrics.lifetime_sparseness, metrics.hoyer_sparseness, metrics.gini):
        assert np.isnan(measure(responses)).tolist() == [True, False, False]
    silent = np.isnan(metrics.population_sparseness(responses))
    assert silent.tolist() == [False, False, False, True]
    assert np.isnan(metrics.class_selectivity(responses, np.array([0, 0, 1, 1])))[0]


def test_one_stimulus_has_no_lifetime_measure_and_one_unit_no_population_measure():
    one = np.ones((1, 3))
    assert np.isnan(metrics.lifetime_sparseness(one)).all()
    assert np.isnan(metrics.hoyer_sparseness(one)).all()
    assert np.isnan(metrics.population_sparseness(one.T)).all()


# Dimensionality.


@pytest.mark.parametrize("shape", [(60, 9), (9, 60)], ids=["more stimuli", "more units"])
def test_the_spectrum_is_that_of_scikit_learns_pca(shape):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape) @ np.diag(np.linspace(0.1, 3, shape[1])) + 100.0
    reference = PCA().fit(x)
    spectrum = metrics.covariance_spectrum(x)
    # After centring, the last component of n stimuli in n or more units is 0.
    np.testing.assert_allclose(spectrum, reference.explained_variance_, rtol=1e-9, atol=1e-9)
    for share in (0.3, 0.9, 0.95):
        wanted = 1 + np.sum(np.cumsum(reference.explained_variance_ratio_) < share)
        assert metrics.components_for(x, share) == wanted
    s = reference.singular_values_[reference.singular_values_ > 1e-6]
    assert metrics.effective_rank(x) == pytest.approx(np.exp(scipy.stats.entropy(s)), rel=1e-6)
    covariance = np.cov(x.T)
    ratio = np.trace(covariance) ** 2 / np.sum(covariance**2)
    assert metrics.participation_ratio(x) == pytest.approx(ratio, rel=1e-9)


def test_an_isotropic_gaussian_has_as_many_dimensions_as_it_has():
    x = np.random.default_rng(0).normal(size=(20_000, 8))
    assert metrics.participation_ratio(x) == pytest.approx(8, rel=0.005)
    assert metrics.effective_rank(x) == pytest.approx(8, rel=0.005)
    assert metrics.components_90(x) == 8


def test_rank_one_has_one_dimension():
    x = np.random.default_rng(0).normal(size=(50, 1)) * np.arange(1.0, 6.0)
    assert metrics.participation_ratio(x) == pytest.approx(1, abs=1e-9)
    assert metrics.effective_rank(x) == pytest.approx(1, abs=1e-6)
    assert metrics.components_90(x) == metrics.components_95(x) == 1


def test_equal_variances_need_just_their_share_of_components():
    equal = np.ones(10)
    assert dimensionality.components_from_spectrum(equal, 0.9) == 9
    assert dimensionality.components_from_spectrum(equal, 0.91) == 10
    assert dimensionality.components_from_spectrum(equal, 1.0) == 10


@pytest.mark.parametrize("x", [np.zeros((5, 3)), np.full((7, 3), 0.1), np.ones((1, 4))])
def test_a_layer_without_variance_has_no_dimension(x):
    assert not metrics.covariance_spectrum(x).any()
    assert np.isnan(metrics.participation_ratio(x))
    assert np.isnan(metrics.effective_rank(x))
    assert metrics.components_90(x) == 0


def test_rotation_leaves_dimensionality_and_similarity_and_changes_selectivity(layer):
    responses, _ = layer
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    rotated = responses @ rotation
    for measure in (metrics.participation_ratio, metrics.effective_rank):
        assert measure(rotated) == pytest.approx(measure(responses), rel=1e-9)
    assert metrics.linear_cka(responses, rotated) == pytest.approx(1, abs=1e-12)
    # A unit for each class: rotated, every unit mixes classes.
    labels = np.arange(12)
    rectified = np.maximum(np.eye(12) @ rotation, 0)
    np.testing.assert_array_equal(metrics.class_selectivity(np.eye(12), labels), 1)
    assert (metrics.class_selectivity(rectified, labels) < 0.95).all()


# Similarity.


def literal_cka(x, y):
    n = len(x)
    centring = np.eye(n) - 1 / n
    of_x, of_y = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    norms = np.trace(of_x @ of_x) * np.trace(of_y @ of_y)
    return np.trace(of_x @ of_y) / np.sqrt(norms)


@pytest.mark.parametrize("units", [(4, 7), (4, 90), (80, 90)])
def test_cka_is_the_normalized_hsic_whichever_side_is_cheaper(units):
    rng = np.random.default_rng(4)
    shared = rng.normal(size=(40, 3))
    x, y = (shared @ rng.normal(size=(3, d)) + 0.5 * rng.normal(size=(40, d)) + 3.0 for d in units)
    assert metrics.linear_cka(x, y) == pytest.approx(literal_cka(x, y), rel=1e-10)


def test_cka_ignores_scale_and_shift_and_order_of_units():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 8))
    assert metrics.linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    same = metrics.linear_cka(3.0 * x[:, ::-1] + 2.0, y)
    assert same == pytest.approx(metrics.linear_cka(x, y), rel=1e-10)
    assert metrics.linear_cka(y, x) == pytest.approx(metrics.linear_cka(x, y), rel=1e-12)


def test_cka_with_a_constant_layer_is_nan():
    x = np.random.default_rng(6).normal(size=(10, 3))
    assert np.isnan(metrics.linear_cka(x, np.full((10, 2), 0.1)))
