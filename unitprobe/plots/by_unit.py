"""Single units: what each responds to, and what the network loses without it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe.analysis import unit_table
from unitprobe.errors import OptionError, StoreError, nearest
from unitprobe.plots.drawing import (
    BLUE,
    GREY,
    ORANGE,
    WIDTH,
    bare,
    head,
    n_text,
    plain_label,
    thin,
)
from unitprobe.plots.values import Floats, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 30
_MOST_VECTOR_POINTS = 2000


def plot_tuning(analysis: xr.DataTree, layer: str, units: Sequence[int]) -> Figure:
    """Draw tuning curves of some units of a layer, each with its rank among all its units.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`, with ``tuning_curve``, ``class_selectivity`` and ``preferred_class``; the
        interval of the selectivity is shown if there is one.
    layer : str
        Name of the layer.
    units : sequence of int
        Which units, as the coordinate ``unit`` names them.

    Raises
    ------
    OptionError
        No unit is asked for.
    StoreError
        The analysis has no such layer, unit or statistic.
    """
    if layer not in analysis.children:
        near = ", ".join(nearest(layer, analysis.children))
        raise StoreError(f"the analysis has no layer {layer!r}; the nearest are {near}")
    require(analysis, "analysis", "tuning_curve", "class_selectivity", "preferred_class")
    node = analysis.children[layer].to_dataset()
    if any(isinstance(unit, bool) or not isinstance(unit, Integral) for unit in units):
        raise OptionError(f"units={units!r} must be integers, such as [0, 1]")
    units = [int(unit) for unit in units]
    if not units:
        raise OptionError("units=[] asks for no tuning curve; name at least one unit")
    missing = [unit for unit in units if unit not in node["unit"].values]
    if missing:
        raise StoreError(f"layer {layer!r} has no unit {missing[0]} among {node.sizes['unit']:,}")
    from matplotlib.figure import Figure

    columns = min(4, len(units))
    rows = -(-len(units) // columns)
    figure = Figure(figsize=(max(3.0, 2.35 * columns), 2.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    names = [plain_label(str(name)) for name in node["class_name"].values]
    for ax, unit in zip(axes, units, strict=False):
        chosen = node.sel(unit=unit)
        preferred = int(chosen["preferred_class"])
        _draw_curve(ax, np.asarray(chosen["tuning_curve"].values, float), preferred, names)
        ax.set_title(_unit_title(node, unit, names), fontsize=8)
    for ax in axes[len(units) :]:
        ax.set_visible(False)
    figure.supylabel("mean response", fontsize=9)
    head(figure, f"{plain_label(layer, 60)}, {n_text(analysis)}")
    return figure


def plot_selectivity_against_ablation(analysis: xr.DataTree, ablation: xr.DataTree) -> Figure:
    """Draw class selectivity of each unit against what the network loses without it.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`, with ``class_selectivity``.
    ablation : DataTree
        From `ablate`, of the same network.

    Returns
    -------
    Figure
        Left the drop of accuracy, right the largest drop of a class, over all units in both trees,
        coloured by layer, with Spearman's rank correlation over all of them.

    Raises
    ------
    StoreError
        A statistic is missing, or the trees have no unit in common.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    table = selectivity_and_damage(analysis, ablation)
    layers = list(dict.fromkeys(table["layer"]))
    colours = colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    depth = table["layer"].map({layer: position for position, layer in enumerate(layers)})
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    drops = {
        "accuracy_drop": "accuracy drop",
        "max_class_accuracy_drop": "largest accuracy drop of a class",
    }
    for ax, (name, label) in zip(axes, drops.items(), strict=True):
        ax.scatter(
            table["class_selectivity"],
            100 * table[name],
            c=colours[depth],
            s=12,
            alpha=0.7,
            linewidths=0,
            rasterized=len(table) > _MOST_VECTOR_POINTS,
        )
        rho = rank_correlation(table["class_selectivity"], table[name])
        known = "undefined" if np.isnan(rho) else f"{rho:.2f}"
        ax.set_title(
            f"Spearman rank correlation {known}, n = {len(table):,} units", fontsize=9, loc="left"
        )
        ax.set_xlabel("class selectivity")
        ax.set_ylabel(f"{label} (points)")
        ax.axhline(0, color=GREY, lw=0.8, zorder=0)
        bare(ax)
    if len(layers) > 1:
        scale = ScalarMappable(cmap=ListedColormap(colours))
        scale.set_clim(-0.5, len(layers) - 0.5)
        ticks = thin(len(layers), 10)
        bar = figure.colorbar(scale, ax=axes, ticks=ticks, aspect=30)
        bar.ax.set_yticklabels([plain_label(layers[tick]) for tick in ticks], fontsize=7)
        bar.outline.set_visible(False)
    return figure


def selectivity_and_damage(analysis: xr.DataTree, ablation: xr.DataTree) -> pd.DataFrame:
    """Return ``class_selectivity`` and both accuracy drops of all units that have all three.

    Raises
    ------
    StoreError
        A statistic is missing, or the trees have no such unit in common.
    """
    require(analysis, "analysis", "class_selectivity")
    require(ablation, "ablation", "accuracy_drop", "max_class_accuracy_drop")
    key, drops = ["layer", "unit"], ["accuracy_drop", "max_class_accuracy_drop"]
    measured = unit_table(analysis)[[*key, "class_selectivity"]]
    table = measured.merge(unit_table(ablation)[[*key, *drops]], on=key).dropna()
    if table.empty:
        raise StoreError(
            f"the analysis ({', '.join(nearest('', analysis.children, 3))}) and the ablation "
            f"({', '.join(nearest('', ablation.children, 3))}) share no unit with a selectivity"
        )
    return table.reset_index(drop=True)


def rank_correlation(x: pd.Series[Any], y: pd.Series[Any]) -> float:
    """Return Spearman's rank correlation; NaN if one is constant or there are fewer than three.

    Examples
    --------
    >>> rank_correlation(pd.Series([0.1, 0.2, 0.3]), pd.Series([1, 4, 9]))
    1.0
    """
    from scipy.stats import spearmanr

    if len(x) < 3 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def _draw_curve(ax: Axes, curve: Floats, preferred: int, names: Sequence[str]) -> None:
    bare(ax)
    x = np.arange(len(curve))
    if len(curve) <= _MOST_BARS:
        colours = [ORANGE if position == preferred else BLUE for position in x]
        ax.bar(x, curve, color=colours, width=0.75)
        longest = max(map(len, names))
        angle = 0 if longest * len(names) <= 20 else 90
        ax.set_xticks(x, names, fontsize=6, rotation=angle)
        return
    ax.plot(x, curve, color=BLUE, lw=0.8)
    if preferred >= 0:
        ax.plot(preferred, curve[preferred], "o", color=ORANGE, ms=4)
    ax.set_xlabel(f"class, 0 to {len(curve) - 1}", fontsize=7)


def _unit_title(node: xr.Dataset, unit: int, names: Sequence[str]) -> str:
    chosen = node.sel(unit=unit)
    value, preferred = float(chosen["class_selectivity"]), int(chosen["preferred_class"])
    if np.isnan(value):
        return f"unit {unit}: no selectivity\n(it never responds)"
    interval = ""
    if "class_selectivity_low" in node:
        low, high = (float(chosen[f"class_selectivity_{end}"]) for end in ("low", "high"))
        interval = f" [{low:.2f}, {high:.2f}]"
    rank = 1 + int((node["class_selectivity"] > value).sum())
    best = names[preferred] if preferred >= 0 else "none"
    return f"unit {unit}: {best}\nSI {value:.2f}{interval}\nrank {rank:,} of {node.sizes['unit']:,}"
