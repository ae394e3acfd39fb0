"""The findings of a report in plain sentences, and their limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe.analysis import SELECTIVE_Q, selective_share
from unitprobe.plots import has, layer_values, printable, rank_correlation, unit_counts, unit_values
from unitprobe.report.columns import percent

#: The false discovery rate below which a unit is called selective.


def describe(analysis: xr.DataTree, ablation: xr.DataTree | None, units: pd.DataFrame) -> list[str]:
    """Return the summary of a network, a sentence or two for each question.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`.
    ablation : DataTree, optional
        From `ablate`.
    units : DataFrame
        Both as a table, from `unitprobe.report.columns.all_units`.
    """
    found = [_selectivity(analysis), _dead(analysis), _dimensionality(analysis)]
    if ablation is not None:
        found += [_damage(ablation, units), _prediction(units)]
    return [sentence for sentence in found if sentence]


def within_layer_correlation(units: pd.DataFrame, drop: str) -> float:
    """Return the median over layers of the rank correlation of selectivity with a drop."""
    values = [
        rank_correlation(table["class_selectivity"], table[drop])
        for _, table in units.dropna(subset=["class_selectivity", drop]).groupby("layer")
    ]
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else float("nan")


def selective_count(analysis: xr.DataTree) -> int:
    """Return the number of units with q < 0.05."""
    nodes = analysis.children.values()
    return sum(int((node["class_selectivity_q"] < SELECTIVE_Q).sum()) for node in nodes)


def dead_count(analysis: xr.DataTree) -> int:
    """Return the number of units that never respond."""
    return int(sum(values.sum() for values in unit_values(analysis, "dead")))


def _selectivity(analysis: xr.DataTree) -> str:
    if not has(analysis, "class_selectivity"):
        return ""
    if np.isnan(layer_values(analysis, "class_selectivity")).all():
        return ""
    mean = float(np.nanmean(layer_values(analysis, "class_selectivity")))
    text = f"Class selectivity is {mean:.2f} on average (over units, then over layers)"
    if not has(analysis, "class_selectivity_null_mean"):
        return (
            f"{text}. There is no null, so it is unknown how much of this is chance; analyze "
            "with n_permutations=1000."
        )
    chance = float(np.nanmean(layer_values(analysis, "class_selectivity_null_mean")))
    text = f"{text}; the same responses with shuffled labels give {chance:.2f}."
    if not has(analysis, "class_selectivity_q"):
        return text
    shares = {layer: selective_share(node) for layer, node in analysis.children.items()}
    shares = {layer: share for layer, share in shares.items() if not np.isnan(share)}
    count = selective_count(analysis)
    total = sum(analysis.children[layer].sizes["unit"] for layer in shares)
    text += (
        f" {count:,} of {total:,} units ({percent(count / total)}) are more selective than chance "
        f"(q < {SELECTIVE_Q})"
    )
    if not count:
        return f"{text}. {_least_share(int(analysis.attrs['n_permutations']))}"
    if len(shares) == 1:
        return f"{text}."
    if len(set(shares.values())) == 1:
        return f"{text}, the same share in every layer."
    return (
        f"{text}: the most in {_layers_at(shares, max(shares.values()))}, "
        f"the fewest in {_layers_at(shares, min(shares.values()))}."
    )


def _least_share(permutations: int) -> str:
    """Return what so many permutations can show: no p is below 1 / (permutations + 1)."""
    smallest = 1 / (permutations + 1)
    if smallest >= SELECTIVE_Q:
        return f"With {permutations} permutations no unit can be: analyze with n_permutations=1000."
    return (
        f"With {permutations:,} permutations no p is below {smallest:.2g}: the test finds "
        f"selective units only if they are more than {percent(smallest / SELECTIVE_Q)} of all "
        "units."
    )


def _layers_at(shares: dict[str, float], value: float) -> str:
    """Return the layers with a share, by name if they are few."""
    layers = [printable(layer) for layer, share in shares.items() if share == value]
    names = ", ".join(layers) if len(layers) <= 3 else f"{layers[0]} and {len(layers) - 1} others"
    return f"{names} ({percent(value)})"


def _dead(analysis: xr.DataTree) -> str:
    if not has(analysis, "dead"):
        return ""
    counts = {
        layer: int(values.sum())
        for layer, values in zip(analysis.children, unit_values(analysis, "dead"), strict=True)
    }
    total, dead = int(unit_counts(analysis).sum()), sum(counts.values())
    if not dead:
        return f"No unit is dead: each of the {total:,} responds to at least one stimulus."
    worst = max(counts, key=counts.__getitem__)
    return (
        f"{dead:,} of {total:,} units ({percent(dead / total)}) are dead, with no response to any "
        f"stimulus; the most in {printable(worst)} ({counts[worst]:,})."
    )


def _dimensionality(analysis: xr.DataTree) -> str:
    if not has(analysis, "participation_ratio"):
        return ""
    ratios = layer_values(analysis, "participation_ratio")
    if np.isnan(ratios).all():
        return ""
    layers, units = list(analysis.children), unit_counts(analysis)
    ends = [
        f"{ratios[index]:.1f} in {printable(layers[index])} ({units[index]:,} units)"
        for index in (int(np.nanargmin(ratios)), int(np.nanargmax(ratios)))
    ]
    if len(ratios) == 1:
        return f"The effective number of dimensions (participation ratio) is {ends[0]}."
    return (
        "The effective number of dimensions (participation ratio) runs from "
        f"{ends[0]} to {ends[1]}."
    )


def _damage(ablation: xr.DataTree, units: pd.DataFrame) -> str:
    accuracy = float(ablation["accuracy"])
    drops = units.dropna(subset=["accuracy_drop"])
    if drops.empty:
        return ""
    worst = drops.iloc[int(drops["accuracy_drop"].argmax())]
    text = (
        f"The intact network is right on {percent(accuracy)} of the stimuli. Silencing one unit "
        f"costs {100 * drops['accuracy_drop'].mean():.2f} points of accuracy on average, and at "
        f"most {100 * worst['accuracy_drop']:.1f} "
        f"(unit {worst['unit']} of {printable(worst['layer'])})"
    )
    worst = drops.iloc[int(drops["max_class_accuracy_drop"].argmax())]
    node = ablation.children[worst["layer"]].to_dataset()
    name = ""
    if "class_accuracy_drop" in node:
        of_unit = node["class_accuracy_drop"].sel(unit=worst["unit"])
        name = f" {printable(str(of_unit['class_name'].values[int(np.argmax(of_unit.values))]))}"
    return (
        f"{text}. The largest loss of one class is {100 * worst['max_class_accuracy_drop']:.1f} "
        f"points (class{name}, unit {worst['unit']} of {printable(worst['layer'])})."
    )


def _prediction(units: pd.DataFrame) -> str:
    if "class_selectivity" not in units or "accuracy_drop" not in units:
        return ""
    both = units.dropna(subset=["class_selectivity", "accuracy_drop"])
    parts, turned = [], False
    for drop, words in (
        ("accuracy_drop", "the drop of accuracy"),
        ("max_class_accuracy_drop", "the largest drop of a class"),
    ):
        overall = rank_correlation(both["class_selectivity"], both[drop])
        inside = within_layer_correlation(both, drop)
        if not np.isnan(overall):
            turned = turned or overall * inside < 0
            median = "" if np.isnan(inside) else f" (median within a layer {inside:.2f})"
            parts.append(f"{overall:.2f} with {words}{median}")
    if not parts:
        return "The correlation of selectivity with damage is unknown: too few units, or no drop."
    return (
        f"Over {len(both):,} units the rank correlation of selectivity is {' and '.join(parts)}. "
        "A value near 0 means that selectivity does not tell which units matter."
        + (
            " Signs that differ mean that the first tells layers apart, not units."
            if turned
            else ""
        )
    )


def limits(analysis: xr.DataTree, ablation: xr.DataTree | None) -> list[str]:
    """Return what a reader should know before trusting the numbers."""
    notes = []
    stimuli = analysis.sizes.get("stimulus", 0)
    smallest = 0
    if "label" in analysis.coords:
        counts = np.unique(np.asarray(analysis["label"]), return_counts=True)[1]
        smallest = int(counts.min())
        notes.append(
            f"All numbers depend on {stimuli:,} stimuli of {len(counts):,} classes, "
            f"{smallest:,} in the smallest. Selectivity, sparseness and dimensionality all change "
            "with the number of stimuli; compare only networks that were measured on the same ones."
        )
    notes.append(
        "Selectivity of noise is positive, because it compares the largest class mean with the "
        "others. It is larger for fewer stimuli of a class and for rarer responses. Compare it "
        "with the value for shuffled labels, or read the corrected value."
    )
    permutations = int(analysis.attrs.get("n_permutations", 0))
    if permutations:
        notes.append(
            f"With {permutations:,} permutations no p can be smaller than "
            f"{1 / (permutations + 1):.2g}. q is the false discovery rate over all units of all "
            "layers (Benjamini and Hochberg)."
        )
    if int(analysis.attrs.get("n_bootstrap", 0)):
        notes.append(
            "Intervals come from these stimuli, redrawn within their class. They say nothing "
            "about another network trained in the same way."
        )
    notes += _sign_limits(analysis)
    if ablation is not None:
        notes += _ablation_limits(analysis, ablation, smallest)
    return notes


def _sign_limits(analysis: xr.DataTree) -> list[str]:
    negative = {
        layer: int(node.attrs.get("negative_responses", 0))
        for layer, node in analysis.children.items()
    }
    layers = [printable(layer) for layer, count in negative.items() if count]
    if not layers:
        return []
    handled = analysis.attrs.get("signed", "allow")
    names = ", ".join(layers[:5]) + (f" and {len(layers) - 5} more" if len(layers) > 5 else "")
    meaning = {
        "allow": "the formulas were used without change, and have no bounds there",
        "rectify": "negative responses were set to 0 first",
        "shift": "each unit's smallest response was subtracted first",
        "auto": "these measures are NaN in these layers",
    }.get(handled, "negative responses were refused")
    return [
        f"{len(layers)} of {len(negative)} layers have negative responses ({names}). Selectivity "
        f"and sparseness are defined for responses that are not negative; here "
        f"(signed={handled!r}) {meaning}."
    ]


def _ablation_limits(analysis: xr.DataTree, ablation: xr.DataTree, smallest: int) -> list[str]:
    count = int(ablation.attrs.get("stimulus_count", 0))
    step = (
        f" One stimulus of the smallest class is {100 / smallest:.1f} points." if smallest else ""
    )
    notes = [
        "The largest drop over classes is biased upward: the maximum of many noisy numbers is "
        f"above 0 even where nothing is lost.{step}"
    ]
    if count:
        notes.append(
            f"Accuracy was counted on {count:,} stimuli, so that one stimulus is {100 / count:.2g} "
            "points; a smaller drop cannot be seen."
        )
    notes.append(
        "A rank correlation over units of one network has no interval here: units of one network "
        "are not independent. Several networks are needed."
    )
    seen, ablated = analysis.attrs.get("stimuli"), ablation.attrs.get("stimuli")
    if seen != ablated:
        notes.append(f"Selectivity was measured on {seen!r}, damage on {ablated!r}.")
    return notes
