"""Pictures of an experiment: what alpha does to accuracy, selectivity and their controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from recipes.selectivity_regularization.gathering import at
from unitprobe.inference import mean_over_networks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito, which colour-blind readers can tell apart.
BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#8A8A8A", "#000000"
_WIDTH = 9.0
_DPI = 100


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    file: str
    title: str
    caption: str


def draw_all(
    runs: xr.Dataset, controls: xr.Dataset | None, folder: Path, stem: str
) -> list[Picture]:
    """Draw every figure into a folder.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.
    controls : xarray.Dataset, optional
        From `controls.run_controls`; their figures are left out without it.
    folder : Path
        Where the PNG files go.
    stem : str
        How their names begin.

    Returns
    -------
    list of Picture
    """
    layers = runs.sizes["layer"]
    todo: list[tuple[str, str, str, Callable[[], Figure]]] = [
        (
            "accuracy",
            "Accuracy against alpha and selectivity",
            "Test accuracy against alpha, and against class selectivity (SI, mean over units and "
            f"then over {layers} layers, test images). One point a network, a line through the "
            "means over seeds; bars: 95% t intervals over networks where there are two or more, "
            "cut where they leave the axis.",
            lambda: _accuracy(runs),
        ),
        (
            "layers",
            "Selectivity by layer",
            "Class selectivity of each layer (mean over units, then over seeds; test images), in "
            "the order of the network. Dashed: the noise floor of the same networks, from "
            f"{runs.attrs['null_shuffles']} shuffles of the labels.",
            lambda: _by_layer(runs),
        ),
        (
            "measures",
            "Other measures beside selectivity",
            "Means over units and then layers, test images: SI less its noise floor, d-prime of "
            "its best class, mutual information of response and class, and the share of dead "
            "units. One point a network, lines and bars as above.",
            lambda: _measures(runs),
        ),
        (
            "epochs",
            "Selectivity and accuracy over training",
            "After each epoch, on validation images in evaluation mode; means over seeds.",
            lambda: _epochs(runs),
        ),
    ]
    if controls is not None:
        todo += [
            (
                "rotation",
                "Did selectivity only rotate?",
                f"From {controls.attrs['stimuli']} test images; means over seeds. Similarity to "
                "the plain network of the same seed (dashed: between plain networks of different "
                "seeds, where there are two), and the SI of the rotation of the layer that was "
                "found to show the most beyond its noise floor, on images that it was not fitted "
                "to (dotted: its noise floor).",
                lambda: _rotation(controls),
            ),
            (
                "ablation",
                "Single-unit ablation",
                f"Each unit of a layer silenced in turn, {controls.attrs['ablation_stimuli']} test "
                "images; one point a network. Left: mean of the absolute change of accuracy; "
                "middle: largest loss of accuracy by a single unit; right: mean over units of "
                "the largest loss of a class, which noise makes positive.",
                lambda: _ablation(controls),
            ),
        ]
    pictures = []
    for name, title, caption, draw in todo:
        file = f"{stem}_{name}.png"
        draw().savefig(folder / file, dpi=_DPI, metadata={"Software": None})
        pictures.append(Picture(file, title, caption))
    return pictures


def colours_of(alphas: npt.ArrayLike) -> dict[float, tuple[float, float, float]]:
    """Return a colour for each alpha: black at 0, bluer below and redder above by rank.

    Examples
    --------
    >>> colours_of([0.0])
    {0.0: (0.0, 0.0, 0.0)}
    """
    from matplotlib.colors import to_rgb

    values = sorted(np.asarray(alphas, dtype=float).tolist())
    colours = {}
    for sign, colour in ((-1, BLUE), (1, ORANGE)):
        side = sorted((value for value in values if value * sign > 0), key=abs)
        for rank, value in enumerate(side, start=1):
            # From pale to full, so that the strongest stands out and prints well.
            share = 0.35 + 0.65 * rank / len(side)
            red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
            colours[value] = (red, green, blue)
    if 0.0 in values:
        colours[0.0] = (0.0, 0.0, 0.0)
    return {value: colours[value] for value in values}


def _figure(panels: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(axis="y", color=GREY, alpha=0.25, lw=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _key(figure: Figure, ax: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        [f"alpha {label}" for label in labels],
        loc="outside upper left",
        ncols=8,
        frameon=False,
        fontsize=8,
    )


def _alpha_axis(ax: Axes, alphas: npt.NDArray[np.float64]) -> None:
    sizes = np.abs(alphas[alphas != 0])
    smallest = float(sizes.min()) if sizes.size else 1.0
    ax.set_xscale("symlog", linthresh=smallest)
    ax.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas], rotation=90 * (len(alphas) > 9))
    ax.minorticks_off()
    ax.set_xlabel("alpha (below 0 suppresses selectivity)", fontsize=8)


def _draw_by_alpha(ax: Axes, values: xr.DataArray, label: str) -> None:
    """Draw a point for each network, the means and their intervals."""
    alphas = np.asarray(values["alpha"].data, dtype=float)
    colours = colours_of(alphas)
    estimates = [mean_over_networks(at(values, alpha)) for alpha in alphas]
    ax.plot(alphas, [each.value for each in estimates], color=GREY, lw=1, zorder=1)
    for alpha, estimate in zip(alphas, estimates, strict=True):
        networks = at(values, alpha)
        ax.scatter([alpha] * len(networks), networks, s=18, color=[colours[alpha]], zorder=3)
        ax.vlines(alpha, estimate.low, estimate.high, color=[colours[alpha]], lw=1.5, zorder=2)
    _alpha_axis(ax, alphas)
    ax.set_ylabel(label, fontsize=8)
    _cut_bars(ax, float(values.min()), float(values.max()))


def _cut_bars(ax: Axes, lowest: float, highest: float) -> None:
    """End the axis near the networks: an interval of two that differ much may hide them all."""
    room = 0.15 * (highest - lowest)
    if room > 0:
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, lowest - room), min(top, highest + room))


def _accuracy(runs: xr.Dataset) -> Figure:
    figure, (left, right) = _figure(2)
    percent = 100 * runs["test_accuracy"]
    _draw_by_alpha(left, percent, "test accuracy (%)")
    for alpha, colour in colours_of(runs["alpha"]).items():
        selectivity = at(runs["mean_class_selectivity"], alpha)
        right.scatter(selectivity, at(percent, alpha), s=18, color=[colour], label=f"{alpha:g}")
    right.set_xlabel("class selectivity SI (mean over layers)", fontsize=8)
    right.set_ylabel("test accuracy (%)", fontsize=8)
    _key(figure, right)
    return figure


def _by_layer(runs: xr.Dataset) -> Figure:
    figure, (ax,) = _figure(1, 4.2)
    names = [str(name) for name in runs["layer"].data]
    places = np.arange(len(names))
    for alpha, colour in colours_of(runs["alpha"]).items():
        here = runs.sel(alpha=alpha)
        si = here["class_selectivity"].mean("seed")
        ax.plot(places, si, "o-", color=colour, ms=3, lw=1.2, label=f"{alpha:g}")
        ax.plot(
            places, here["class_selectivity_null_mean"].mean("seed"), "--", color=colour, lw=0.7
        )
    _layer_axis(ax, names)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("class selectivity SI", fontsize=8)
    _key(figure, ax)
    return figure


def _layer_axis(ax: Axes, names: list[str]) -> None:
    every = max(1, -(-len(names) // 24))
    ticks = np.arange(0, len(names), every)
    ax.set_xticks(ticks, [names[tick] for tick in ticks], rotation=60, ha="right", fontsize=7)
    ax.set_xlabel("layer", fontsize=8)


def _measures(runs: xr.Dataset) -> Figure:
    figure, axes = _figure(4, 3.2)
    labels = {
        "class_selectivity_corrected": "SI less noise floor",
        "d_prime": "d-prime",
        "mutual_information": "mutual information (bits)",
        "dead_share": "dead units (%)",
    }
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        scale = 100 if name == "dead_share" else 1
        _draw_by_alpha(ax, scale * runs[f"mean_{name}"], label)
        ax.set_xlabel("alpha", fontsize=8)
        ax.tick_params(axis="x", labelrotation=90)
    return figure


def _epochs(runs: xr.Dataset) -> Figure:
    figure, (left, right) = _figure(2)
    selectivity = runs["validation_class_selectivity"].mean("layer", skipna=False)
    accuracy = 100 * runs["validation_accuracy"]
    marker = "o-" if runs.sizes["epoch"] < 30 else "-"
    for ax, values, label in (
        (left, selectivity, "class selectivity SI (mean over layers)"),
        (right, accuracy, "validation accuracy (%)"),
    ):
        for alpha, colour in colours_of(runs["alpha"]).items():
            curve = values.sel(alpha=alpha).mean("seed")
            ax.plot(runs["epoch"], curve, marker, color=colour, ms=3, lw=1.2, label=f"{alpha:g}")
        ax.set_xlabel("epoch", fontsize=8)
        ax.set_ylabel(label, fontsize=8)
    _key(figure, right)
    return figure


def _rotation(controls: xr.Dataset) -> Figure:
    figure, axes = _figure(3, 3.8)
    names = [str(name) for name in controls["layer"].data]
    places = np.arange(len(names))
    for alpha, colour in colours_of(controls["alpha"]).items():
        here = controls.sel(alpha=alpha).mean("seed")
        style: dict[str, Any] = {"color": colour, "ms": 3, "lw": 1.2, "label": f"{alpha:g}"}
        if alpha:
            axes[0].plot(places, here["cka"], "o-", **style)
            axes[1].plot(places, here["pwcca"], "o-", **style)
        axes[2].plot(places, here["upper_bound"], "o-", **style)
        axes[2].plot(places, here["upper_bound_null"], ":", color=colour, lw=0.8)
    for ax, name in zip(axes, ("cka", "pwcca"), strict=False):
        ax.plot(places, controls[f"{name}_between_plain"], "--", color=BLACK, lw=0.9)
    labels = ("linear CKA to alpha 0", "PWCCA to alpha 0", "SI of the best rotation found")
    for ax, label in zip(axes, labels, strict=True):
        _layer_axis(ax, names)
        ax.set_ylim(0, 1.02)
        ax.set_ylabel(label, fontsize=8)
    _key(figure, axes[2])
    return figure


def _ablation(controls: xr.Dataset) -> Figure:
    figure, axes = _figure(3, 3.2)
    labels = {
        "mean_drop": "mean |accuracy change| (points)",
        "max_drop": "largest accuracy loss (points)",
        "mean_class_drop": "mean largest loss of a class (points)",
    }
    names = [str(name) for name in controls["ablated_layer"].data]
    colours = colours_of(controls["alpha"])
    shifts = np.linspace(-0.25, 0.25, len(colours)) if len(colours) > 1 else [0.0]
    for ax, (name, label) in zip(axes, labels.items(), strict=True):
        for shift, (alpha, colour) in zip(shifts, colours.items(), strict=True):
            points = 100 * controls[name].sel(alpha=alpha).transpose("seed", "ablated_layer").data
            places = np.broadcast_to(np.arange(len(names)) + shift, points.shape)
            ax.scatter(places, points, s=18, color=[colour], label=f"{alpha:g}")
        _layer_axis(ax, names)
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.set_ylabel(label, fontsize=8)
    _key(figure, axes[0])
    return figure
