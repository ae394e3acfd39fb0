"""The claims of Leavitt & Morcos 2020 as signed predictions, and what the runs say of them.

Thresholds were written down before the first runs, though not before a first look at ResNet-20 on
CIFAR-10 (six epochs, one network each at four alphas). The upper end of the fall in C3, the trend
of C5 and all of C12 were set later, when accuracies and selectivities of the twelve networks of 30
epochs under ``docs/results/networks`` were known: for these networks they are not predictions.
"Points" are
percentage points of test accuracy; selectivity is the raw index, as in the paper, on test images,
a mean over units and then over layers. Which alpha a claim is judged at is chosen on *validation*
images. The same networks are then tested, so luck in training passes from the choice to the test:
intervals therefore have the level 1 - 0.05/m where m alphas were to choose from (Bonferroni).
Networks of one seed share initial weights and the order of images, so differences are taken within
seeds. Networks whose training fell apart are left out of every test, and named on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr

from recipes.selectivity_regularization.gathering import at, final, is_sound
from recipes.selectivity_regularization.images import data_name
from unitprobe.inference import (
    Prediction,
    difference_over_networks,
    false_discovery_rate,
    mean_over_networks,
    verdict,
    verdict_of_all,
)
from unitprobe.inference import Verdict as FindingVerdict
from unitprobe.typing import FloatArray

Answer: TypeAlias = Literal["supported", "refuted", "inconclusive", "not run"]

#: "no cost in accuracy" of C3: less than this many points are lost. Ours; the paper gives none.
NO_COST = 0.5
#: "nearly 0" of C4: at most this share of the selectivity of the plain network. Ours.
NEARLY_ZERO = 0.1
#: "SI rises" of C5: to this multiple of the plain network's selectivity or more. Ours.
RISES = 1.1
#: "falls 2.5x" of C3, and the strongest fall that still tests it. The latter is ours.
FALLS = 2.5
FALLS_AT_MOST = 3.5
_LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """A prediction beside what was measured.

    Attributes
    ----------
    prediction : Prediction
    alpha : float
        Where it was measured; of a slope over alphas the one farthest from 0.
    estimate, low, high : float
        In the unit of the prediction; the interval is over seeds, NaN without two.
    level : float
        Confidence of the interval.
    seeds : int
        How many seeds have a network at this alpha and at alpha 0, neither of which fell apart.
    verdict : {"supported", "refuted", "inconclusive"}
    """

    prediction: Prediction
    alpha: float
    estimate: float
    low: float
    high: float
    level: float
    seeds: int
    verdict: FindingVerdict


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
        All must be supported for the claim to be; one that is refuted refutes it. With m findings,
        "refuted" is held to the level 1 - (1 - level)/m.
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
            whole = verdict_of_all(finding.verdict for finding in answer)
            judgements.append(Judgement(*stated, whole, answer))
    return judgements


def paired(runs: xr.Dataset, name: str, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Return a measure at `alpha` and at alpha 0 of the same seeds, each (seed,).

    Only seeds of which both networks are finished and neither fell apart in training.
    """
    both = (
        is_sound(runs).sel(alpha=[alpha, 0.0]).all("alpha")
        if alpha
        else is_sound(runs).sel(alpha=0.0)
    )
    values = runs[name].where(both, drop=True)
    here, plain = (np.asarray(values.sel(alpha=each), np.float64) for each in (alpha, 0.0))
    known = ~(np.isnan(here) | np.isnan(plain))
    return here[known], plain[known]


def points_gained(runs: xr.Dataset, alpha: float, level: float = _LEVEL) -> tuple[float, ...]:
    """Return the gain in test accuracy over alpha 0, in points, and its interval.

    The t interval over seeds is of the difference of log-odds within each seed. It is shown as
    points from the mean at alpha 0, so that no accuracy in it lies outside of 0 to 100%.
    """
    here, plain = (
        _log_odds(each, runs.attrs["test_stimuli"]) for each in paired(runs, "test_accuracy", alpha)
    )
    if not len(here):
        return (math.nan,) * 3
    gain = difference_over_networks(here, plain, paired=True, level=level)
    start = plain.mean()
    ends = np.array([gain.value, gain.low, gain.high])
    return tuple((100 * (_accuracy(start + ends) - _accuracy(start))).tolist())


def selectivity_fall(runs: xr.Dataset, alpha: float, level: float = _LEVEL) -> tuple[float, ...]:
    """Return SI at alpha 0 over SI at `alpha`, and its interval (of the logarithm, by seed)."""
    here, plain = (np.log(each) for each in paired(runs, "mean_class_selectivity", alpha))
    if not len(here):
        return (math.nan,) * 3
    fall = difference_over_networks(plain, here, paired=True, level=level)
    with np.errstate(over="ignore"):
        return tuple(np.exp([fall.value, fall.low, fall.high]).tolist())


def slopes(y: xr.DataArray, x: xr.DataArray) -> FloatArray:
    """Return the slope of y on x over alphas, (seed,), of seeds with two different x or more.

    Parameters
    ----------
    y, x : xarray.DataArray
        (alpha, seed); pairs with NaN are left out.
    """
    found = []
    for seed in y["seed"].data:
        ordinate, abscissa = (
            np.asarray(values.sel(seed=seed).transpose("alpha"), np.float64) for values in (y, x)
        )
        known = ~(np.isnan(ordinate) | np.isnan(abscissa))
        if known.sum() > 1 and np.ptp(abscissa[known]) > 0:
            found.append(np.polyfit(abscissa[known], ordinate[known], 1)[0])
    return np.array(found)


def _log_odds(accuracy: FloatArray, stimuli: int) -> FloatArray:
    # An accuracy of 0 or 1 is taken half a stimulus away from it.
    share = np.clip(accuracy, 0.5 / stimuli, 1 - 0.5 / stimuli)
    odds: FloatArray = np.log(share / (1 - share))
    return odds


def _accuracy(log_odds: FloatArray) -> FloatArray:
    from scipy.special import expit

    accuracy: FloatArray = expit(log_odds)
    return accuracy


def accuracy_tests(runs: xr.Dataset) -> xr.Dataset:
    """Test the accuracy at every alpha against alpha 0.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.

    Returns
    -------
    xarray.Dataset
        ``gain``, ``low``, ``high`` (alpha) as `points_gained`, with the 95% interval; ``p`` of the
        paired t test, two-sided; ``q``, adjusted over the alphas by Benjamini & Hochberg. NaN for
        fewer than two seeds, or if no difference differs from another.
    """
    alphas = runs["alpha"].data
    rows = []
    for alpha in alphas:
        has_test = alpha != 0 and 0.0 in alphas
        gain = points_gained(runs, alpha) if has_test else (math.nan,) * 3
        rows.append([*gain, _paired_p(runs, alpha) if has_test else math.nan])
    gain, low, high, p = np.transpose(rows)
    columns = {"gain": gain, "low": low, "high": high, "p": p, "q": false_discovery_rate(p)}
    return xr.Dataset(
        {name: ("alpha", column) for name, column in columns.items()}, coords={"alpha": alphas}
    )


def _paired_p(runs: xr.Dataset, alpha: float) -> float:
    from scipy.stats import ttest_1samp

    here, plain = (
        _log_odds(each, runs.attrs["test_stimuli"]) for each in paired(runs, "test_accuracy", alpha)
    )
    if len(here) < 2 or np.ptp(here - plain) == 0:
        return math.nan
    return float(ttest_1samp(here - plain, 0.0).pvalue)


#: Returns an estimate and the ends of its interval at a level.
_Measure: TypeAlias = Callable[[float], tuple[float, ...]]


def _findings(
    parts: Sequence[tuple[Prediction, float, _Measure, int]], candidates: int = 1
) -> tuple[Finding, ...]:
    """Hold each (prediction, alpha, measure, number of seeds) against its interval.

    Parameters
    ----------
    parts : sequence
        The predictions of one claim.
    candidates : int
        How many alphas there were to choose from.
    """
    error = (1 - _LEVEL) / candidates
    found = []
    for prediction, alpha, measure, seeds in parts:
        estimate, low, high = measure(1 - error)
        _, *wide = measure(1 - error / len(parts))
        answer = verdict(prediction, estimate, low, high, refuting=(wide[0], wide[1]))
        found.append(Finding(prediction, alpha, estimate, low, high, 1 - error, seeds, answer))
    return tuple(found)


def _seeds(runs: xr.Dataset, alpha: float) -> int:
    return len(paired(runs, "test_accuracy", alpha)[0])


def _slope_over_seeds(y: xr.DataArray, x: xr.DataArray) -> tuple[_Measure, int]:
    """Return the mean slope over seeds as a measure, and the number of seeds."""
    found = slopes(y, x)

    def measure(level: float) -> tuple[float, ...]:
        if not len(found):
            return (math.nan,) * 3
        mean = mean_over_networks(found, level=level)
        return mean.value, mean.low, mean.high

    return measure, len(found)


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
        gain = partial(points_gained, runs, best)
        return _findings([(prediction, best, gain, _seeds(runs, best))], len(suppressing))

    return judge


def _fall_at_no_cost(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    suppressing = _alphas(runs, -1)
    if not suppressing:
        return "no run at an alpha below 0"
    selectivity = _validation(runs, "validation_class_selectivity")
    accuracy = _validation(runs, "validation_accuracy")
    falls = {alpha: selectivity[0.0] / selectivity[alpha] for alpha in suppressing}
    near = [alpha for alpha, fall in falls.items() if FALLS <= fall <= FALLS_AT_MOST]
    if not near:
        return (
            f"no alpha was run that lowers validation SI {FALLS} to {FALLS_AT_MOST} times; the "
            f"falls are {', '.join(f'{fall:.2g}' for fall in falls.values())}"
        )
    best = max(near, key=lambda alpha: accuracy[alpha])
    fall = Prediction("SI at alpha 0 over SI, ratio", "greater", FALLS)
    cost = Prediction("test accuracy gained, points", "greater", -NO_COST)
    seeds = _seeds(runs, best)
    parts = [
        (fall, best, partial(selectivity_fall, runs, best), seeds),
        (cost, best, partial(points_gained, runs, best), seeds),
    ]
    return _findings(parts, len(near))


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
    gain, seeds = partial(points_gained, runs, weakest), _seeds(runs, weakest)
    return _findings([(each, weakest, gain, seeds) for each in (at_least, at_most)])


def _rise_costs(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    promoting = _alphas(runs, 1)
    if not promoting:
        return "no run at an alpha above 0"
    selectivity = _validation(runs, "validation_class_selectivity")
    risen = [alpha for alpha in promoting if selectivity[alpha] >= RISES * selectivity[0.0]]
    if not risen:
        return f"no alpha was run that raises validation SI {RISES} times"
    chosen = runs.sel(alpha=[0.0, *risen])
    accuracy = chosen["test_accuracy"].where(is_sound(chosen))
    log_odds = accuracy.copy(data=_log_odds(accuracy.data, runs.attrs["test_stimuli"]))
    trend, seeds = _slope_over_seeds(log_odds, chosen["mean_class_selectivity"])
    prediction = Prediction("slope of the log-odds of test accuracy on SI", "less", 0.0)
    return _findings([(prediction, max(risen), trend, seeds)])


def _d_prime_falls(runs: xr.Dataset) -> tuple[Finding, ...] | str:
    suppressing = _alphas(runs, -1)
    if not suppressing:
        return "no run at an alpha below 0"
    chosen = runs.sel(alpha=[*suppressing, 0.0])
    sound = is_sound(chosen)
    d_prime, selectivity = (
        chosen[name].where(sound) for name in ("mean_d_prime", "mean_class_selectivity")
    )
    trend, seeds = _slope_over_seeds(
        d_prime.copy(data=np.log(d_prime.data)), selectivity.copy(data=np.log(selectivity.data))
    )
    prediction = Prediction("slope of the logarithm of d-prime on that of SI", "greater", 0.0)
    return _findings([(prediction, min(suppressing), trend, seeds)])


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
        f"{FALLS} to {FALLS_AT_MOST} times (our margin; a stronger fall does not test the claim): "
        f"on test, SI at alpha 0 is more than {FALLS} times SI, and less than {NO_COST} points are "
        "lost (our margin).",
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
        "Judged on alpha 0 and every alpha above 0 whose validation SI is at least "
        f"{RISES} times that at alpha 0 (our margin): within a seed, the log-odds of test accuracy "
        "fall with test SI.",
        _rise_costs,
    ),
    Claim(
        "C12",
        "Suppressing selectivity lowers d-prime too (our claim, not one of the paper).",
        "Judged on alpha 0 and every alpha below 0: within a seed, d-prime falls with SI (both on "
        "test, as logarithms).",
        _d_prime_falls,
    ),
)
