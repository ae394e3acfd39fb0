"""Parts of a figure, and names as a figure can show them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.plots.values import Floats, unit_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8A8A"
SKY, YELLOW, BLACK = "#56B4E9", "#E69F00", "#000000"
WIDTH = 9.0

_MOST_LABELS = 24


def printable(name: str) -> str:
    r"""Return a name with a replacement for every letter that HTML and SVG cannot hold.

    Examples
    --------
    >>> printable("digit\n7")
    'digit�7'
    """
    return "".join("�" if _is_unshowable(letter) else letter for letter in name)


def _is_unshowable(letter: str) -> bool:
    # Controls, halves of surrogate pairs, unassigned letters, and characters that reverse the line.
    turns = "\u202a" <= letter <= "\u202e" or "\u2066" <= letter <= "\u2069"
    return turns or unicodedata.category(letter) in ("Cc", "Cs", "Cn", "Zl", "Zp")


def plain_label(name: str, length: int = 28) -> str:
    r"""Return a name as matplotlib can show it: of one line, not too long, and not mathematics.

    Examples
    --------
    >>> print(plain_label("$x$"))
    \$x\$
    >>> plain_label("layer1.0.convolution.very_deep_inside", length=20)
    'layer1.0.…eep_inside'
    """
    shown = printable(name)
    if len(shown) > length:
        shown = f"{shown[: length // 2 - 1]}…{shown[-(length // 2) :]}"
    # A legend leaves out what begins with an underscore.
    hidden = "\N{ZERO WIDTH SPACE}" if shown.startswith("_") else ""
    return hidden + shown.replace("$", r"\$")


def n_text(analysis: xr.DataTree, *, units: bool = True) -> str:
    """Return what the numbers of a figure rest on."""
    layers, stimuli = len(analysis.children), analysis.sizes.get("stimulus")
    counts = [] if stimuli is None else [f"n = {stimuli:,} stimuli"]
    if units:
        counts += [
            f"{layers:,} layer{'s' * (layers != 1)}",
            f"{unit_counts(analysis).sum():,} units",
        ]
    return ", ".join(counts)


def head(figure: Figure, text: str) -> None:
    """Write a line above everything, at the left."""
    figure.suptitle(text, fontsize=9, x=0.01, ha="left")


def layer_figure(
    tree: xr.DataTree, *, panels: int, heights: Sequence[float] = (3.0, 1.1), named: bool = True
) -> tuple[Figure, npt.NDArray[Any]]:
    """Return a figure with one panel above the other, all with the layers along x."""
    from matplotlib.figure import Figure

    layers = list(tree.children)
    heights = heights[:panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(
        panels, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).ravel()
    ticks = thin(len(layers), _MOST_LABELS)
    labels = [plain_label(layers[tick]) if named else str(tick + 1) for tick in ticks]
    margin = 0.6 if len(layers) > 3 else 1.5
    for ax in axes:
        bare(ax)
        ax.set_xlim(-margin, len(layers) - 1 + margin)
    head(figure, n_text(tree))
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if named else {}
    axes[-1].set_xticks(ticks, labels, fontsize=8, **turned)
    axes[-1].set_xlabel("layer" if named else "position of the layer in the network")
    return figure, axes


def thin(count: int, most: int) -> list[int]:
    """Return at most so many evenly spaced indices."""
    return list(range(0, count, -(-count // most)))


def bare(ax: Axes) -> None:
    """Leave of the axes what carries information."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", color=GREY, alpha=0.25, lw=0.6)
    ax.set_axisbelow(True)


def legend(ax: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=8, borderpad=0.2
    )


def draw_quantiles(
    ax: Axes, values: Sequence[Floats], shift: float, colour: str, label: str
) -> None:
    """Draw median, middle half and middle 90% of each layer."""
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    bands = [np.quantile(layer, levels) if layer.size else np.full(5, np.nan) for layer in values]
    low, first, median, third, high = np.transpose(bands)
    x = np.arange(len(values)) + shift
    width = float(np.clip(150 / len(values), 1.2, 6))
    ax.vlines(x, low, high, color=colour, lw=width / 5 + 0.4)
    ax.vlines(x, first, third, color=colour, lw=width, alpha=0.55)
    ax.plot(x, median, "o", color=colour, ms=min(5.0, width + 0.8), label=label)


def draw_shares(ax: Axes, shares: Sequence[float], colour: str, label: str) -> None:
    """Draw a bar of percent for each layer."""
    ax.bar(np.arange(len(shares)), 100 * np.asarray(shares), width=0.6, color=colour)
    ax.set_ylim(0, 105)
    ax.set_ylabel(label)


def limit(ax: Axes, values: Floats) -> int:
    """Show 0..1, and somewhat more where values lie outside; return how many are not shown.

    Indices of signed responses are unbounded, and one unit of thousands would flatten the rest.
    """
    low, high = np.quantile(values, (0.01, 0.99)) if values.size else (0.0, 1.0)
    bottom = 0.0 if low >= 0 else max(-1.0, 1.1 * low)
    top = 1.0 if high <= 1 else min(2.0, 1.1 * high)
    ax.set_ylim(bottom - 0.02, top + 0.02)
    return int(((values < bottom - 0.02) | (values > top + 0.02)).sum())
