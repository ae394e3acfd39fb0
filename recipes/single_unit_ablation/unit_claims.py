"""The claims C9, C10 and C11 about single units as signed predictions, judged on protocol trees.

Every threshold was written down before the networks that it judges were ablated. The claim that an
effect is absent is supported only if the whole interval lies within a small band around 0; it is
inconclusive if the interval merely includes 0. A claim with several findings is supported only if
all of them are, so each is tested at the full level. Intervals are over the units of one network:
a verdict holds for this network, not for another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.inference import Prediction, Verdict, mean_over_units, verdict
from unitprobe.protocols import nodes_of, pooled_correlations
from unitprobe.typing import FloatArray

#: "hardly moves overall accuracy" of C9: by less than this many percentage points, averaged over
#: units. This number is ours, because the paper gives no threshold: 100 of 10,000 test images.
HARDLY = 1.0
#: "strongly hits some class" of C9: the largest drop over classes exceeds its chance level by more
#: than this many percentage points, averaged over units. Five times `HARDLY`.
STRONGLY = 5.0
#: A rank correlation above this size predicts, one below it does not. 0.2 explains 4% of the
#: variance of ranks. Both use one number, so that they exclude each other.
PREDICTS = 0.2

#: The properties that predict damage to a class according to C10.
C10_PREDICTORS = ("class_selectivity", "class_correlation", "incoming_l1")


@dataclass(frozen=True)
class Finding:
    """A prediction and what was measured.

    Attributes
    ----------
    prediction : Prediction
    estimate, low, high : float
        In the unit of the prediction; a 95% interval over units.
    units : int
        Number of units.
    verdict : {"supported", "refuted", "inconclusive"}
    """

    prediction: Prediction
    estimate: float
    low: float
    high: float
    units: int
    verdict: Verdict


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim.

    Attributes
    ----------
    claim, text : str
        Its name and its words.
    verdict : {"supported", "refuted", "inconclusive"}
    findings : tuple of Finding
        All must be supported for the claim to be; one that is refuted refutes it.
    """

    claim: str
    text: str
    verdict: Verdict
    findings: tuple[Finding, ...]


def judge_c9(tree: xr.DataTree) -> Judgement:
    """Judge that a single unit hardly moves overall accuracy but strongly hits some class.

    Parameters
    ----------
    tree : DataTree
        From `zhou_protocol` or `unitprobe.ablate`. The second finding is inconclusive if the tree
        has no chance level of the largest drop over classes.

    Returns
    -------
    Judgement
        Two findings, in percentage points of accuracy: the mean drop over all units is below
        `HARDLY`; the mean over units of the largest drop over classes minus its chance level is
        above `STRONGLY`.

    Raises
    ------
    StoreError
        The tree is not an ablation of single units.
    """
    overall = 100 * _units(tree, "accuracy_drop")
    largest = 100 * _units(tree, "max_class_accuracy_drop")
    chance = "max_class_accuracy_drop_null_mean"
    known = all(chance in node for node in nodes_of(tree).values())
    excess = largest - 100 * _units(tree, chance) if known else np.full(largest.shape, np.nan)
    findings = (
        _mean(Prediction("mean drop of accuracy, points", "less", HARDLY), overall),
        _mean(
            Prediction("mean largest drop of a class beyond chance, points", "greater", STRONGLY),
            excess,
        ),
    )
    text = "A single unit hardly moves overall accuracy but strongly hits some class."
    return _judgement("C9", text, findings)


def judge_c10(tree: xr.DataTree) -> Judgement:
    """Judge that selectivity, class correlation and L1 norm predict only damage to a class.

    Parameters
    ----------
    tree : DataTree
        From `zhou_protocol`.

    Returns
    -------
    Judgement
        Six findings, Spearman's correlations with ranks within layers. For each of
        `C10_PREDICTORS`, that with the largest drop over classes is above `PREDICTS`, and the size
        of that with the overall drop is below it.

    Raises
    ------
    StoreError
        The tree is not of this protocol.
    """
    findings = []
    for predictor in C10_PREDICTORS:
        name = f"rank correlation of {predictor} and largest drop of a class"
        prediction = Prediction(name, "greater", PREDICTS)
        findings.append(_correlation(tree, prediction, "max_class_accuracy_drop", predictor))
    for predictor in C10_PREDICTORS:
        name = f"size of the rank correlation of {predictor} and drop of accuracy"
        findings.append(_absence(tree, Prediction(name, "less", PREDICTS), predictor))
    text = (
        "Class selectivity, class correlation and the L1 norm of a unit's weights predict the "
        "damage to a class, and not the overall damage."
    )
    return _judgement("C10", text, tuple(findings))


def judge_c11(tree: xr.DataTree) -> Judgement:
    """Judge that selectivity does not predict importance.

    Parameters
    ----------
    tree : DataTree
        From `morcos_protocol` or `zhou_protocol`.

    Returns
    -------
    Judgement
        One finding: the size of Spearman's correlation, with ranks within layers, of class
        selectivity and drop of accuracy is below `PREDICTS`.

    Raises
    ------
    StoreError
        The tree is of neither protocol.
    """
    name = "size of the rank correlation of class_selectivity and drop of accuracy"
    finding = _absence(tree, Prediction(name, "less", PREDICTS), "class_selectivity")
    text = "Class selectivity does not predict the importance of a unit."
    return _judgement("C11", text, (finding,))


def _judgement(claim: str, text: str, findings: tuple[Finding, ...]) -> Judgement:
    verdicts = {finding.verdict for finding in findings}
    answer: Verdict = "inconclusive"
    if "refuted" in verdicts:
        answer = "refuted"
    elif verdicts == {"supported"}:
        answer = "supported"
    return Judgement(claim, text, answer, findings)


def _units(tree: xr.DataTree, name: str) -> FloatArray:
    nodes = nodes_of(tree)
    if not nodes or not all(name in node and "unit" in node[name].dims for node in nodes.values()):
        raise StoreError(
            f"the tree has no {name!r} of single units; give the result of zhou_protocol"
        )
    return np.concatenate([node[name].values for node in nodes.values()])


def _mean(prediction: Prediction, values: FloatArray) -> Finding:
    found = mean_over_units(values)
    answer = verdict(prediction, found.value, found.low, found.high)
    return Finding(prediction, found.value, found.low, found.high, found.units, answer)


def _correlation(tree: xr.DataTree, prediction: Prediction, damage: str, predictor: str) -> Finding:
    found = pooled_correlations(tree.to_dataset())
    if predictor not in found["predictor"] or damage not in found["damage"]:
        raise StoreError(
            f"the tree has no correlation of {damage!r} with {predictor!r}; give the "
            "result of zhou_protocol or morcos_protocol"
        )
    chosen = found.sel(damage=damage, predictor=predictor)
    value, low, high, units = (
        float(chosen[name]) for name in ("correlation", "low", "high", "units")
    )
    answer = verdict(prediction, value, low, high)
    return Finding(prediction, value, low, high, int(units), answer)


def _absence(tree: xr.DataTree, prediction: Prediction, predictor: str) -> Finding:
    """Judge whether the size of a correlation with the drop of accuracy is near 0."""
    found = _correlation(tree, prediction, "accuracy_drop", predictor)
    size = abs(found.estimate)
    low, high = found.low, found.high
    if not math.isnan(low):
        # The smallest size is 0 if the interval includes 0, else its end nearer to 0.
        low, high = max(0.0, low, -high), max(abs(low), abs(high))
    answer = verdict(prediction, size, low, high)
    return Finding(prediction, size, low, high, found.units, answer)
