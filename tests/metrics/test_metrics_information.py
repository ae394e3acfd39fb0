"""Mutual information against scikit-learn, exact values and its known bias."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics import _arrays
from unitprobe.metrics.information import bin_responses, mutual_information_from_bins

quick = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.fixture(scope="module", params=["signed", "zeros", "ties", "float32"])
def layer(request):
    """Responses of 7 units to classes of 30, 5, 90 and 41 stimuli; class 3 is absent."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat([0, 1, 2, 4], [30, 5, 90, 41]))
    responses = rng.normal(size=(5, 7))[labels] + rng.normal(size=(166, 7))
    if request.param != "signed":
        responses = np.maximum(responses, 0)
    if request.param == "ties":
        responses = np.round(responses)
    if request.param == "float32":
        responses = responses.astype(np.float32)
    return responses, labels


def entropy_of(counts):
    return scipy.stats.entropy(counts[counts > 0], base=2)


@pytest.mark.parametrize("bins", [2, 10, 37])
def test_information_is_that_of_scikit_learn_on_the_same_bins(layer, bins):
    responses, labels = layer
    binned = bin_responses(responses, bins)
    expected = [mutual_info_score(labels, column) / np.log(2) for column in binned.T]
    found = metrics.mutual_information(responses, labels, bins=bins, corrected=False)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_correction_is_that_of_miller_and_madow_to_each_entropy(layer):
    responses, labels = layer
    n = len(labels)
    corrected = []
    for column in bin_responses(responses).T:
        joint = np.zeros((5, 10))
        np.add.at(joint, (labels, column), 1)
        counts = [joint.sum(1), joint.sum(0), joint.ravel()]
        h = [entropy_of(c) + (np.count_nonzero(c) - 1) / (2 * n * np.log(2)) for c in counts]
        corrected.append(h[0] + h[1] - h[2])
    np.testing.assert_allclose(metrics.mutual_information(responses, labels), corrected, atol=1e-12)


def test_bins_hold_equal_numbers_of_stimuli_where_nothing_ties():
    responses = np.random.default_rng(0).normal(size=(105, 3))
    binned = bin_responses(responses, 10)
    for column in binned.T:
        assert set(np.bincount(column, minlength=10).tolist()) <= {10, 11}
    order = np.argsort(responses[:, 0])
    assert (np.diff(binned[order, 0]) >= 0).all()


def test_equal_responses_share_a_bin(layer):
    responses, _ = layer
    binned = bin_responses(responses, 10)
    assert binned.min() >= 0
    assert binned.max() <= 9
    for x, column in zip(responses.T, binned.T, strict=True):
        for value in np.unique(x):
            assert len(np.unique(column[x == value])) == 1
        middle = scipy.stats.rankdata(x) - 0.5
        np.testing.assert_array_equal(column, np.floor(10 * middle / len(x) + 1e-9))


def test_a_mass_of_zeros_has_a_bin_of_its_own():
    rng = np.random.default_rng(0)
    responses = np.maximum(rng.normal(size=(1000, 20)), 0)
    binned = bin_responses(responses, 10)
    for x, column in zip(responses.T, binned.T, strict=True):
        assert len(np.unique(column)) in (5, 6, 7)
        mixed = np.isin(column, np.unique(column[x == 0])) & (x > 0)
        assert not mixed.any()


# Exact values.


@pytest.mark.parametrize(("classes", "k"), [(10, 1), (10, 3), (10, 10), (4, 2)])
def test_a_response_to_k_of_n_classes_tells_the_entropy_of_k_of_n(classes, k):
    labels = np.repeat(np.arange(classes), 12)
    responses = (labels < k).astype(float)[:, None]
    found = metrics.mutual_information(responses, labels, corrected=False)
    assert found == pytest.approx(entropy_of(np.array([k, classes - k])), abs=1e-12)


def test_a_response_of_its_own_to_each_class_tells_the_class():
    labels = np.repeat(np.arange(8), 25)
    responses = labels[:, None] + 0.0
    found = metrics.mutual_information(responses, labels, bins=8, corrected=False)
    assert found == pytest.approx(3, abs=1e-12)
    # A function of the class has as many cells as classes: only the bins' entropy is corrected.
    excess = (8 - 1) / (2 * 200 * np.log(2))
    assert metrics.mutual_information(responses, labels, bins=8) == pytest.approx(3 + excess)


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_a_constant_unit_tells_nothing(constant):
    labels = np.repeat([0, 1, 2], [3, 50, 7])
    for corrected in (True, False):
        found = metrics.mutual_information(np.full((60, 1), constant), labels, corrected=corrected)
        assert found == 0


# Bias.


@pytest.mark.parametrize("rectify", [True, False])
def test_the_correction_removes_the_bias_of_a_unit_that_tells_nothing(rectify):
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 10
    noise = rng.normal(size=(1000, 200))
    noise = np.maximum(noise, 0) if rectify else noise
    raw = metrics.mutual_information(noise, labels, corrected=False).mean()
    left = metrics.mutual_information(noise, labels).mean()
    assert raw > 0.03
    assert abs(left) < 0.004
    if not rectify:
        assert raw == pytest.approx(9 * 9 / (2 * 1000 * np.log(2)), rel=0.05)


def test_shuffles_that_tie_have_exactly_the_same_information():
    # Whichever stimulus the unit responds to, of classes of one size: the same table.
    rng = np.random.default_rng(0)
    responses = np.zeros((70, 1))
    responses[11] = 1.0
    labels = np.arange(70) % 7
    binned = bin_responses(responses)
    values = {
        float(mutual_information_from_bins(binned, rng.permutation(labels))[0]) for _ in range(50)
    }
    assert len(values) == 1


# Invariances.


@st.composite
def layers(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stimuli, units = draw(st.integers(4, 60)), draw(st.integers(1, 5))
    responses = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), size=(stimuli, units)) / 4.0
    labels = rng.integers(0, draw(st.integers(2, 6)), size=stimuli)
    labels[:2] = [0, 1]
    return responses, labels, rng


@quick
@given(layers(), st.integers(2, 15), st.booleans())
def test_only_the_order_of_responses_matters(layer, bins, corrected):
    responses, labels, rng = layer
    options = {"bins": bins, "corrected": corrected}
    before = metrics.mutual_information(responses, labels, **options)
    after = metrics.mutual_information(np.exp(responses / 99) - 5, labels, **options)
    np.testing.assert_array_equal(after, before)
    order, names = rng.permutation(len(labels)), rng.permutation(9)[:6]
    after = metrics.mutual_information(responses[order], names[labels[order]], **options)
    np.testing.assert_array_equal(after, before)


@quick
@given(layers(), st.integers(2, 15))
def test_information_lies_between_0_and_the_entropies(layer, bins):
    responses, labels, _ = layer
    found = metrics.mutual_information(responses, labels, bins=bins, corrected=False)
    assert (found >= 0).all()
    most = min(np.log2(bins), entropy_of(np.bincount(labels)))
    assert (found <= most + 1e-9).all()


def test_blocks_of_units_change_nothing(layer, monkeypatch):
    responses, labels = layer
    whole = metrics.mutual_information(responses, labels)
    binned = bin_responses(responses)
    monkeypatch.setattr(_arrays, "BLOCK_SIZE", 400)
    np.testing.assert_array_equal(metrics.mutual_information(responses, labels), whole)
    np.testing.assert_array_equal(bin_responses(responses), binned)
    np.testing.assert_array_equal(mutual_information_from_bins(binned, labels), whole)


# Refusals.


def test_what_makes_no_sense_is_refused():
    responses, labels = np.ones((4, 2)), np.array([0, 0, 1, 1])
    for measure in (metrics.mutual_information, lambda x, y, bins: bin_responses(x, bins)):
        with pytest.raises(OptionError, match="bins=1 is too few"):
            measure(responses, labels, bins=1)
    with pytest.raises(LabelError, match="at least two classes"):
        metrics.mutual_information(responses, np.array([1, 1, 1, 1]))
    with pytest.raises(LabelError, match="3 labels do not fit 4 stimuli"):
        metrics.mutual_information(responses, np.array([0, 1, 1]))
    with pytest.raises(ResponseError, match="1 are NaN"):
        metrics.mutual_information(np.array([[0.0], [np.nan]]), np.array([0, 1]))
    with pytest.raises(ResponseError, match=r"\(4, 2\) of float64"):
        mutual_information_from_bins(responses, labels)
    with pytest.raises(ResponseError, match="the lowest is -1"):
        mutual_information_from_bins(np.array([[0], [-1]]), np.array([0, 1]))
