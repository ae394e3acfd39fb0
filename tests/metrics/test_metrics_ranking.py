"""Measures of ranking against scikit-learn and literal loops: ties, zeros, absent classes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.metrics import _arrays, localist, ranking
from unitprobe.metrics._ranks import rank_responses, ranking_measures

BY_CLASS = {
    "average_precision": partial(metrics.average_precision, reduce=None),
    "localist_selectivity": partial(metrics.localist_selectivity, reduce=None),
    "max_f1": partial(metrics.max_f1, reduce=None),
    "max_informedness": partial(metrics.max_informedness, reduce=None),
    "max_informedness_threshold": partial(metrics.max_informedness_threshold, reduce=None),
    "precision_at_k": partial(metrics.precision_at_k, k=4, reduce=None),
    "recall_at_precision": partial(metrics.recall_at_precision, precision=0.6, reduce=None),
    "roc_auc": partial(metrics.roc_auc, reduce=None),
    "top_class_selectivity": partial(metrics.top_class_selectivity, reduce=None),
}
FORMULAS = {
    "average_precision": ranking.average_precision_of,
    "max_f1": ranking.max_f1_of,
    "max_informedness": ranking.max_informedness_of,
    "max_informedness_threshold": ranking.max_informedness_threshold_of,
    "precision_at_k": partial(ranking.precision_at_k_of, k=4),
    "recall_at_precision": partial(ranking.recall_at_precision_of, precision=0.6),
    "roc_auc": ranking.roc_auc_of,
    "top_class_selectivity": ranking.top_class_selectivity_of,
}
BEST = {
    "average_precision": metrics.average_precision,
    "localist_selectivity": metrics.localist_selectivity,
    "max_f1": metrics.max_f1,
    "max_informedness": metrics.max_informedness,
    "precision_at_k": lambda x, y: metrics.precision_at_k(x, y, k=4),
    "recall_at_precision": lambda x, y: metrics.recall_at_precision(x, y, precision=0.6),
    "roc_auc": metrics.roc_auc,
    "top_class_selectivity": metrics.top_class_selectivity,
}
every_measure = pytest.mark.parametrize("name", BY_CLASS)
quick = settings(max_examples=30, deadline=None, derandomize=True)


def layer_of(active, decimals, dtype=np.float64):
    """Responses of 9 units to classes of 11, 2, 31 and 17 stimuli, class 3 absent, with ties."""
    rng = np.random.default_rng(7)
    labels = rng.permutation(np.repeat([0, 1, 2, 4], [11, 2, 31, 17]))
    responses = 2 * rng.normal(size=(5, 9))[labels] + rng.normal(size=(61, 9))
    responses = np.where(responses > np.quantile(responses, 1 - active), responses, 0.0)
    responses[:, 7] = 0.0
    responses[:, 8] = 0.1 * (labels == 2)
    return np.round(responses, decimals).astype(dtype), labels


LAYERS = {
    "no ties": layer_of(1.0, 12),
    "zeros": layer_of(0.4, 12),
    "ties": layer_of(1.0, 0),
    "zeros and ties": layer_of(0.2, 0),
    "float32": layer_of(0.5, 12, np.float32),
}


@pytest.fixture(params=LAYERS, scope="module")
def layer(request):
    return LAYERS[request.param]


@st.composite
def layers(draw):
    """Responses with many ties, and labels of at least two classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stimuli, units = draw(st.integers(4, 30)), draw(st.integers(1, 5))
    responses = rng.integers(0, draw(st.sampled_from([2, 4, 100])), size=(stimuli, units)) / 4.0
    labels = rng.integers(0, draw(st.integers(2, 6)), size=stimuli)
    labels[:2] = [0, 1]
    return responses, labels, rng


# What each measure is, written out for one unit and one class.


def literal_thresholds(x, member):
    """(threshold, hits, false alarms) of every distinct response."""
    for t in sorted(set(x.tolist()), reverse=True):
        yield t, int((x[member] >= t).sum()), int((x[~member] >= t).sum())


def literal_precision_at_k(x, member, k):
    value = np.sort(x)[::-1][k - 1]
    above, level = x > value, x == value
    return (member[above].sum() + (k - above.sum()) * member[level].mean()) / k


def literal_average_precision(x, member):
    before, total = 0.0, 0.0
    for _, hits, alarms in literal_thresholds(x, member):
        recall = hits / member.sum()
        total += (recall - before) * hits / (hits + alarms)
        before = recall
    return total


def literal_informedness(x, member):
    best = (0.0, np.nan)
    for t, hits, alarms in literal_thresholds(x, member):
        value = hits / member.sum() - alarms / (~member).sum()
        if value > best[0] + 1e-12:
            best = (value, t)
    return best


def literal_f1(x, member):
    points = literal_thresholds(x, member)
    return max(2 * hits / (member.sum() + hits + alarms) for _, hits, alarms in points)


def literal_recall_at_precision(x, member, precision):
    points = list(literal_thresholds(x, member))
    return max([0.0, *(h / member.sum() for _, h, a in points if h / (h + a) >= precision)])


def literal_run(x, member):
    return (x[member] > x[~member].max()).sum()


def literal_localist(x, member):
    a, b = x[member], x[~member]
    return max(a.min() - b.max(), b.min() - a.max())


LITERAL = {
    "average_precision": literal_average_precision,
    "localist_selectivity": literal_localist,
    "max_f1": literal_f1,
    "max_informedness": lambda x, member: literal_informedness(x, member)[0],
    "max_informedness_threshold": lambda x, member: literal_informedness(x, member)[1],
    "precision_at_k": lambda x, member: literal_precision_at_k(x, member, 4),
    "recall_at_precision": lambda x, member: literal_recall_at_precision(x, member, 0.6),
    "roc_auc": lambda x, member: sklearn.metrics.roc_auc_score(member, x),
    "top_class_selectivity": literal_run,
}


def literal_by_class(name, responses, labels, classes):
    expected = np.full((classes, responses.shape[1]), np.nan)
    for c in np.unique(labels):
        for u in range(responses.shape[1]):
            expected[c, u] = LITERAL[name](responses[:, u].astype(np.float64), labels == c)
    return expected


@every_measure
def test_each_class_has_the_value_of_a_loop(layer, name):
    responses, labels = layer
    by_class = BY_CLASS[name](responses, labels, class_count=6)
    assert by_class.dtype == np.float64
    np.testing.assert_allclose(
        by_class, literal_by_class(name, responses, labels, 6), rtol=1e-12, atol=1e-15
    )
    assert np.isnan(by_class[[3, 5]]).all()


@pytest.mark.parametrize("name", BEST)
def test_the_value_of_a_unit_is_that_of_its_best_class(layer, name):
    responses, labels = layer
    by_class = BY_CLASS[name](responses, labels)
    np.testing.assert_array_equal(BEST[name](responses, labels), np.nanmax(by_class, axis=0))


def test_scikit_learn_gives_the_same_curves(layer):
    responses, labels = layer
    precisions = metrics.average_precision(responses, labels, reduce=None)
    recalls = metrics.recall_at_precision(responses, labels, precision=0.8, reduce=None)
    informedness = metrics.max_informedness(responses, labels, reduce=None)
    scores = metrics.max_f1(responses, labels, reduce=None)
    for c in np.unique(labels):
        for u in range(responses.shape[1]):
            member, x = labels == c, responses[:, u]
            expected = sklearn.metrics.average_precision_score(member, x)
            assert precisions[c, u] == pytest.approx(expected, rel=1e-12)
            p, r, _ = sklearn.metrics.precision_recall_curve(member, x)
            assert recalls[c, u] == r[p >= 0.8].max(initial=0.0, where=r[p >= 0.8] > 0)
            f1 = 2 * p * r / np.where(p + r > 0, p + r, 1)
            assert scores[c, u] == pytest.approx(f1.max(), rel=1e-12)
            false, true, _ = sklearn.metrics.roc_curve(member, x)
            assert informedness[c, u] == pytest.approx((true - false).max(), abs=1e-12)


def test_the_threshold_attains_the_informedness_of_the_best_class(layer):
    responses, labels = layer
    informedness = metrics.max_informedness(responses, labels)
    best = metrics.best_class(metrics.max_informedness(responses, labels, reduce=None))
    threshold = metrics.max_informedness_threshold(responses, labels)
    np.testing.assert_array_equal(np.isnan(threshold), informedness == 0)
    for u in np.flatnonzero(informedness):
        predicted, member = responses[:, u] >= threshold[u], labels == best[u]
        attained = predicted[member].mean() - predicted[~member].mean()
        assert attained == pytest.approx(informedness[u], abs=1e-12)


# Exact values.


@pytest.mark.parametrize(("classes", "k"), [(10, 1), (10, 3), (5, 5)])
def test_a_unit_that_responds_to_k_of_n_classes_has_the_exact_value(classes, k):
    # Of 4 stimuli to each class, the 4 k of k classes are alike, and so are all others.
    labels = np.repeat(np.arange(classes), 4)
    responses = (labels < k).astype(float)[:, None]
    values = {
        "roc_auc": metrics.roc_auc(responses, labels),
        "average_precision": metrics.average_precision(responses, labels),
        "max_informedness": metrics.max_informedness(responses, labels),
        "max_f1": metrics.max_f1(responses, labels),
        "precision_at_k": metrics.precision_at_k(responses, labels, k=4),
        "recall_at_precision": metrics.recall_at_precision(responses, labels, precision=1 / k),
        "top_class_selectivity": metrics.top_class_selectivity(responses, labels),
        "localist_selectivity": metrics.localist_selectivity(responses, labels),
    }
    exact = {
        "roc_auc": 1 - (k - 1) / (classes - 1) / 2,
        "average_precision": 1 / k,
        "max_informedness": 1 - (k - 1) / (classes - 1),
        "max_f1": 2 / (k + 1),
        "precision_at_k": 1 / k,
        "recall_at_precision": 1.0,
        "top_class_selectivity": 4.0 if k == 1 else 0.0,
        "localist_selectivity": 1.0 if k == 1 else 0.0,
    }
    assert {n: float(v[0]) for n, v in values.items()} == pytest.approx(exact, abs=1e-12)


def test_a_dead_unit_has_the_values_of_a_tie():
    labels = np.array([0, 0, 0, 1])
    dead = np.zeros((4, 1))
    assert metrics.roc_auc(dead, labels) == 0.5
    assert metrics.average_precision(dead, labels) == 0.75
    assert metrics.max_informedness(dead, labels) == 0
    assert np.isnan(metrics.max_informedness_threshold(dead, labels))
    assert metrics.max_f1(dead, labels) == pytest.approx(2 * 0.75 / 1.75)
    assert metrics.recall_at_precision(dead, labels) == 0
    assert metrics.precision_at_k(dead, labels, k=2) == 0.75
    assert metrics.top_class_selectivity(dead, labels) == 0
    assert metrics.localist_selectivity(dead, labels) == 0


def test_false_alarms_are_counted_among_the_other_stimuli_only():
    # Dividing by all stimuli would give 1 - 1/4.
    responses, labels = np.array([[3.0], [3.0], [3.0], [0.0]]), np.array([0, 0, 1, 1])
    assert metrics.max_informedness(responses, labels, reduce=None)[0, 0] == 0.5


def test_a_tie_belongs_to_the_run_only_if_it_is_all_of_the_class():
    labels = np.array([1, 1, 1, 0, 1])
    responses = np.array([[9.0, 9, 9, 9, 9], [9, 7, 7, 7, 9], [9, 8, 5, 7, 8]]).T
    assert metrics.top_class_selectivity(responses, labels).tolist() == [0, 2, 3]
    share = metrics.top_class_selectivity(responses, labels, normalize=True)
    assert share.tolist() == [0, 0.5, 0.75]


def test_precision_at_k_is_that_expected_when_ties_are_broken_at_random():
    rng = np.random.default_rng(0)
    responses = rng.integers(0, 4, size=(30, 3)).astype(float)
    labels = rng.integers(0, 3, size=30)
    by_class = metrics.precision_at_k(responses, labels, k=7, reduce=None)
    np.testing.assert_allclose(by_class.sum(axis=0), 1)
    drawn = []
    for _ in range(1000):
        noisy = responses + 0.5 * rng.random(responses.shape)
        drawn.append(metrics.precision_at_k(noisy, labels, k=7, reduce=None))
    np.testing.assert_allclose(np.mean(drawn, axis=0), by_class, atol=0.02)


# What must not change a measure, and what must.


@every_measure
@quick
@given(layers())
def test_increasing_functions_of_the_responses_change_nothing_but_their_unit(name, layer):
    responses, labels, _ = layer
    before, after = (BY_CLASS[name](x, labels) for x in (responses, np.exp(responses) - 5))
    if name == "max_informedness_threshold":
        before = np.exp(before) - 5
    if name == "localist_selectivity":
        before, after = before > 0, after > 0
    np.testing.assert_allclose(after, before, rtol=1e-12)


@every_measure
@quick
@given(layers())
def test_neither_the_order_of_stimuli_nor_the_names_of_classes_matter(name, layer):
    responses, labels, rng = layer
    order, names = rng.permutation(len(labels)), rng.permutation(9)[:6]
    before = BY_CLASS[name](responses, labels, class_count=6)
    after = BY_CLASS[name](responses[order], names[labels[order]], class_count=9)
    np.testing.assert_array_equal(after[names], before)


@quick
@given(layers())
def test_negated_responses_have_the_opposite_auc_and_the_same_gap(layer):
    responses, labels, _ = layer
    auc = metrics.roc_auc(responses, labels, reduce=None)
    np.testing.assert_allclose(
        metrics.roc_auc(-responses, labels, reduce=None), 1 - auc, rtol=1e-12
    )
    gap = metrics.localist_selectivity(responses, labels, reduce=None)
    np.testing.assert_array_equal(
        metrics.localist_selectivity(-responses, labels, reduce=None), gap
    )


@quick
@given(layers())
def test_every_value_lies_in_its_range(layer):
    responses, labels, _ = layer
    values = {name: measure(responses, labels) for name, measure in BY_CLASS.items()}
    for name in set(BY_CLASS) - {"localist_selectivity", "max_informedness_threshold"}:
        found = values[name][~np.isnan(values[name])]
        assert (found >= 0).all(), name
        most = len(labels) - 1 if name == "top_class_selectivity" else 1
        assert (found <= most).all(), name
    assert (metrics.roc_auc(responses, labels) >= 0.5).all()
    # Only complete separation gives 1.
    parted = values["localist_selectivity"] > 0
    above = values["roc_auc"] == 1
    np.testing.assert_array_equal(values["max_informedness"] == 1, above)
    np.testing.assert_array_equal(values["average_precision"] == 1, above)
    np.testing.assert_array_equal(parted, above | (values["roc_auc"] == 0))


# One sort for many labellings.


def test_several_measures_at_once_are_those_alone(layer):
    responses, labels = layer
    together = ranking_measures(rank_responses(responses), labels, FORMULAS, 6)
    assert set(together) == set(FORMULAS)
    for name in FORMULAS:
        np.testing.assert_array_equal(
            together[name], BY_CLASS[name](responses, labels, class_count=6)
        )


def test_blocks_of_units_change_nothing(layer, monkeypatch):
    responses, labels = layer
    whole = ranking_measures(rank_responses(responses), labels, FORMULAS)
    monkeypatch.setattr(_arrays, "BLOCK_SIZE", 130)
    assert len(list(rank_responses(responses).blocks())) == 5
    parts = ranking_measures(rank_responses(responses), labels, FORMULAS)
    for name in FORMULAS:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_ranks_are_those_of_scipy(layer):
    responses, _ = layer
    ranked = rank_responses(responses)
    for name, found in (("min", ranked.first_rank), ("max", ranked.last_rank)):
        np.testing.assert_array_equal(
            found.T, scipy.stats.rankdata(-responses, method=name, axis=0)
        )
    np.testing.assert_array_equal(ranked.mid_ranks, scipy.stats.rankdata(responses, axis=0))
    np.testing.assert_array_equal(ranked.ordered, -np.sort(-responses, axis=0).T)


def test_the_auc_follows_from_mean_ranks_of_any_number_of_labellings(layer):
    responses, labels = layer
    rng = np.random.default_rng(0)
    shuffles = [labels, rng.permutation(labels), rng.permutation(labels)]
    mid_ranks = rank_responses(responses).mid_ranks
    means = np.stack([metrics.class_means(mid_ranks, y, 6) for y in shuffles])
    auc = ranking.roc_auc_from_mean_ranks(means, metrics.class_counts(labels, 6))
    expected = [metrics.roc_auc(responses, y, class_count=6, reduce=None) for y in shuffles]
    np.testing.assert_allclose(auc, expected, rtol=1e-12)


def test_the_gap_follows_from_extremes_of_any_number_of_labellings(layer):
    responses, labels = layer
    shuffled = np.random.default_rng(0).permutation(labels)
    extremes = [metrics.class_extremes(responses, y, 6) for y in (labels, shuffled)]
    lowest, highest = (np.stack(both) for both in zip(*extremes, strict=True))
    gap = localist.localist_selectivity_from_extremes(lowest, highest)
    expected = [
        metrics.localist_selectivity(responses, y, class_count=6, reduce=None)
        for y in (labels, shuffled)
    ]
    np.testing.assert_array_equal(gap, expected)


# The best class.


def test_the_best_class_is_that_of_the_highest_value():
    by_class = np.array(
        [[0.2, np.nan, 0.5, 0.7], [0.9, np.nan, 0.5, 0.7], [np.nan, np.nan, 0.4, 0.7]]
    )
    assert metrics.best_class(by_class).tolist() == [1, -1, 0, -1]
    np.testing.assert_array_equal(metrics.best_over_classes(by_class), [0.9, np.nan, 0.5, 0.7])
    assert metrics.best_class(np.array([[-np.inf], [np.inf]])).tolist() == [1]
    assert metrics.best_over_classes(np.stack([by_class, by_class])).shape == (2, 4)


# Refusals.


@pytest.mark.parametrize("name", BEST)
def test_one_class_alone_is_refused(name):
    with pytest.raises(LabelError, match=r"at least two classes, the labels hold only class 2"):
        BEST[name](np.ones((4, 2)), np.array([2, 2, 2, 2]))
    assert np.isnan(BY_CLASS[name](np.ones((4, 2)), np.array([2, 2, 2, 2]))).all()


@every_measure
def test_what_fits_no_stimuli_is_refused(name):
    with pytest.raises(LabelError, match="3 labels do not fit 4 stimuli"):
        BY_CLASS[name](np.ones((4, 2)), np.array([0, 1, 1]))
    with pytest.raises(ResponseError, match="1 are NaN"):
        BY_CLASS[name](np.array([[0.0], [np.nan]]), np.array([0, 1]))
    ranked = rank_responses(np.ones((4, 2)))
    with pytest.raises(LabelError, match="3 labels do not fit 4 stimuli"):
        ranking_measures(ranked, np.array([0, 1, 1]), FORMULAS)


def test_options_that_make_no_sense_are_refused():
    responses, labels = np.ones((4, 2)), np.array([0, 0, 1, 1])
    with pytest.raises(OptionError, match="reduce='mean' is unknown; choose 'best' or None"):
        metrics.roc_auc(responses, labels, reduce="mean")
    for k in (0, 5):
        with pytest.raises(OptionError, match=f"k={k} is not between 1 and the 4 stimuli"):
            metrics.precision_at_k(responses, labels, k=k)
    for precision in (0, 1.5):
        with pytest.raises(OptionError, match=f"precision={precision}"):
            metrics.recall_at_precision(responses, labels, precision=precision)
    with pytest.raises(ResponseError, match=r"\(3,\)"):
        ranking.roc_auc_from_mean_ranks(np.ones(3), np.ones(3))
    with pytest.raises(ResponseError, match=r"\(3, 1\) and \(2, 1\)"):
        localist.localist_selectivity_from_extremes(np.ones((3, 1)), np.ones((2, 1)))
