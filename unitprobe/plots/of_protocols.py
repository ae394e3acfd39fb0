"""Figures of ablation protocols, one function each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.errors import StoreError
from unitprobe.plots.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    WIDTH,
    bare,
    draw_quantiles,
    head,
    legend,
    plain_label,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 6
_MOST_LABELS = 24
_DAMAGES = {
    "accuracy_drop": ("drop of accuracy", BLUE),
    "max_class_accuracy_drop": ("largest drop of a class", ORANGE),
}


def plot_zhou(tree: xr.DataTree) -> Figure:
    """Draw what predicts the damage of a unit, and the damage of units and random directions.

    Parameters
    ----------
    tree : DataTree
        From `unitprobe.protocols.zhou_protocol`.

    Returns
    -------
    Figure
        Left: Spearman's correlations with ranks within layers and their 95% intervals, for units
        (filled) and directions (open). Right: the largest drop of a class by layer; median, middle
        half and middle 90% of the units and of the directions.

    Raises
    ------
    StoreError
        The tree is not of this protocol.
    """
    root = _root(tree, "zhou")
    figure, (left, right) = _panels(2, ratios=(2, 3))
    predictors = [str(name) for name in root["predictor"].values]
    for prefix, fill, shift in (("", None, 0.0), ("direction_", "white", 0.12)):
        if f"{prefix}pooled_correlation" not in root:
            continue
        for row, (damage, (label, colour)) in enumerate(_DAMAGES.items()):
            chosen = root.sel(damage=damage)
            y = np.arange(len(predictors)) + 0.3 * row + shift - 0.2
            value, low, high = (
                chosen[f"{prefix}pooled_correlation{part}"].values for part in ("", "_low", "_high")
            )
            left.hlines(y, low, high, color=colour, lw=1.2)
            name = label if not prefix else f"{label}, directions"
            left.plot(value, y, "o", color=colour, ms=5, mfc=fill or colour, label=name)
    left.axvline(0, color=GREY, lw=0.8, zorder=0)
    left.set_yticks(range(len(predictors)), [name.replace("_", " ") for name in predictors])
    left.set_ylim(len(predictors) - 0.5, -0.5)
    left.set_xlim(-1.02, 1.02)
    left.set_xticks([-1, -0.5, 0, 0.5, 1])
    left.set_xlabel("Spearman's rank correlation within layers", fontsize=8)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=4,
        frameon=False,
        fontsize=7,
    )
    layers = list(tree.children)
    for prefix, colour, label, shift in (
        ("", ORANGE, "units", -0.15),
        ("direction_", GREY, "random directions", 0.15),
    ):
        name = f"{prefix}max_class_accuracy_drop"
        if all(name in tree[layer].to_dataset() for layer in layers):
            drops = [100 * _values(tree, layer, name) for layer in layers]
            draw_quantiles(right, drops, shift, colour, label)
    _layer_ticks(right, layers)
    right.set_ylabel("largest drop of a class (points)", fontsize=8)
    legend(right)
    head(figure, _counts(tree))
    return figure


def plot_morcos(tree: xr.DataTree, layers: Sequence[str] | None = None) -> Figure:
    """Draw accuracy against the share of ablated units, by layer and clamp.

    Parameters
    ----------
    tree : DataTree
        From `unitprobe.protocols.morcos_protocol`.
    layers : sequence of str, optional
        Which layers; a few, evenly spaced, if None.

    Returns
    -------
    Figure
        A column for each layer, and one for all layers together if they were ablated. A row for
        each clamp: random orders (grey; their mean is thick), most selective units first, least
        selective units first.

    Raises
    ------
    StoreError
        The tree is not of this protocol, or has no such layer.
    """
    root = _root(tree, "morcos")
    shown = {plain_label(layer): tree[layer].to_dataset() for layer in _chosen(tree, layers, 4)}
    if "network_random_auc" in root:
        shown["all layers together"] = _of_network(root)
    clamps = [str(clamp) for clamp in root["clamp"].values]
    figure, axes = _grid(len(clamps), len(shown))
    for row, clamp in enumerate(clamps):
        for column, (title, found) in enumerate(shown.items()):
            ax = axes[row, column]
            node = found.isel(clamp=row)
            x = 100 * node["fraction"].values
            random = 100 * node["random_accuracy"].values
            ax.plot(x, random.T, color=GREY, lw=0.5, alpha=0.4)
            ax.plot(x, random.mean(axis=0), color=GREY, lw=2, label="random orders")
            for name, colour, label in (
                ("selective_first", ORANGE, "most selective first"),
                ("selective_last", BLUE, "least selective first"),
            ):
                ax.plot(x, 100 * node[f"{name}_accuracy"], color=colour, lw=1.4, label=label)
            if row == 0:
                ax.set_title(title, fontsize=8, loc="left")
            if row == len(clamps) - 1:
                ax.set_xlabel("units ablated (%)", fontsize=8)
        axes[row, 0].set_ylabel(f"accuracy (%), clamped to {clamp}", fontsize=8)
    _below(figure, axes[0, 0])
    head(figure, _counts(tree))
    return figure


def _of_network(root: xr.Dataset) -> xr.Dataset:
    """Return the curves of all layers together, named as those of a layer."""
    names = ["fraction", "random_accuracy", "selective_first_accuracy", "selective_last_accuracy"]
    return root[[f"network_{name}" for name in names]].rename(
        {f"network_{name}": name for name in names} | {"network_point": "point"}
    )


def plot_bau(tree: xr.DataTree, layers: Sequence[str] | None = None) -> Figure:
    """Draw how well classes are recognized without their most important units, or with them alone.

    Parameters
    ----------
    tree : DataTree
        From `unitprobe.protocols.bau_protocol`.
    layers : sequence of str, optional
        Which layers; a few, evenly spaced, if None.

    Returns
    -------
    Figure
        A panel for each layer, means over the target classes: balanced accuracy of the class and
        of the others without its most important units, with these alone, and of the class with
        random units (dashed).

    Raises
    ------
    StoreError
        The tree is not of this protocol, or has no such layer.
    """
    root = _root(tree, "bau")
    chosen = _chosen(tree, layers, _MOST_PANELS)
    figure, axes = _grid(1, len(chosen))
    lines = (
        ("removed", ORANGE, "-", "class, its units removed"),
        ("removed_others", GREEN, "-", "other classes, the same removed"),
        ("random_removed", ORANGE, "--", "class, random units removed"),
        ("kept", BLUE, "-", "class, its units alone"),
        ("random_kept", BLUE, "--", "class, random units alone"),
    )
    for ax, layer in zip(axes[0], chosen, strict=True):
        node = root.sel(layer=layer)
        for name, colour, style, label in lines:
            mean = 100 * node[f"{name}_mean"]
            ax.plot(root["size"], mean, style, color=colour, marker="o", ms=3, lw=1.2, label=label)
        ax.axhline(50, color=GREY, lw=0.8, zorder=0)
        ax.set_xscale("log")
        ax.set_xlabel("units", fontsize=8)
        ax.set_title(plain_label(layer), fontsize=8, loc="left")
    axes[0, 0].set_ylabel("balanced accuracy (%)", fontsize=8)
    _below(figure, axes[0, 0])
    head(figure, f"{_counts(tree)}, {root.sizes['target_class']:,} classes")
    return figure


def plot_ranadive(tree: xr.DataTree) -> Figure:
    """Draw selectivity and the cost of the most selective units over checkpoints.

    Parameters
    ----------
    tree : DataTree
        From `unitprobe.protocols.ranadive_protocol`.

    Returns
    -------
    Figure
        A line for each layer, dark to bright with depth: mean class selectivity; drop of accuracy
        without the most selective units, less the mean drop without random ones.

    Raises
    ------
    StoreError
        The tree is not of this protocol.
    """
    from matplotlib import colormaps

    root = _root(tree, "ranadive")
    figure, (left, right) = _panels(2)
    layers = [str(layer) for layer in root["layer"].values]
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    labels = root["checkpoint"].values
    numbers = labels.dtype.kind in "iu"
    x = labels if numbers else np.arange(len(labels))
    for layer, colour in zip(layers, colours, strict=True):
        node = root.sel(layer=layer)
        style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 3, "lw": 1.2}
        left.plot(x, node["class_selectivity_mean"], label=plain_label(layer), **style)
        right.plot(x, 100 * node["difference"], **style)
    right.axhline(0, color=GREY, lw=0.8, zorder=0)
    left.set_ylabel("class selectivity, mean over units", fontsize=8)
    right.set_ylabel("drop, selective less random units (points)", fontsize=8)
    for ax in (left, right):
        ax.set_xlabel("checkpoint", fontsize=8)
        if not numbers:
            ax.set_xticks(x, [plain_label(str(label)) for label in labels], fontsize=7)
    if len(layers) <= _MOST_LABELS:
        _below(figure, left)
    head(figure, f"{_counts(tree)}, {len(labels):,} checkpoints")
    return figure


def _root(tree: xr.DataTree, protocol: str) -> xr.Dataset:
    if tree.attrs.get("protocol") != protocol:
        raise StoreError(
            f"the tree is of protocol {tree.attrs.get('protocol')!r}, not {protocol!r}; make one "
            f"with {protocol}_protocol, or unitprobe protocol {protocol}"
        )
    return tree.to_dataset()


def _chosen(tree: xr.DataTree, layers: Sequence[str] | None, most: int) -> list[str]:
    names = list(tree.children)
    if layers is None:
        indices = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round())
        return [names[int(index)] for index in indices]
    for layer in layers:
        if layer not in names:
            raise StoreError(f"the tree has no layer {layer!r}; it has {', '.join(names)}")
    return list(layers)


def _values(tree: xr.DataTree, layer: str, name: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = tree[layer].to_dataset()[name].values
    return values[~np.isnan(values)]


def _counts(tree: xr.DataTree) -> str:
    units = sum(node.sizes.get("unit", 0) for node in tree.children.values())
    stimuli = (
        f"n = {tree.attrs['stimulus_count']:,} stimuli, " if "stimulus_count" in tree.attrs else ""
    )
    layers = len(tree.children)
    return f"{stimuli}{layers:,} layer{'s' * (layers != 1)}" + (
        f", {units:,} units" if units else ""
    )


def _panels(count: int, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False, width_ratios=ratios)[0])
    for ax in axes:
        bare(ax)
    return figure, axes


def _grid(rows: int, columns: int) -> tuple[Figure, npt.NDArray[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 2.4 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in axes.ravel():
        bare(ax)
    return figure, axes


def _below(figure: Figure, ax: Axes) -> None:
    """Draw the legend of one panel below the figure."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7)


def _layer_ticks(ax: Axes, layers: Sequence[str]) -> None:
    ticks = thin(len(layers), _MOST_LABELS)
    names = [plain_label(layers[tick]) for tick in ticks]
    ax.set_xticks(ticks, names, fontsize=7, rotation=45, ha="right", rotation_mode="anchor")
