"""Measures of ranking and information in one pass: exact from the top, within a bound from bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics, online
from unitprobe.errors import OptionError

CLASSES = 4
BY_CLASS = ("roc_auc", "average_precision", "max_informedness", "max_f1", "recall_at_precision")


def normal(rng, shape):
    return rng.normal(size=shape)


def rectified(rng, shape):
    return np.maximum(rng.normal(size=shape) - 0.3, 0.0)


def tied(rng, shape):
    return rng.integers(-2, 4, size=shape).astype(float)


def heavy_tailed(rng, shape):
    """Sizes over six orders of magnitude, of either sign, a third exactly 0."""
    responses = np.exp(3 * rng.normal(size=shape)) * rng.choice([-1, 1], size=shape)
    responses[rng.random(shape) < 0.3] = 0.0
    return responses


def crowded(rng, shape):
    """Nearly alike, so that a bin holds many different responses."""
    return 1.0 + 0.1 * rng.random(shape)


DATA = (normal, rectified, tied, heavy_tailed, crowded)


def draw(kind, stimuli, seed):
    """Responses of 5 units, one dead and one constant, to classes of which one has no stimulus."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 2, 3], size=stimuli, p=[0.2, 0.3, 0.5])
    labels[:2] = [0, 2]
    responses = kind(rng, (stimuli, 5))
    responses[:, 2] += np.where(labels == 2, responses[:, 2].std(), 0.0)
    responses[:, 3], responses[:, 4] = 0.0, 2.5
    return responses, labels


def histogram_of(responses, labels, **options):
    histogram = online.ResponseHistogram(CLASSES, **options)
    for part in np.array_split(np.arange(len(responses)), 3):
        histogram.update(responses[part], labels[part])
    return histogram


def assert_within(bounded, exact):
    np.testing.assert_array_equal(np.isnan(bounded.value), np.isnan(exact))
    np.testing.assert_array_equal(np.isnan(bounded.error), np.isnan(exact))
    off = np.nan_to_num(np.abs(bounded.value - exact))
    assert (off <= np.nan_to_num(bounded.error) + 1e-9).all()


MANY = settings(deadline=None, max_examples=60)
drawn = given(
    kind=st.sampled_from(DATA),
    stimuli=st.integers(4, 90),
    bins=st.sampled_from([2, 16, 512]),
    relative_error=st.sampled_from([0.003, 0.01, 0.3]),
    seed=st.integers(0, 10**6),
)


@MANY
@drawn
def test_the_exact_measure_lies_within_the_bound(kind, stimuli, bins, relative_error, seed):
    responses, labels = draw(kind, stimuli, seed)
    histogram = histogram_of(responses, labels, bins=bins, relative_error=relative_error)
    for name in BY_CLASS:
        exact = getattr(metrics, name)(responses, labels, class_count=CLASSES, reduce=None)
        bounded = getattr(histogram, f"{name}_by_class")()
        assert_within(bounded, exact)
        assert_within(bounded.largest(), metrics.best_over_classes(exact))
    assert_within(histogram.mutual_information(), metrics.mutual_information(responses, labels))
    assert_within(
        histogram.mutual_information(bins=3),
        metrics.mutual_information(responses, labels, bins=3),
    )
    assert_within(histogram.half_max_share(), metrics.half_max_share(responses))


@MANY
@drawn
def test_the_threshold_is_as_informed_as_stated(kind, stimuli, bins, relative_error, seed):
    responses, labels = draw(kind, stimuli, seed)
    histogram = histogram_of(responses, labels, bins=bins, relative_error=relative_error)
    thresholds = histogram.max_informedness_threshold_by_class()
    stated = histogram.max_informedness_by_class().value
    np.testing.assert_array_equal(np.isnan(thresholds), ~(stated > 0))
    for c, u in np.argwhere(stated > 0):
        predicted, member = responses[:, u] >= thresholds[c, u], labels == c
        found = predicted[member].mean() - predicted[~member].mean()
        np.testing.assert_allclose(found, stated[c, u], atol=1e-12)


@pytest.mark.parametrize("kind", [rectified, tied])
def test_the_value_is_that_of_responses_which_tie_within_a_bin(kind):
    responses, labels = draw(kind, 300, seed=5)
    histogram = histogram_of(responses, labels, relative_error=0.2)
    ratio = 1.2 / 0.8
    with np.errstate(divide="ignore"):
        place = np.ceil(np.log(np.abs(responses)) / np.log(ratio))
    in_bins = np.sign(responses) * ratio**place
    for name in BY_CLASS:
        expected = getattr(metrics, name)(in_bins, labels, class_count=CLASSES, reduce=None)
        found = getattr(histogram, f"{name}_by_class")().value
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)
    expected = metrics.mutual_information(in_bins, labels)
    np.testing.assert_allclose(histogram.mutual_information().value, expected, atol=1e-12)


@pytest.mark.parametrize("name", [*(f"{name}_by_class" for name in BY_CLASS), "mutual_information"])
def test_of_a_constant_unit_nothing_is_hidden(name):
    responses, labels = draw(crowded, 100, seed=2)
    error = getattr(histogram_of(responses, labels), name)().error[..., [3, 4]]
    assert not np.nan_to_num(error).any()


def test_what_is_alone_in_its_bin_or_exactly_0_is_exact():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % CLASSES
    responses = np.where(rng.random((200, 3)) < 0.8, 0.0, 1.05 ** rng.permutation(200)[:, None])
    histogram = histogram_of(responses, labels)
    for name in BY_CLASS:
        assert getattr(histogram, f"{name}_by_class")().error.max() < 1e-12, name
    assert histogram.mutual_information().error.max() < 1e-12


def test_the_default_bins_bound_what_is_lost_of_smooth_responses():
    rng = np.random.default_rng(0)
    labels = np.arange(5000) % 10
    responses = np.maximum(rng.normal(size=(10, 8))[labels] + rng.normal(size=(5000, 8)), 0)
    histogram = online.ResponseHistogram(10)
    histogram.update(responses, labels)
    largest = {"max_informedness": 0.05, "max_f1": 0.05, "average_precision": 0.1}
    for name, bound in largest.items():
        bounded = getattr(histogram, f"{name}_by_class")()
        exact = getattr(metrics, name)(responses, labels, reduce=None)
        assert bounded.error.max() < bound
        assert np.abs(bounded.value - exact).max() < 0.01
    information = histogram.mutual_information()
    exact = metrics.mutual_information(responses, labels)
    assert information.error.max() < 0.1
    assert np.abs(information.value - exact).max() < 0.02


@MANY
@given(
    kind=st.sampled_from(DATA),
    stimuli=st.integers(4, 60),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_the_top_of_the_ranking_is_exact(kind, stimuli, k, seed):
    responses, labels = draw(kind, stimuli, seed)
    top, run = online.TopClasses(CLASSES, k=min(k, stimuli)), online.TopRun(CLASSES)
    order = np.random.default_rng(seed).permutation(stimuli)
    for part in np.array_split(order, 4):
        top.update(responses[part], labels[part])
        run.update(responses[part], labels[part])
    np.testing.assert_allclose(
        top.precision_at_k_by_class(),
        metrics.precision_at_k(
            responses, labels, class_count=CLASSES, k=min(k, stimuli), reduce=None
        ),
        rtol=1e-12,
    )
    np.testing.assert_array_equal(
        run.top_class_selectivity_by_class(),
        metrics.top_class_selectivity(responses, labels, class_count=CLASSES, reduce=None),
    )


@pytest.mark.parametrize("kind", DATA)
def test_kept_responses_give_the_measures_themselves(kind):
    responses, labels = draw(kind, 80, seed=4)
    kept = online.KeptResponses(CLASSES)
    for part in np.array_split(np.random.default_rng(0).permutation(80), 3):
        kept.update(responses[part], labels[part])
    for name in (*BY_CLASS, "max_informedness_threshold"):
        exact = getattr(metrics, name)(responses, labels, class_count=CLASSES, reduce=None)
        found = getattr(kept, f"{name}_by_class")()
        np.testing.assert_array_equal(getattr(found, "value", found), exact, err_msg=name)
    found = kept.mutual_information()
    np.testing.assert_array_equal(found.value, metrics.mutual_information(responses, labels))
    assert not found.error.any()


def test_stimuli_in_the_order_of_their_classes_leave_only_the_run():
    labels = np.repeat(np.arange(4), 50)
    responses = np.random.default_rng(0).random((200, 6))
    run = online.TopRun(4)
    for part in np.split(np.arange(200), 10):
        run.update(responses[part], labels[part])
    longest = metrics.top_class_selectivity(responses, labels).max()
    assert run._run.shape == (longest, 6)


@pytest.mark.parametrize(
    ("measure", "match"),
    [
        (lambda h: h.recall_at_precision_by_class(1.5), r"precision=1\.5 is not above 0"),
        (lambda h: h.mutual_information(bins=1), "bins=1 is too few"),
    ],
)
def test_options_without_sense_are_refused(measure, match):
    with pytest.raises(OptionError, match=match):
        measure(histogram_of(*draw(normal, 10, 0)))


def test_more_places_than_stimuli_are_refused():
    top = online.TopClasses(2, k=3)
    top.update(np.ones((2, 1)), np.array([0, 1]))
    with pytest.raises(OptionError, match="k=3 is not between 1 and the 2 stimuli"):
        top.precision_at_k_by_class()
