"""Selectivity of every unit for every class beside a loop over scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics
from numpy.typing import NDArray
from timing import Row, seconds

from unitprobe import metrics
from unitprobe.metrics._ranks import rank_responses, ranking_measures
from unitprobe.metrics.registry import MEASURES, measures

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CLASSES = 10
FORMULAS = {name: MEASURES[name].of for name in measures(needs=["ranks"])}


def run(quick: bool) -> list[Row]:
    """Return the time of each measure over that of a loop, which is timed on a few units."""
    stimuli, units = (2_000, 256) if quick else (10_000, 2_048)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, size=stimuli)
    tuning = rng.normal(size=(CLASSES, units))
    responses = np.maximum(tuning[labels] + 2 * rng.normal(size=(stimuli, units)), 0)
    responses = responses.astype(np.float32)
    ranked = rank_responses(responses)
    shuffled = rng.permutation(labels)
    timed = {
        "all": (_all_measures, _loop_over_all),
        "ROC AUC": (metrics.roc_auc, _loop_over(_auc)),
        "average precision": (metrics.average_precision, _loop_over(_average_precision)),
        "maximum informedness": (metrics.max_informedness, _loop_over(_informedness)),
        "class correlation": (metrics.class_correlation, _loop_over(_correlation)),
        "ANOVA F": (metrics.anova_f, _f_of_all_classes),
        "mutual information": (metrics.mutual_information, _information_of_all_classes),
    }
    rows = [_row(what, *both, responses, labels) for what, both in timed.items()]
    again = seconds(lambda: ranking_measures(ranked, shuffled, FORMULAS))
    first = seconds(lambda: rank_responses(responses))
    what = f"{len(FORMULAS)} measures of ranking, one more labelling; the reference ranks again"
    rows.append(
        {"what": what, "ours_s": again, "reference_s": first + again}
        | {"ratio": again / (first + again)}
    )
    return rows


def _row(
    what: str,
    ours: Callable[..., object],
    loop: Callable[..., object],
    responses: NDArray[np.float32],
    labels: IntArray,
) -> Row:
    stimuli, units = responses.shape
    few = responses[:, :2]
    ours_s = min(seconds(lambda: ours(responses, labels)) for _ in range(3))
    reference_s = min(seconds(lambda: loop(few, labels)) for _ in range(3)) * units / few.shape[1]
    size = f"{stimuli} stimuli, {units} units, {CLASSES} classes"
    return {
        "what": f"{what}, {size}; the reference from {few.shape[1]} units",
        "ours_s": ours_s,
        "reference_s": reference_s,
        "ratio": ours_s / reference_s,
    }


def _all_measures(responses: NDArray[np.float32], labels: IntArray) -> dict[str, Any]:
    ranked = rank_responses(responses)
    moment_based = (metrics.class_selectivity, metrics.ccmas, metrics.d_prime, metrics.anova_f,
                    metrics.class_correlation, metrics.eta_squared)  # fmt: skip
    values: dict[str, Any] = {f.__name__: f(responses, labels) for f in moment_based}
    values["mutual_information"] = metrics.mutual_information(responses, labels)
    values["localist_selectivity"] = metrics.localist_selectivity(responses, labels)
    return values | ranking_measures(ranked, labels, FORMULAS, CLASSES)


def _loop_over_all(responses: NDArray[np.float32], labels: IntArray) -> None:
    for measure in (_auc, _average_precision, _f1_and_recall, _informedness, _correlation):
        _loop_over(measure)(responses, labels)
    _f_of_all_classes(responses, labels)
    _information_of_all_classes(responses, labels)


def _loop_over(measure: Callable[..., object]) -> Callable[..., None]:
    def loop(responses: NDArray[np.float32], labels: IntArray) -> None:
        for x in responses.T:
            for c in range(CLASSES):
                measure(labels == c, x)

    return loop


def _auc(member: NDArray[np.bool_], x: FloatArray) -> object:
    return sklearn.metrics.roc_auc_score(member, x)


def _average_precision(member: NDArray[np.bool_], x: FloatArray) -> object:
    return sklearn.metrics.average_precision_score(member, x)


def _f1_and_recall(member: NDArray[np.bool_], x: FloatArray) -> object:
    precision, recall, _ = sklearn.metrics.precision_recall_curve(member, x)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return f1.max(), recall[precision >= 0.95].max()


def _informedness(member: NDArray[np.bool_], x: FloatArray) -> object:
    false, true, thresholds = sklearn.metrics.roc_curve(member, x)
    best = np.argmax(true - false)
    return true[best] - false[best], thresholds[best]


def _correlation(member: NDArray[np.bool_], x: FloatArray) -> object:
    return scipy.stats.pearsonr(x, member)


def _f_of_all_classes(responses: NDArray[np.float32], labels: IntArray) -> None:
    for x in responses.T:
        scipy.stats.f_oneway(*[x[labels == c] for c in range(CLASSES)])


def _information_of_all_classes(responses: NDArray[np.float32], labels: IntArray) -> None:
    for x in responses.T:
        edges = np.unique(np.quantile(x, np.linspace(0, 1, 11)[1:-1]))
        sklearn.metrics.mutual_info_score(labels, np.digitize(x, edges))
