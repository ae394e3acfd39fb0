"""The claims of Leavitt & Morcos 2020 as signed predictions, and what the runs say of them.

Every threshold and rule here was written down before the runs that it judges, though not before a
first look at ResNet-20 on CIFAR-10 (six epochs, one network each at four alphas). "Points" are
percentage points of test accuracy; selectivity is the raw index, as in the paper, on test images,
a mean over units and then over layers. Which alpha a claim is judged at is chosen on *validation*
images. The same networks are then tested, so luck in training passes from the choice to the test:
intervals therefore have the level 1 - 0.05/m where m alphas were to choose from (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr

from recipes.selectivity_regularization.gathering import at, final
from recipes.selectivity_regularization.images import data_name
from unitprobe.inference import (
    Prediction,
    difference_over_networks,
    false_discovery_rate,
    verdict,
)

Answer: TypeAlias = Literal["supported", "refuted", "inconclusive", "not run"]

#: "no cost in accuracy" of C3: less than this many points are lost. Ours; the paper gives none.
NO_COST = 0.5
#: "nearly 0" of C4: at most this share of the selectivity of the plain network. Ours.
NEARLY_ZERO = 0.1
#: "SI rises" of C5: to this multiple of the plain network's selectivity or more. Ours.
RISES = 1.1
#: "falls 2.5x" of C3.
FALLS = 2.5
_LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """A prediction beside what was measured.

    Attributes
    ----------
    prediction : Prediction
    alpha : float
        Where it was measured.
    estimate, low, high : float
        In the unit of the prediction; the interval is over networks, NaN without two on each side.
    level : float
        Confidence of the interval.
    networks : (int, int)
        Networks at this alpha and at alpha 0.
    verdict : {"supported", "refuted", "inconclusive"}
    """

    prediction: Prediction
    alpha: float
    estimate: float
    low: float
    high: float
    level: float
    networks: tuple[int, int]
    verdict: Answer


@dataclass(frozen=True)
class Judgement:
    """What the runs say of a claim.

    Attributes
    ----------
    claim, text : str
        Its name and its words.
    rule : str
        How it is judged.
    verdict : {"supported", "refuted", "inconclusive", "not run"}
    findings : tuple of Finding
        All must be supported for the claim to be; one that is refuted refutes it.
    reason : str
        Why it is not run or has no finding; else empty.
    """

    claim: str
    text: str
    rule: str
    verdict: Answer
    findings: tuple[Finding, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim, the network and data that it is about (None: any), and how it is judged."""

    name: str
    text: str
    rule: str
    judge: Callable[[xr.Dataset], tuple[Finding, ...] | str]
    model: str | None = None
    data: str | None = None


def judge_claims(runs: xr.Dataset) -> list[Judgement]:
    """Hold every claim against the runs of one experiment.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.

    Returns
    -------
    list of Judgement
        One for each of `CLAIMS`.
    """
    config = runs.attrs["config"]
    model, data = config["model"].removeprefix("timm:"), data_name(config["data"])
    judgements = []
    for claim in CLAIMS:
        answer: tuple[Finding, ...] | str
        if (claim.model or model, claim.data or data) != (model, data):
            answer = f"it is about {claim.model} on {claim.data}"
        elif config["measure"] != "class_selectivity":
            answer = f"it is about class selectivity, and {config['measure']} was regularized"
        elif 0.0 not in runs["alpha"]:
            answer = "no run at alpha 0 to compare with"
        else:
            answer = claim.judge(runs)
        stated = (claim.name, claim.text, claim.rule)
        if isinstance(answer, str):
            judgements.append(Judgement(*stated, "not run", reason=answer))
        else:
            judgements.append(Judgement(*stated, overall(answer), answer))
    return judgements


def overall(findings: tuple[Finding, ...]) -> Answer:
    """Return the verdict on a claim that is the conjunction of its findings."""
    verdicts = {finding.verdict for finding in findings}
    if "refuted" in verdicts:
        return "refuted"
    return "supported" if verdicts == {"supported"} else "inconclusive"


def points_gained(runs: xr.Dataset, alpha: float, level: float = _LEVEL) -> tuple[float, ...]:
    """Return the gain in test accuracy over alpha 0, in points, and its interval (Welch)."""
    accuracy = 100 * runs["test_accuracy"]
    gain = difference_over_networks(at(accuracy, alpha), at(accuracy, 0.0), level=level)
    return gain.value, gain.low, gain.high


def selectivity_fall(runs: xr.Dataset, alpha: float, level: float = _LEVEL) -> tuple[float, ...]:
    """Return SI at alpha 0 over SI at `alpha`, and its interval (Welch, of the logarithm)."""
    selectivity = runs["mean_class_selectivity"]
    plain, here = (np.log(at(selectivity, each)) for each in (0.0, alpha))
    fall = difference_over_networks(plain, here, level=level)
    with np.errstate(over="ignore"):
        return tuple(np.exp([fall.value, fall.low, fall.high]).tolist())


def accuracy_tests(runs: xr.Dataset) -> xr.Dataset:
    """Test the accuracy at every alpha against alpha 0.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.

    Returns
    -------
    xarray.Dataset
        ``gain``, ``low``, ``high`` (alpha) in points with the 95% interval over networks; ``p`` of
        Welch's test, two-sided; ``q``, adjusted over the alphas by Benjamini & Hochberg. NaN where
        either side has fewer than two networks, or none differs from another.
    """
    alphas = runs["alpha"].data
    rows = []
    for alpha in alphas:
        has_test = alpha != 0 and 0.0 in alphas
        gain = points_gained(runs, alpha) if has_test else (math.nan,) * 3
        rows.append([*gain, _welch_p(runs, alpha) if has_test else math.nan])
    gain, low, high, p = np.transpose(rows)
    columns = {"gain": gain, "low": low, "high": high, "p": p, "q": false_discovery_rate(p)}
    return xr.Dataset(
        {name: ("alpha", column) for name, column in columns.items()}, coords={"alpha": alphas}
    )


def _welch_p(runs: xr.Dataset, alpha: float) -> float:
    from scipy.stats import ttest_ind

    here, plain = at(runs["test_accuracy"], alpha), at(runs["test_accuracy"], 0.0)
    if min(len(here), len(plain)) < 2 or np.ptp(here) == np.ptp(plain) == 0:
        return math.nan
    return float(ttest_ind(here, plain, equal_var=False).pvalue)


def _finding(
    runs: xr.Dataset,
    prediction: Prediction,
    alpha: float,
    measure: Callable[[xr.Dataset, float, float], tuple[float, ...]],
    candidates: int,
) -> Finding:
    level = 1 - (1 - _LEVEL) / candidates
    estimate, low, high = measure(runs, alpha, level)
    networks = (
        int(runs["finished"].sel(alpha=alpha).sum()),
        int(runs["finished"].sel(alpha=0).sum()),
    )
    answer = verdict(prediction, estimate, low, high)
    return Finding(prediction, alpha, estimate, low, high, level, networks, answer)


def _alphas(runs: xr.Dataset, sign: int) -> list[float]:
    return [float(alpha) for alpha in runs["alpha"].data if sign * alpha > 0]


def _validation(runs: xr.Dataset, name: str) -> dict[float, float]:
    values = final(runs, name)
    return {float(alpha): float(at(values, alpha).mean()) for alpha in runs["alpha"].data}


def _gain(threshold: float) -> Callable[[xr.Dataset], tuple[Finding, ...] | str]:
    prediction = Prediction("test accuracy gained, points", "greater", threshold)

    def judge(runs: xr.Dataset) -> tuple[Finding, ...] | str:
        suppressing = _alphas(runs, -1)
        if not suppressing:
            return "no run at an alpha below 0"
        accuracy = _validation(runs, "validation_accuracy")
        best = max(suppressing, key=lambda alpha: accuracy[alpha])
        return (_finding(runs, prediction, best, points_gained, len(suppressing)),)

    return judge


def _fall_at_no_cost(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    suppressing = _alphas(runs, -1)
    if not suppressing:
        return "no run at an alpha below 0"
    selectivity = _validation(runs, "validation_class_selectivity")
    accuracy = _validation(runs, "validation_accuracy")
    enough = [alpha for alpha in suppressing if selectivity[alpha] <= selectivity[0.0] / FALLS]
    if not enough:
        return f"no alpha was run that lowers validation SI {FALLS} times"
    best = max(enough, key=lambda alpha: accuracy[alpha])
    fall = Prediction("SI at alpha 0 over SI, ratio", "greater", FALLS)
    cost = Prediction("test accuracy gained, points", "greater", -NO_COST)
    return (
        _finding(runs, fall, best, selectivity_fall, len(suppressing)),
        _finding(runs, cost, best, points_gained, len(suppressing)),
    )


def _cost_of_none(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    suppressing = _alphas(runs, -1)
    if not suppressing:
        return "no run at an alpha below 0"
    selectivity = _validation(runs, "validation_class_selectivity")
    enough = [a for a in suppressing if selectivity[a] <= NEARLY_ZERO * selectivity[0.0]]
    if not enough:
        return f"no alpha was run that lowers validation SI to {NEARLY_ZERO} of alpha 0"
    weakest = max(enough)
    at_least = Prediction("test accuracy gained, points", "less", -1.0)
    at_most = Prediction("test accuracy gained, points", "greater", -3.0)
    return tuple(
        _finding(runs, each, weakest, points_gained, len(suppressing))
        for each in (at_least, at_most)
    )


def _rise_costs(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    promoting = _alphas(runs, 1)
    if not promoting:
        return "no run at an alpha above 0"
    selectivity = _validation(runs, "validation_class_selectivity")
    risen = [alpha for alpha in promoting if selectivity[alpha] >= RISES * selectivity[0.0]]
    if not risen:
        return f"no alpha was run that raises validation SI {RISES} times"
    prediction = Prediction("test accuracy gained, points", "less", 0.0)
    return tuple(_finding(runs, prediction, a, points_gained, len(promoting)) for a in risen)


_BEST = (
    "Judged at the alpha below 0 of highest validation accuracy: the test accuracy gained over "
    "alpha 0 is above {} points."
)
CLAIMS = (
    Claim(
        "C1",
        "ResNet-18 on Tiny ImageNet: suppressing selectivity raises test accuracy by more than "
        "2 points.",
        _BEST.format(2),
        _gain(2.0),
        "resnet18",
        "tinyimagenet",
    ),
    Claim(
        "C2",
        "ResNet-50 on Tiny ImageNet: suppressing selectivity raises test accuracy by 1 point.",
        _BEST.format(1),
        _gain(1.0),
        "resnet50",
        "tinyimagenet",
    ),
    Claim(
        "C3",
        "ResNet-20 on CIFAR-10: selectivity falls 2.5 times at no cost in test accuracy.",
        f"Judged at the alpha of highest validation accuracy among those that lower validation SI "
        f"{FALLS} times or more: on test, SI at alpha 0 is more than {FALLS} times SI, and less "
        f"than {NO_COST} points are lost (our margin).",
        _fall_at_no_cost,
        "resnet20",
        "cifar10",
    ),
    Claim(
        "C4",
        "ResNet-20 on CIFAR-10: selectivity of nearly 0 costs about 2 points of test accuracy.",
        f"Judged at the alpha nearest 0 whose validation SI is at most {NEARLY_ZERO} of that at "
        "alpha 0 (our margin): between 1 and 3 points are lost on test (our margin).",
        _cost_of_none,
        "resnet20",
        "cifar10",
    ),
    Claim(
        "C5",
        "Raising selectivity lowers test accuracy.",
        f"Judged at every alpha above 0 whose validation SI is at least {RISES} times that at "
        "alpha 0 (our margin): test accuracy is lost at each.",
        _rise_costs,
    ),
)
