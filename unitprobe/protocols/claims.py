"""Claims about single units as signed predictions, held against the trees of protocols.

Every threshold was written down before the networks were ablated that it judges. A claim that
something is absent is supported only by an interval that lies within a small band around nothing;
one that merely includes 0 is inconclusive. A claim of several findings holds if all of them do, so
each is tested at the whole level. Intervals are over the units of one network: a verdict is on this
network, and says nothing of the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.inference import Prediction, Verdict, mean_over_units, verdict
from unitprobe.protocols.common import nodes_of
from unitprobe.protocols.damage_correlations import pooled_correlations

#: "hardly moves overall accuracy" of C9: by less than this many points, in the mean over units.
#: Ours; the paper gives none. It is what 100 of 10,000 test images are.
HARDLY = 1.0
#: "strongly hits some class" of C9: by more than this many points beyond what chance alone makes
#: the largest of several classes, in the mean over units; five times what is hardly anything.
STRONGLY = 5.0
#: A rank correlation beyond this predicts, one within it does not: 0.2 is 4% of the variance of
#: ranks, which no one would choose units by. One number for both, so that they exclude each other.
PREDICTS = 0.2

#: What is said to predict damage to a class in C10.
C10_PREDICTORS = ("class_selectivity", "class_correlation", "incoming_l1")


@dataclass(frozen=True)
class Finding:
    """A prediction beside what was measured.

    Attributes
    ----------
    prediction : Prediction
    estimate, low, high : float
        In the unit of the prediction; a 95% interval over units.
    units : int
        How many units it rests on.
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
    """What a network says of a claim.

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
        From `zhou_protocol`, or from `unitprobe.ablate`. Without the chance level of the largest
        drop over classes the second finding is inconclusive.

    Returns
    -------
    Judgement
        Of two findings, in points of accuracy: the mean drop over all units is below `HARDLY`,
        and the mean of the largest drop over classes less its chance level is above `STRONGLY`.

    Raises
    ------
    StoreError
        The tree is no ablation of single units.

    Examples
    --------
    >>> node = xr.Dataset(
    ...     {
    ...         "accuracy_drop": ("unit", [0.001, 0.002, 0.0, 0.003]),
    ...         "max_class_accuracy_drop": ("unit", [0.2, 0.3, 0.15, 0.2]),
    ...         "max_class_accuracy_drop_null_mean": ("unit", [0.01, 0.01, 0.01, 0.01]),
    ...     }
    ... )
    >>> judge_c9(xr.DataTree.from_dict({"relu": node})).verdict
    'supported'
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
    """Judge that selectivity, class correlation and L1 norm predict damage to a class alone.

    Parameters
    ----------
    tree : DataTree
        From `zhou_protocol`.

    Returns
    -------
    Judgement
        Of six findings, Spearman's correlations with ranks within layers: of each of
        `C10_PREDICTORS` with the largest drop over classes, which is above `PREDICTS`, and with
        the overall drop, whose size is below it.

    Raises
    ------
    StoreError
        The tree is not of this protocol.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import zhou_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = zhou_protocol(network, stimuli, n_directions=0, resamples=20)
    >>> len(judge_c10(tree).findings)
    6
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
        Of one finding: the size of Spearman's correlation, with ranks within layers, of class
        selectivity and drop of accuracy is below `PREDICTS`.

    Raises
    ------
    StoreError
        The tree is of neither protocol.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import morcos_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = morcos_protocol(network, stimuli, n_orders=2, n_points=2, resamples=20)
    >>> judge_c11(tree).claim
    'C11'
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


def _units(tree: xr.DataTree, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    nodes = nodes_of(tree)
    if not nodes or not all(name in node and "unit" in node[name].dims for node in nodes.values()):
        raise StoreError(f"the tree has no {name!r} of single units; give what zhou_protocol made")
    return np.concatenate([node[name].values for node in nodes.values()])


def _mean(prediction: Prediction, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Finding:
    found = mean_over_units(values)
    answer = verdict(prediction, found.value, found.low, found.high)
    return Finding(prediction, found.value, found.low, found.high, found.units, answer)


def _correlation(tree: xr.DataTree, prediction: Prediction, damage: str, predictor: str) -> Finding:
    found = pooled_correlations(tree.to_dataset())
    if predictor not in found["predictor"] or damage not in found["damage"]:
        raise StoreError(
            f"the tree has no correlation of {damage!r} with {predictor!r}; give what "
            "zhou_protocol or morcos_protocol made"
        )
    chosen = found.sel(damage=damage, predictor=predictor)
    value, low, high, units = (
        float(chosen[name]) for name in ("correlation", "low", "high", "units")
    )
    answer = verdict(prediction, value, low, high)
    return Finding(prediction, value, low, high, int(units), answer)


def _absence(tree: xr.DataTree, prediction: Prediction, predictor: str) -> Finding:
    """Hold the size of a correlation with the drop of accuracy against a band around 0."""
    found = _correlation(tree, prediction, "accuracy_drop", predictor)
    size = abs(found.estimate)
    low, high = found.low, found.high
    if not math.isnan(low):
        # An interval of both signs holds 0; else its end nearer to 0 is the least size.
        low, high = max(0.0, low, -high), max(abs(low), abs(high))
    answer = verdict(prediction, size, low, high)
    return Finding(prediction, size, low, high, found.units, answer)
