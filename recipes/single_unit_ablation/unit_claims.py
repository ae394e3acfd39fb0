"""The claims C9, C10 and C11 about single units as signed predictions, judged on protocol trees.

Every threshold was written down before the networks that it judges were ablated. The claim that an
effect is absent is supported only if the whole interval lies within a small band around 0; it is
inconclusive if the interval merely includes 0. It must hold in every layer: correlations of
different signs can cancel in the mean over layers. A claim with several findings is supported only
if all of them are, so each is tested at the full level; it is refuted if one of them is refuted at
the level corrected for their number. Intervals are over the units of one network: a verdict holds
for this network, not for another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.inference import (
    Prediction,
    Verdict,
    mean_over_units,
    verdict,
    verdict_of_all,
)
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
        All must be supported for the claim to be; one that is refuted refutes it. With m findings,
        "refuted" is held to the level 1 - 0.05/m.
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
        _mean(Prediction("mean drop of accuracy, points", "less", HARDLY), overall, 2),
        _mean(
            Prediction("mean largest drop of a class beyond chance, points", "greater", STRONGLY),
            excess,
            2,
        ),
    )
    text = "A single unit hardly moves overall accuracy but strongly hits some class."
    return _judgement("C9", text, findings)


def judge_c10(tree: xr.DataTree) -> Judgement:
    """Judge that selectivity, class correlation and L1 norm predict the damage to a class.

    Parameters
    ----------
    tree : DataTree
        From `zhou_protocol`.

    Returns
    -------
    Judgement
        Three findings: for each of `C10_PREDICTORS`, Spearman's correlation with the largest drop
        over classes, with ranks within layers, is above `PREDICTS`. The paper says that
        selectivity is a poor predictor of the overall damage, which is `judge_c11`. It does not
        say so of the L1 norm.

    Raises
    ------
    StoreError
        The tree is not of this protocol.
    """
    findings = []
    for predictor in C10_PREDICTORS:
        name = f"rank correlation of {predictor} and largest drop of a class"
        found = _pooled(tree, "max_class_accuracy_drop", predictor)
        findings.append(_presence(Prediction(name, "greater", PREDICTS), found))
    text = (
        "Class selectivity, class correlation and the L1 norm of a unit's weights predict the "
        "damage to a class."
    )
    return _judgement("C10", text, tuple(findings))


def judge_c11(tree: xr.DataTree) -> Judgement:
    """Judge that selectivity does not predict importance.

    Parameters
    ----------
    tree : DataTree
        From `zhou_protocol`; or from `morcos_protocol`, which has no loss, so that the claim
        cannot be supported.

    Returns
    -------
    Judgement
        For drop of accuracy and for increase of the loss, the size of Spearman's correlation with
        class selectivity is below `PREDICTS`: with ranks within layers over all units, and in each
        layer.

    Raises
    ------
    StoreError
        The tree is of neither protocol.
    """
    found = []
    for damage, words in (("accuracy_drop", "drop of accuracy"), ("loss_increase", "loss")):
        name = f"size of the rank correlation of class_selectivity and {words}"
        pooled = _pooled(tree, damage, "class_selectivity")
        found.append((Prediction(name, "less", PREDICTS), pooled))
        for layer, numbers in _by_layer(tree, damage, "class_selectivity").items():
            found.append((Prediction(f"{name}, layer {layer}", "less", PREDICTS), numbers))
    findings = tuple(_absence(*each, len(found)) for each in found)
    text = "Class selectivity does not predict the importance of a unit, in any layer."
    return _judgement("C11", text, findings)


def _judgement(claim: str, text: str, findings: tuple[Finding, ...]) -> Judgement:
    return Judgement(claim, text, verdict_of_all(each.verdict for each in findings), findings)


def _units(tree: xr.DataTree, name: str) -> FloatArray:
    nodes = nodes_of(tree)
    if not nodes or not all(name in node and "unit" in node[name].dims for node in nodes.values()):
        raise StoreError(
            f"the tree has no {name!r} of single units; give the result of zhou_protocol"
        )
    return np.concatenate([node[name].values for node in nodes.values()])


def _mean(prediction: Prediction, values: FloatArray, findings: int) -> Finding:
    found = mean_over_units(values)
    wide = mean_over_units(values, level=1 - 0.05 / findings)
    answer = verdict(prediction, found.value, found.low, found.high, refuting=(wide.low, wide.high))
    return Finding(prediction, found.value, found.low, found.high, found.units, answer)


class _Correlation(NamedTuple):
    """A correlation with its 95% interval, and the number of units."""

    value: float
    low: float
    high: float
    units: int

    def at_corrected_level(self, findings: int) -> tuple[float, float]:
        """Return the interval of level 1 - 0.05/findings, never inside that of 95%.

        Fisher's z with the variance (1 + r^2/2)/(n - 3) of rank correlations (Bonett & Wright
        2000): a bootstrap has too few resamples in its tails.
        """
        if self.units < 4 or math.isnan(self.low):
            return math.nan, math.nan
        from scipy.stats import norm

        value = min(max(self.value, -0.999999), 0.999999)
        deviation = math.sqrt((1 + value**2 / 2) / (self.units - 3))
        half_width = float(norm.ppf(1 - 0.025 / findings)) * deviation
        ends = (math.tanh(math.atanh(value) + side * half_width) for side in (-1, 1))
        low, high = ends
        return min(low, self.low), max(high, self.high)


_UNKNOWN = _Correlation(math.nan, math.nan, math.nan, 0)


def _pooled(tree: xr.DataTree, damage: str, predictor: str) -> _Correlation:
    found = pooled_correlations(tree.to_dataset())
    if damage == "loss_increase" and damage not in found["damage"]:
        return _UNKNOWN
    if predictor not in found["predictor"] or damage not in found["damage"]:
        raise StoreError(
            f"the tree has no correlation of {damage!r} with {predictor!r}; give the "
            "result of zhou_protocol or morcos_protocol"
        )
    chosen = found.sel(damage=damage, predictor=predictor)
    value, low, high, units = (
        float(chosen[name]) for name in ("correlation", "low", "high", "units")
    )
    return _Correlation(value, low, high, int(units))


def _by_layer(tree: xr.DataTree, damage: str, predictor: str) -> dict[str, _Correlation]:
    root = tree.to_dataset()
    if "correlation" not in root or damage not in root["damage"]:
        return {}
    found = {}
    for layer in root["layer"].values:
        chosen = root.sel(layer=layer, damage=damage, predictor=predictor)
        value, low, high, units = (
            float(chosen[f"correlation{part}"]) for part in ("", "_low", "_high", "_units")
        )
        found[str(layer)] = _Correlation(value, low, high, int(units))
    return found


def _presence(prediction: Prediction, found: _Correlation) -> Finding:
    answer = verdict(
        prediction,
        found.value,
        found.low,
        found.high,
        refuting=found.at_corrected_level(len(C10_PREDICTORS)),
    )
    return Finding(prediction, found.value, found.low, found.high, found.units, answer)


def _absence(prediction: Prediction, found: _Correlation, findings: int) -> Finding:
    """Judge whether the size of a correlation is near 0."""
    size = abs(found.value)
    low, high = _ends_of_size(found.low, found.high)
    wide = _ends_of_size(*found.at_corrected_level(findings))
    answer = verdict(prediction, size, low, high, refuting=wide)
    return Finding(prediction, size, low, high, found.units, answer)


def _ends_of_size(low: float, high: float) -> tuple[float, float]:
    """Return the ends of the interval of a size: from 0 if the interval includes 0."""
    if math.isnan(low):
        return math.nan, math.nan
    return max(0.0, low, -high), max(abs(low), abs(high))
