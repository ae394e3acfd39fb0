"""Intervals of measures by class: around the value, in its range, and where the truth is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import OptionError
from unitprobe.inference import (
    class_measure_interval,
    class_measures_bootstrap,
    class_measures_null,
    class_measures_redrawn,
)
from unitprobe.metrics.registry import MEASURES, measures

NAMES = measures("class")
COUNTS = np.array([60, 60, 80, 100])


def observed_and_best(name, responses, labels):
    best = None
    if MEASURES[name].has_classes:
        best = metrics.best_class(MEASURES[name].compute(responses, labels))
    return getattr(metrics, name)(responses, labels), best


def intervals(responses, labels, names=NAMES, resamples=40, seed=0):
    """The interval of every measure, with the value that it is of."""
    asked = {"names": names, "resamples": resamples, "seed": seed}
    null = class_measures_null(responses, labels, **asked)
    redrawn = class_measures_redrawn(responses, labels, **asked)
    found = {}
    for name in names:
        observed, best = observed_and_best(name, responses, labels)
        found[name] = (
            observed,
            class_measure_interval(
                name, observed, redrawn[name], null[name], counts=np.bincount(labels), best=best
            ),
        )
    return found


def one_selective_class(counts, shift, units, seed=0):
    """Rectified Gaussian responses, those to class 0 shifted."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).normal(size=(len(labels), units))
    return np.maximum(noise + shift * (labels == 0)[:, None], 0), labels


def truths(shift):
    """What `class_measure_interval` says that its intervals are of."""
    many, labels = one_selective_class(150 * COUNTS, shift, 2, seed=9)
    known = {name: getattr(metrics, name)(many, labels).mean() for name in NAMES}
    known["precision_at_k"] = metrics.precision_at_k(many, labels, k=150 * 60).mean()
    stimuli, classes = COUNTS.sum(), len(COUNTS)
    explained = known["eta_squared"] / (1 - known["eta_squared"])
    known["anova_f"] = 1 + explained * (stimuli - classes) / (classes - 1)
    samples = one_selective_class(COUNTS, shift, 600, seed=8)
    for name in ("localist_selectivity", "top_class_selectivity"):
        known[name] = getattr(metrics, name)(*samples).mean()
    if shift == 0:
        share = COUNTS.max() / stimuli
        known |= {"class_selectivity": 0, "ccmas": 0, "max_informedness": 0, "d_prime": 0}
        known |= {"class_correlation": 0, "mutual_information": 0, "eta_squared": 0, "anova_f": 1}
        known |= {"roc_auc": 0.5, "recall_at_precision": 0, "max_f1": 2 * share / (1 + share)}
        known |= dict.fromkeys(("average_precision", "precision_at_k"), share)
    return known


@pytest.mark.parametrize("shift", [0, 1.5, 6])
def test_intervals_hold_the_truth(shift):
    found = intervals(*one_selective_class(COUNTS, shift, 50), resamples=80)
    for name, truth in truths(shift).items():
        _, (low, high) = found[name]
        held = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
        assert held.mean() >= 0.85, (name, truth, held.mean())


@pytest.mark.parametrize("shift", [0, 1, 8])
def test_the_value_lies_in_its_interval_and_this_in_its_range(shift):
    responses, labels = one_selective_class([20, 9, 30, 40], shift, 20)
    responses[:, 7] = 0.0
    ranges = {
        "class_correlation": (-1, 1),
        "anova_f": (0, np.inf),
        "top_class_selectivity": (0, 40),
    }
    for name, (observed, (low, high)) in intervals(responses, labels).items():
        defined = ~np.isnan(low)
        undefined = observed == 0 if name == "localist_selectivity" else np.isnan(observed)
        np.testing.assert_array_equal(defined, ~undefined)
        assert ((low <= observed) & (observed <= high))[defined].all(), name
        if name not in ("localist_selectivity", "d_prime", "mutual_information"):
            lowest, highest = ranges.get(name, (0, 1))
            assert lowest <= low[defined].min(), name
            assert high[defined].max() <= highest, name


def test_the_area_of_a_dead_unit_has_an_interval_from_one_half():
    responses, labels = np.zeros((60, 1)), np.repeat([0, 1, 2], 20)
    observed, (low, high) = intervals(responses, labels, ["roc_auc"], resamples=99)["roc_auc"]
    assert observed == 0.5
    assert 0.5 == low <= high < 0.8


def limits_of(measure, counts):
    """The range of a measure, as the tables of the documentation have it."""
    low, high = measure.range
    return (
        measure.smallest(counts) if measure.smallest else low,
        measure.largest(counts) if measure.largest else high,
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(3, 30), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) >= 60),
    st.sampled_from([0.003, 0.05, 0.5, 1.0]),
    st.sampled_from([0.0, 1.0, 20.0]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_every_interval_holds_its_value_and_stays_in_the_range(sizes, active, shift, ties, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    responses = rng.exponential(size=(len(labels), 4)) + shift * (labels == 0)[:, None]
    responses *= rng.random(responses.shape) < active
    if ties:
        responses = np.round(responses)
    responses[:, 3] = 0.0
    for name, (observed, (low, high)) in intervals(responses, labels, resamples=30).items():
        smallest, largest = limits_of(MEASURES[name], np.bincount(labels))
        defined = ~np.isnan(low)
        bounds = [np.minimum(smallest, observed), low, observed, high]
        for below, above in zip(bounds, [*bounds[1:], np.maximum(largest, observed)], strict=True):
            assert (below <= above)[defined].all(), name
        if name not in ("mutual_information", "ccmas"):  # corrected; negative by its definition
            known = observed[defined]
            assert ((smallest - 1e-12 <= known) & (known <= largest + 1e-12)).all(), name


def test_a_share_that_nothing_missed_has_the_lower_end_of_wilson():
    responses, labels = one_selective_class([30, 80, 90], 50.0, 3)
    found = intervals(responses, labels)
    wilson = scipy.stats.binomtest(30, 30).proportion_ci(method="wilson")
    for name in ("roc_auc", "average_precision", "max_f1", "max_informedness"):
        observed, (low, high) = found[name]
        np.testing.assert_array_equal(observed, high)
        np.testing.assert_allclose(low, wilson.low)
    # A run is of stimuli, and 30 of the 60 with the highest responses are all there can be.
    np.testing.assert_allclose(found["top_class_selectivity"][1][0], 30 * wilson.low)
    np.testing.assert_allclose(found["precision_at_k"][1][0], 0.5 * wilson.low)


def test_extremes_that_tie_have_no_interval():
    labels = np.repeat([0, 1, 2], 20)
    responses = np.random.default_rng(0).exponential(size=(60, 2))
    responses[labels == 1, 0] = 0.0  # the lowest of all, and the highest of its class
    responses[0, 0] = 0.0
    observed, (low, high) = intervals(responses, labels)["localist_selectivity"]
    assert observed[0] == 0
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] < observed[1] < high[1]


def test_redrawn_f_is_around_the_value_that_it_stands_for():
    responses, labels = one_selective_class(COUNTS, 0.7, 50)
    asked = {"names": ["anova_f"], "resamples": 400, "seed": 0}
    redrawn = class_measures_bootstrap(responses, labels, **asked)["anova_f"]
    off = redrawn.mean(axis=0) / metrics.anova_f(responses, labels) - 1
    assert abs(off.mean()) < 0.05


@settings(max_examples=5, deadline=None)
@given(st.integers(-3, 6), st.integers(0, 2**16))
def test_intervals_follow_the_scale_of_responses(exponent, seed):
    responses, labels = one_selective_class([12, 7, 9], 1.0, 3, seed=seed)
    names = [name for name in NAMES if name != "precision_at_k"]  # of 60 stimuli or more
    scale = 2.0**exponent
    plain = intervals(responses, labels, names, resamples=5, seed=seed)
    scaled = intervals(scale * responses, labels, names, resamples=5, seed=seed)
    for name in names:
        factor = scale if name == "localist_selectivity" else 1.0
        expected = factor * np.array(plain[name][1])
        np.testing.assert_allclose(scaled[name][1], expected, rtol=1e-6, atol=1e-9, err_msg=name)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(NAMES))
def test_an_interval_does_not_depend_on_the_names_of_classes(order, name):
    rng = np.random.default_rng(0)
    draws, null = rng.random((30, 5)), rng.random((30, 5))
    observed, best = np.median(draws, axis=0), np.array([0, 1, 2, 3, -1])
    renamed = np.append(np.argsort(order), -1)[best]
    one = class_measure_interval(name, observed, draws, null, counts=COUNTS, best=best)
    other = class_measure_interval(
        name, observed, draws, null, counts=COUNTS[list(order)], best=renamed
    )
    np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_interval_whatever_is_beside_it():
    responses, labels = one_selective_class(COUNTS, 1.0, 6)
    together = intervals(responses, labels, resamples=5)
    for name in NAMES:
        alone = intervals(responses[:, 4:], labels, [name], resamples=5)[name]
        np.testing.assert_array_equal(alone[1], np.array(together[name][1])[:, 4:])


def test_a_measure_that_is_not_known_is_refused():
    responses, labels = one_selective_class(COUNTS, 1.0, 2)
    with pytest.raises(OptionError, match="'gini' is not of kind 'class'"):
        class_measures_redrawn(responses, labels, names=["gini"], resamples=2, seed=0)
