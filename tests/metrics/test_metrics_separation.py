"""d-prime, class correlation and analysis of variance against scipy and literal loops."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics import separation

BY_CLASS = {
    "d_prime": (partial(metrics.d_prime, reduce=None), separation.d_prime_from_moments),
    "class_correlation": (
        partial(metrics.class_correlation, reduce=None),
        separation.class_correlation_from_moments,
    ),
    "anova_f": (metrics.anova_f, separation.anova_f_from_moments),
    "eta_squared": (metrics.eta_squared, separation.eta_squared_from_moments),
}
BEST = {
    "d_prime": metrics.d_prime,
    "class_correlation": metrics.class_correlation,
    "anova_f": metrics.anova_f,
    "eta_squared": metrics.eta_squared,
}
every_measure = pytest.mark.parametrize("measure", BEST.values(), ids=BEST.keys())
every_form = pytest.mark.parametrize(
    ("measure", "from_moments"), BY_CLASS.values(), ids=BY_CLASS.keys()
)
quick = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["signed", "rectified", "float32", "far from 0"])
def layer(request):
    """Responses of 8 units to classes of 11, 2, 31 and 17 stimuli; class 3 is absent."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat([0, 1, 2, 4], [11, 2, 31, 17]))
    responses = rng.normal(size=(5, 8))[labels] + rng.normal(size=(61, 8))
    if request.param != "signed":
        responses = np.maximum(responses, 0)
    if request.param == "float32":
        responses = responses.astype(np.float32)
    if request.param == "far from 0":
        responses += 1e6
    return responses, labels


def moments(responses, labels, classes):
    return (
        metrics.class_counts(labels, classes),
        metrics.class_means(responses, labels, classes),
        metrics.class_variances(responses, labels, classes),
    )


# Against references.


def test_d_prime_is_that_of_a_loop_over_classes(layer):
    responses, labels = layer
    found = metrics.d_prime(responses, labels, class_count=6, reduce=None)
    assert np.isnan(found[[3, 5]]).all()
    for c in (0, 1, 2, 4):
        a, b = (responses[labels == c].astype(float), responses[labels != c].astype(float))
        expected = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / 2)
        np.testing.assert_allclose(found[c], expected, rtol=1e-8)


def test_the_correlation_with_membership_is_pearsons(layer):
    responses, labels = layer
    found = metrics.class_correlation(responses, labels, class_count=6, reduce=None)
    assert np.isnan(found[[3, 5]]).all()
    for c in (0, 1, 2, 4):
        expected = [scipy.stats.pearsonr(x.astype(float), labels == c)[0] for x in responses.T]
        np.testing.assert_allclose(found[c], expected, rtol=1e-8)


def test_the_correlation_with_probabilities_is_pearsons(layer):
    responses, labels = layer
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=len(labels))
    found = metrics.class_correlation(responses, probabilities=probabilities, reduce=None)
    for c in range(4):
        expected = [scipy.stats.pearsonr(x.astype(float), probabilities[:, c])[0]
                    for x in responses.T]  # fmt: skip
        np.testing.assert_allclose(found[c], expected, rtol=1e-8)
    best = metrics.class_correlation(responses, probabilities=probabilities)
    np.testing.assert_array_equal(best, found.max(axis=0))


def test_probabilities_of_0_and_1_are_membership(layer):
    responses, labels = layer
    membership = (labels[:, None] == np.arange(5)).astype(np.float32)
    np.testing.assert_allclose(
        metrics.class_correlation(responses, probabilities=membership, reduce=None),
        metrics.class_correlation(responses, labels, reduce=None),
        rtol=1e-9,
    )


def test_the_f_statistic_is_scipys(layer):
    responses, labels = layer
    groups = [responses[labels == c].astype(float) for c in (0, 1, 2, 4)]
    expected = scipy.stats.f_oneway(*groups).statistic
    np.testing.assert_allclose(metrics.anova_f(responses, labels), expected, rtol=1e-8)


def test_eta_squared_is_the_share_that_class_means_explain(layer):
    responses, labels = layer
    fitted = metrics.class_means(responses, labels)[labels]
    expected = fitted.var(axis=0) / responses.astype(float).var(axis=0)
    np.testing.assert_allclose(metrics.eta_squared(responses, labels), expected, rtol=1e-8)


def test_f_follows_from_eta_squared(layer):
    responses, labels = layer
    share, classes = metrics.eta_squared(responses, labels), 4
    expected = (share / (classes - 1)) / ((1 - share) / (len(labels) - classes))
    np.testing.assert_allclose(metrics.anova_f(responses, labels), expected, rtol=1e-8)


def test_the_value_of_a_unit_is_the_largest_of_its_classes(layer):
    responses, labels = layer
    for name in ("d_prime", "class_correlation"):
        by_class = BY_CLASS[name][0](responses, labels)
        np.testing.assert_array_equal(BEST[name](responses, labels), np.nanmax(by_class, axis=0))


@every_form
def test_moments_give_what_responses_give(layer, measure, from_moments):
    responses, labels = layer
    found = from_moments(*moments(responses, labels, 5))
    np.testing.assert_allclose(found, measure(responses, labels), rtol=1e-6)


@every_form
def test_moments_may_have_dimensions_before(layer, measure, from_moments):
    responses, labels = layer
    rng = np.random.default_rng(0)
    shuffles = [rng.permutation(labels) for _ in range(3)]
    each = [moments(responses, y, 5) for y in shuffles]
    means, variances = (np.stack([m[i] for m in each]) for i in (1, 2))
    expected = [measure(responses, y) for y in shuffles]
    np.testing.assert_allclose(from_moments(each[0][0], means, variances), expected, rtol=1e-6)
    counts = np.stack([m[0] for m in each])
    np.testing.assert_allclose(from_moments(counts, means, variances), expected, rtol=1e-6)


# Exact values.


def test_a_response_to_k_of_n_classes_has_the_exact_value():
    for n, k in ((10, 1), (10, 3), (6, 5)):
        labels = np.repeat(np.arange(n), 7)
        responses = (labels < k).astype(float)[:, None]
        assert metrics.eta_squared(responses, labels) == pytest.approx(1)
        assert metrics.anova_f(responses, labels) == np.inf
        r = np.sqrt((1 / (n - 1)) * (n - k) / k)
        assert metrics.class_correlation(responses, labels) == pytest.approx(r)
        share = (k - 1) / (n - 1)
        d = (1 - share) / np.sqrt(share * (1 - share) / 2) if k > 1 else np.inf
        assert metrics.d_prime(responses, labels) == pytest.approx(d)


def test_d_prime_of_shifted_gaussians_is_their_distance():
    rng = np.random.default_rng(0)
    labels = np.arange(40_000) % 2
    responses = 3 + rng.normal(size=(40_000, 1)) + 1.5 * labels[:, None]
    assert metrics.d_prime(responses, labels) == pytest.approx(1.5, abs=0.03)


# What is undefined, and what rounding leaves.


@every_measure
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3, -7e-30])
def test_a_constant_unit_has_no_value(measure, constant):
    labels = np.repeat([0, 1, 2], [3, 50, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(measure(np.full((60, 2), constant), labels)).all()


@every_form
def test_a_constant_unit_has_no_value_even_if_its_class_means_are_rounded(measure, from_moments):
    labels = np.repeat([0, 1, 2], [3, 50, 7])
    means = np.stack([np.add.reduce(np.full((n, 1), 0.1)) / n for n in (3, 50, 7)])
    assert np.ptp(means) > 0
    assert np.isnan(from_moments(metrics.class_counts(labels), means, np.zeros((3, 1)))).all()


def test_classes_that_do_not_vary_are_infinitely_far_apart():
    # 0.1 and 0.3 have class means that rounding moves off them.
    labels = np.repeat([0, 1, 2], [3, 50, 7])
    responses = np.where(labels == 1, 0.3, 0.1)[:, None]
    assert metrics.d_prime(responses, labels) == np.inf
    assert metrics.anova_f(responses, labels) == np.inf
    assert metrics.eta_squared(responses, labels) == pytest.approx(1)
    two = np.where(labels == 1, 1, 0)
    assert metrics.d_prime(responses, two, reduce=None).tolist() == [[-np.inf], [np.inf]]


def test_small_deviations_from_a_large_mean_are_not_lost():
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    deviations = rng.integers(-8, 9, size=(60, 4)) / 8.0  # exact beside 1e9
    for measure in BEST.values():
        np.testing.assert_allclose(
            measure(deviations + 1e9, labels), measure(deviations, labels), rtol=1e-6
        )


def test_one_stimulus_of_each_class_leaves_nothing_within():
    responses, labels = np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 2])
    assert np.isnan(metrics.anova_f(responses, labels)).all()
    assert metrics.eta_squared(responses, labels) == 1


@every_measure
def test_one_class_alone_is_refused(measure):
    with pytest.raises(LabelError, match="at least two classes, the labels hold only class 3"):
        measure(np.eye(4), np.array([3, 3, 3, 3]))


@every_form
def test_moments_of_one_class_have_no_value(measure, from_moments):
    assert np.isnan(from_moments([5, 0], [[1.0], [np.nan]], [[1.0], [np.nan]])).all()


@every_form
def test_moments_that_do_not_fit_are_refused(measure, from_moments):
    with pytest.raises(ResponseError, match=r"\(2, 3\) and \(2, 2\)"):
        from_moments(np.ones(2), np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(ResponseError, match=r"\(2,\)"):
        from_moments(np.ones(2), np.ones(2), np.ones(2))


def test_a_correlation_is_with_either_labels_or_probabilities():
    responses, labels = np.eye(3), np.arange(3)
    with pytest.raises(OptionError, match="either labels or probabilities"):
        metrics.class_correlation(responses)
    with pytest.raises(OptionError, match="either labels or probabilities"):
        metrics.class_correlation(responses, labels, probabilities=responses)
    with pytest.raises(LabelError, match="2 stimuli do not fit responses to 3"):
        metrics.class_correlation(responses, probabilities=np.ones((2, 2)))
    with pytest.raises(ResponseError, match="probabilities must be finite"):
        metrics.class_correlation(responses, probabilities=np.full((3, 2), np.nan))
    constant = metrics.class_correlation(responses, probabilities=np.ones((3, 2)), reduce=None)
    assert np.isnan(constant).all()


# What must not change a measure.


@st.composite
def layers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stimuli, units = draw(st.integers(6, 40)), draw(st.integers(1, 5))
    responses = np.maximum(rng.normal(size=(stimuli, units)), draw(st.sampled_from([-9, 0, 1])))
    labels = rng.integers(0, draw(st.integers(2, 5)), size=stimuli)
    labels[:2] = [0, 1]
    return responses, labels, rng


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@every_form
@quick
@given(layers(), st.floats(0.01, 100), st.floats(-10, 10))
def test_neither_scale_nor_offset_of_the_responses_matters(
    measure, from_moments, layer, scale, offset
):
    responses, labels, _ = layer
    same(measure(scale * responses + offset, labels), measure(responses, labels))


@every_measure
@quick
@given(layers())
def test_neither_the_order_of_stimuli_nor_the_names_of_classes_matter(measure, layer):
    responses, labels, rng = layer
    order, names = rng.permutation(len(labels)), rng.permutation(9)[:5]
    same(measure(responses[order], names[labels[order]]), measure(responses, labels))


@quick
@given(layers())
def test_negated_responses_have_negated_values(layer):
    responses, labels, _ = layer
    for measure in (BY_CLASS["d_prime"][0], BY_CLASS["class_correlation"][0]):
        same(measure(-responses, labels), -measure(responses, labels))


@quick
@given(layers())
def test_shares_and_correlations_stay_in_their_range(layer):
    responses, labels, _ = layer
    share = metrics.eta_squared(responses, labels)
    r = metrics.class_correlation(responses, labels, reduce=None)
    constant = np.ptp(responses, axis=0) == 0
    np.testing.assert_array_equal(np.isnan(share), constant)
    assert (share[~constant] >= 0).all()
    assert (share[~constant] <= 1 + 1e-12).all()
    assert (np.abs(r[~np.isnan(r)]) <= 1).all()


def test_the_null_of_eta_squared_has_the_mean_that_theory_gives():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    noise = np.maximum(rng.normal(size=(200, 2000)), 0)
    assert metrics.eta_squared(noise, labels).mean() == pytest.approx(9 / 199, rel=0.02)
