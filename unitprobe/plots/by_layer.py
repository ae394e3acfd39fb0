"""How a statistic changes from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from unitprobe.analysis import selective_share
from unitprobe.errors import OptionError
from unitprobe.plots.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
    draw_quantiles,
    draw_shares,
    head,
    layer_figure,
    legend,
    limit,
    n_text,
    plain_label,
)
from unitprobe.plots.values import has, layer_values, require, unit_counts, unit_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NETWORK_COLOURS = (ORANGE, BLACK, BLUE, GREEN, PURPLE, YELLOW, SKY)
_MARKERS = "osD^vPX"


def plot_selectivity_by_layer(analysis: xr.DataTree) -> Figure:
    """Draw class selectivity of the units of each layer, beside that of shuffled labels.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`, with ``class_selectivity``. With a null, its mean per unit and the share of
        units with q < 0.05 are drawn too.

    Returns
    -------
    Figure
        Per layer the median unit (dot), the middle half (thick) and the middle 90% (thin).

    Raises
    ------
    StoreError
        A statistic is not in the analysis.
    """
    measured = unit_values(analysis, "class_selectivity")
    tested = has(analysis, "class_selectivity_q")
    figure, axes = layer_figure(analysis, panels=2 if tested else 1)
    if has(analysis, "class_selectivity_null_mean"):
        null = unit_values(analysis, "class_selectivity_null_mean")
        draw_quantiles(axes[0], measured, -0.17, BLUE, "measured")
        draw_quantiles(axes[0], null, 0.17, GREY, "shuffled labels, mean of each unit")
    else:
        draw_quantiles(axes[0], measured, 0.0, BLUE, "measured")
    outside = limit(axes[0], np.concatenate(measured))
    axes[0].set_ylabel("class selectivity" + (f"\n({outside:,} units outside)" if outside else ""))
    legend(axes[0])
    if tested:
        shares = [selective_share(node) for node in analysis.children.values()]
        draw_shares(axes[1], shares, BLUE, "units with\nq < 0.05 (%)")
    return figure


def plot_dimensionality_by_layer(analysis: xr.DataTree) -> Figure:
    """Draw the dimensionality of each layer, as a number and as a share of the most possible.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`, with ``participation_ratio``, ``effective_rank``, ``components_90`` and
        ``components_95``.

    Returns
    -------
    Figure
        The share is of min(stimuli, units).

    Raises
    ------
    StoreError
        A statistic is not in the analysis.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    measures = {
        "components_95": ("components to 95%", BLUE, "s"),
        "components_90": ("components to 90%", SKY, "D"),
        "effective_rank": ("effective rank", GREEN, "^"),
        "participation_ratio": ("participation ratio", ORANGE, "o"),
    }
    require(analysis, "analysis", *measures)
    units = unit_counts(analysis)
    most = np.minimum(units, analysis.sizes.get("stimulus", np.inf))
    figure, axes = layer_figure(analysis, panels=2, heights=(3.0, 2.2))
    x = np.arange(len(units))
    axes[0].step(x, units, where="mid", color=GREY, lw=1, label="units", marker="_")
    for name, (label, colour, marker) in measures.items():
        values = layer_values(analysis, name)
        axes[0].plot(x, values, color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
        axes[1].plot(x, 100 * values / most, color=colour, marker=marker, ms=3.5, lw=1.2)
    axes[0].set_yscale("log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylim(bottom=0.9)
    axes[0].set_ylabel("dimensions (log scale)")
    axes[1].set_ylabel("share of the\nmost possible (%)")
    axes[1].set_ylim(0, 105)
    legend(axes[0])
    return figure


def plot_sparseness_by_layer(analysis: xr.DataTree) -> Figure:
    """Draw lifetime and population sparseness of each layer, and its share of dead units.

    Parameters
    ----------
    analysis : DataTree
        From `analyze`, with ``lifetime_sparseness`` (unit), ``population_sparseness`` (stimulus)
        and ``dead`` (unit).

    Returns
    -------
    Figure
        Median (dot), middle half (thick) and middle 90% (thin) over units and over stimuli.

    Raises
    ------
    StoreError
        A statistic is not in the analysis.
    """
    require(analysis, "analysis", "lifetime_sparseness", "population_sparseness", "dead")
    lifetime = unit_values(analysis, "lifetime_sparseness")
    population = unit_values(analysis, "population_sparseness")
    figure, axes = layer_figure(analysis, panels=2)
    draw_quantiles(axes[0], lifetime, -0.17, GREEN, "lifetime, over units")
    draw_quantiles(axes[0], population, 0.17, PURPLE, "population, over stimuli")
    limit(axes[0], np.concatenate([*lifetime, *population]))
    axes[0].set_ylabel("sparseness")
    legend(axes[0])
    dead = [float(np.mean(values)) for values in unit_values(analysis, "dead")]
    draw_shares(axes[1], dead, GREY, "dead\nunits (%)")
    return figure


def plot_network_comparison(summaries: Mapping[str, xr.DataTree]) -> Figure:
    """Draw selectivity and dimensionality by layer, a line for each network.

    Parameters
    ----------
    summaries : mapping of str to DataTree
        The analysis of each network by its name, with ``class_selectivity`` and
        ``participation_ratio``.

    Returns
    -------
    Figure
        Layers are named if they are the same in all networks, otherwise numbered. The mean of
        the null is dashed.

    Raises
    ------
    OptionError
        There is no network.
    StoreError
        A statistic is not in one of the analyses.
    """
    if not summaries:
        raise OptionError("summaries={} has no network to compare; give at least one analysis")
    for analysis in summaries.values():
        require(analysis, "analysis", "class_selectivity", "participation_ratio")
    longest = max(summaries.values(), key=lambda analysis: len(analysis.children))
    same = all(list(tree.children) == list(longest.children) for tree in summaries.values())
    figure, axes = layer_figure(longest, panels=2, heights=(2.6, 2.6), named=same)
    head(figure, n_text(longest, units=False))
    for position, (name, analysis) in enumerate(summaries.items()):
        colour = _NETWORK_COLOURS[position % len(_NETWORK_COLOURS)]
        style: dict[str, Any] = {"color": colour, "lw": 1.4, "ms": 4}
        style["marker"] = _MARKERS[position % len(_MARKERS)]
        selectivity = layer_values(analysis, "class_selectivity")
        label = f"{plain_label(name)} ({unit_counts(analysis).sum():,} units)"
        axes[0].plot(selectivity, label=label, **style)
        if has(analysis, "class_selectivity_null_mean"):
            null = layer_values(analysis, "class_selectivity_null_mean")
            axes[0].plot(null, color=colour, lw=1, ls=(0, (3, 2)), alpha=0.7)
        axes[1].plot(layer_values(analysis, "participation_ratio"), **style)
    axes[0].set_ylabel("mean class selectivity\n(dashed: shuffled labels)")
    axes[1].set_ylabel("participation ratio\n(dimensions)")
    for ax in axes:
        ax.set_ylim(min(0.0, ax.get_ylim()[0]), ax.get_ylim()[1])
    legend(axes[0])
    return figure
