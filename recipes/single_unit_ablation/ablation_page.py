"""The page on single-unit ablation, in Markdown: every number and sentence comes from the trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from recipes.selectivity_regularization.figures import Picture
from recipes.selectivity_regularization.images import data_name
from recipes.selectivity_regularization.tabulating import (
    NONE,
    interval_text,
    markdown_table,
    number,
    range_cell,
)
from recipes.single_unit_ablation.unit_claims import Finding, Judgement
from unitprobe.analysis import unit_table
from unitprobe.plots import plot_morcos, plot_zhou

_DPI = 100
_PREDICTORS = {
    "class_selectivity": "class selectivity",
    "class_correlation": "class correlation",
    "incoming_l1": "L1 norm of weights",
    "activity": "mean response",
}
_DAMAGES = {
    "accuracy_drop": "drop of accuracy",
    "max_class_accuracy_drop": "largest drop of a class",
    "loss_increase": "increase of the loss",
}
#: Drops in points, in the comparison with directions.
_DROPS = ("accuracy_drop", "max_class_accuracy_drop")


@dataclass(frozen=True)
class Experiment:
    """What a page is about.

    Attributes
    ----------
    model, data, data_note : str
        As the command line has them.
    zhou, morcos : DataTree
        From both protocols.
    judgements : list of Judgement
    command : str
        What makes the page.
    """

    model: str
    data: str
    data_note: str
    zhou: xr.DataTree
    morcos: xr.DataTree
    judgements: list[Judgement]
    command: str


def unit_rows(zhou: xr.DataTree) -> pd.DataFrame:
    """Return one row for each unit: what it does, and what the network loses without it."""
    return unit_table(zhou)


def draw_all(experiment: Experiment, folder: Path, stem: str) -> list[Picture]:
    """Draw every figure into a folder."""
    directions = experiment.zhou.attrs["n_directions"]
    drawn = [
        (
            "correlations",
            "What predicts the damage, and units against random directions",
            "Left: Spearman's rank correlation of what a unit does with what the network loses "
            "without it, ranks within layers, 95% bootstrap intervals over units; open: random "
            f"orthonormal directions, at most {directions} a layer. Right: largest drop of a class "
            "by layer; median, middle half and middle 90%.",
            plot_zhou(experiment.zhou),
        ),
        (
            "curves",
            "Cumulative ablation",
            "Accuracy against the share of units of a layer that is ablated, in random orders "
            f"({experiment.morcos.attrs['n_orders']}; thick: their mean) and in order of class "
            "selectivity; clamped to zero or to each unit's mean.",
            plot_morcos(experiment.morcos),
        ),
    ]
    pictures = []
    for name, title, caption, figure in drawn:
        file = f"{stem}_{name}.png"
        figure.savefig(folder / file, dpi=_DPI, metadata={"Software": None})
        pictures.append(Picture(file, title, caption))
    return pictures


def write_page(experiment: Experiment, pictures: Sequence[Picture], table_file: str) -> str:
    """Return the page."""
    parts = [
        f"# Single-unit ablation: {experiment.model} on {data_name(experiment.data)}",
        _what_was_run(experiment),
        _claims(experiment.judgements, experiment.zhou),
        _correlations(experiment.zhou),
        _directions(experiment.zhou),
        _curves(experiment.morcos),
        f"Every unit: [{table_file}]({table_file}).",
        "## Figures",
        *(
            f"### {each.title}\n\n![{each.title}]({each.file})\n\n{each.caption}"
            for each in pictures
        ),
        "## Command\n\nFrom the root of the checkout, with WEIGHTS of a run of the other "
        f"recipe:\n\n```sh\n{experiment.command}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what_was_run(experiment: Experiment) -> str:
    zhou, morcos = experiment.zhou, experiment.morcos
    units = sum(node.sizes["unit"] for node in zhou.children.values())
    lines = [
        f"- Network: `{experiment.model}`, one trained network (weights "
        f"`{zhou.attrs['weights_fingerprint'][:12]}`), accuracy {float(zhou['accuracy']):.2%} on "
        f"{zhou.attrs['stimulus_count']:,} test images of `{data_name(experiment.data)}`. "
        f"{experiment.data_note}".rstrip(),
        f"- Ablated: every unit of {_layers(zhou)}, {units:,} in all, its activation "
        f"clamped to {zhou.attrs['mode']}; and up to {zhou.attrs['n_directions']} random "
        "orthonormal directions of each layer.",
        f"- Curves: {_layers(morcos)} on {morcos.attrs['stimulus_count']:,} test "
        f"images, {morcos.attrs['n_orders']} random orders each.",
        "- One network of one seed: intervals are over its units, and say nothing of the next "
        "training.",
    ]
    return "## What was run\n\n" + "\n".join(lines)


def _layers(tree: xr.DataTree) -> str:
    count = len(tree.children)
    return f"{count} layer{'s' * (count != 1)}"


def _claims(judgements: Sequence[Judgement], zhou: xr.DataTree) -> str:
    rows = [[each.claim, f"**{each.verdict}**", each.text] for each in judgements]
    parts = [
        "## Claims",
        "C9 and C10 are of Zhou, Sun, Bau & Torralba 2018 (arXiv:1806.02891), C11 of Morcos et al. "
        "2018 (arXiv:1803.06959). The thresholds are in "
        "`recipes/single_unit_ablation/unit_claims.py` and were set before this network was "
        "ablated. The absence of an effect is supported only if the whole interval lies within "
        "the band around 0, also in each layer. A claim of several predictions is refuted at a "
        "level corrected for their number (Bonferroni).",
        markdown_table(["claim", "verdict", ""], rows),
        _spread(zhou),
    ]
    for each in judgements:
        parts += [f"### {each.claim}: {each.verdict}", _findings(each.findings)]
    return "\n\n".join(parts)


def _spread(zhou: xr.DataTree) -> str:
    """Say how single units are spread, which a mean over units does not show."""
    words = []
    for drop in _DROPS:
        values = 100 * np.concatenate([node[drop].values for node in zhou.children.values()])
        words.append(
            f"{_DAMAGES[drop]}: median {number(float(np.median(values)), 2)} points, above 5 "
            f"points in {float((values > 5).mean()):.1%} of units"
        )
    return (
        f"Over all units, {'; '.join(words)}. The chance level of the largest drop takes every "
        "image to be equally easy to lose, and is too low where classes differ in that."
    )


def _findings(findings: Sequence[Finding]) -> str:
    headings = ["prediction", "threshold", "estimate", "95% interval", "units", "verdict"]
    rows = []
    for each in findings:
        sign = ">" if each.prediction.direction == "greater" else "<"
        rows.append(
            [
                each.prediction.name,
                f"{sign} {each.prediction.threshold:g}",
                number(each.estimate, 2),
                interval_text(each.low, each.high) or NONE,
                str(each.units),
                each.verdict,
            ]
        )
    return markdown_table(headings, rows)


def _correlations(zhou: xr.DataTree) -> str:
    rows = []
    for predictor, name in _PREDICTORS.items():
        row = [name]
        for prefix in ("", "direction_"):
            for damage in _DAMAGES:
                row.append(_correlation(zhou.to_dataset(), prefix, damage, predictor))
        rows.append(row)
    headings = [*_DAMAGES.values(), *(f"{name}, directions" for name in _DAMAGES.values())]
    return "\n\n".join(
        [
            "## What predicts the damage",
            "Spearman's rank correlation over all units, ranked within their layer [95% interval]; "
            "q after Benjamini & Hochberg over the twelve of units, and over those of directions. "
            "Units whose weights are unknown, as after a residual sum, have no norm.",
            markdown_table(["", *headings], rows),
        ]
    )


def _correlation(root: xr.Dataset, prefix: str, damage: str, predictor: str) -> str:
    name = f"{prefix}pooled_correlation"
    if name not in root:
        return NONE
    chosen = root.sel(damage=damage, predictor=predictor)
    numbers = [float(chosen[f"{name}{part}"]) for part in ("", "_low", "_high", "_q")]
    if np.isnan(numbers[0]):
        return NONE
    return f"{range_cell(numbers[:3], 2, signed=True)}, q {number(numbers[3], 3)}"


def _directions(zhou: xr.DataTree) -> str:
    root = zhou.to_dataset()
    if "unit_minus_direction" not in root:
        return ""
    rows = []
    for layer in root["layer"].values:
        row = [f"`{layer}`"]
        for damage in _DROPS:
            chosen = root.sel(layer=layer, damage=damage)
            names = [f"unit_minus_direction{part}" for part in ("", "_low", "_high")]
            gap = [100 * float(chosen[name]) for name in names]
            exceeds = number(float(chosen["unit_exceeds_direction"]), 2)
            q = number(float(chosen["unit_minus_direction_q"]), 3)
            row += [range_cell(gap, 2, signed=True), f"{exceeds}, q {q}"]
        rows.append(row)
    headings = ["layer"]
    for name in (_DAMAGES[drop] for drop in _DROPS):
        headings += [f"{name}: units less directions, points", "unit costs more"]
    return "\n\n".join(
        [
            "## Units against random directions",
            "Mean drop of the units of a layer less that of random orthonormal directions [95% "
            "interval over both], and the probability that a unit costs more than a direction, "
            "with q of Mann and Whitney's test over all layers and three damages.",
            markdown_table(headings, rows),
        ]
    )


def _curves(morcos: xr.DataTree) -> str:
    root = morcos.to_dataset()
    rows = []
    for layer in root["layer"].values:
        for clamp in root["clamp"].values:
            chosen = root.sel(layer=layer, clamp=clamp)
            row = [f"`{layer}`", str(clamp), number(float(chosen["random_auc_mean"]), 3)]
            for name in ("selective_first", "selective_last"):
                area, percentile, p, q = (
                    float(chosen[f"{name}_auc{part}"]) for part in ("", "_percentile", "_p", "_q")
                )
                row += [
                    number(area, 3),
                    f"{number(percentile, 0)}, p {number(p, 3)}, q {number(q, 3)}",
                ]
            rows.append(row)
    return "\n\n".join(
        [
            "## Cumulative ablation",
            "Area under accuracy against the share of units ablated, 0 to 1; the percentile of the "
            f"order by selectivity among {morcos.attrs['n_orders']} random orders, its two-sided "
            "p, and q over all layers and clamps.",
            markdown_table(
                [
                    "layer",
                    "clamp",
                    "random orders",
                    "most selective first",
                    "percentile",
                    "least selective first",
                    "percentile",
                ],
                rows,
            ),
        ]
    )
