"""The report of one network."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from unitprobe import plots
from unitprobe.analysis import layer_table, open_result
from unitprobe.errors import OptionError, StoreError
from unitprobe.metrics.registry import MEASURES
from unitprobe.plots import has, layer_values, require, unit_counts
from unitprobe.protocols import Protocol, protocol_of
from unitprobe.report.columns import (
    LAYER_COLUMNS,
    UNIT_COLUMNS,
    all_layers,
    all_units,
    make_table,
    most_selective,
)
from unitprobe.report.findings import describe, limits
from unitprobe.report.folder import PAGE, check_folder, csv, render, svg, write_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from unitprobe.models import Network
    from unitprobe.stimuli import Stimuli

_LISTED = 100
_TUNED = 8


@dataclass(frozen=True)
class Picture:
    """A plot as a section of a page.

    Attributes
    ----------
    title : str
        Heading of the section.
    reading : str
        How to read the plot.
    file : str
        Its path in the folder; empty if it could not be drawn.
    missing : str
        Why it could not be drawn.
    """

    title: str
    reading: str
    file: str = ""
    missing: str = ""


def write_report(
    analysis: xr.DataTree | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stimuli: Stimuli | None = None,
    model: Network | nn.Module | None = None,
    ablation: xr.DataTree | str | os.PathLike[str] | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a report to browse: a folder with a page that opens from disk.

    Parameters
    ----------
    analysis : xarray.DataTree or path
        From `analyze`, or its path. Sections whose statistics it lacks are left out, and the page
        says so.
    out : path
        The folder: ``index.html``, its plots, ``units.csv`` (a row per unit) and ``layers.csv``.
    stimuli, model : Stimuli and Network, optional
        Reserved for the images that drive a unit. No report shows them yet, so they are refused.
    ablation : xarray.DataTree or path, optional
        From `ablate` or from a protocol of `unitprobe.protocols`, of the same network.
    title : str, optional
        Heading of the page; the name of the network if None.
    overwrite : bool
        Replace the report in the folder. Files that no report wrote are left alone.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StoreExistsError
        The folder has something in it and `overwrite` is false, or a file is in the way that no
        report wrote.
    StoreError
        The trees are not an analysis and an ablation, or not of the same network.
    StorageError
        The folder cannot be written.
    OptionError
        `stimuli` or `model` is given.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> analysis = up.analyze(network, up.load_stimuli("digits", limit=50))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     up.write_report(analysis, f"{folder}/report").name
    'index.html'
    """
    for option, given in (("stimuli", stimuli), ("model", model)):
        if given is not None:
            raise OptionError(f"{option}= is not shown in a report yet; leave it out")
    folder = check_folder(out, overwrite=overwrite)
    analysis, ablation = open_trees(analysis, ablation)
    protocol_tree = ablation
    if ablation is not None and not has(ablation, "accuracy_drop"):
        ablation = None  # this protocol ablates units in sets only
    units = all_units(analysis, ablation)
    files: dict[str, bytes] = {"units.csv": csv(units), "layers.csv": csv(layer_table(analysis))}
    pictures = _pictures(analysis, ablation, files)
    if protocol_tree is not None and (protocol := protocol_of(protocol_tree)) is not None:
        pictures.append(_protocol_picture(protocol, protocol_tree, files))
    best = None
    if has(analysis, "class_selectivity"):
        best = make_table(most_selective(units, analysis, _LISTED), UNIT_COLUMNS)
    name = analysis.attrs.get("network", "a network")
    files[PAGE] = render(
        "report.html",
        title=title or str(name),
        facts=_facts(analysis, ablation),
        findings=describe(analysis, ablation, units),
        pictures=pictures,
        layers=make_table(all_layers(analysis, units), LAYER_COLUMNS),
        best=best,
        unit_count=int(unit_counts(analysis).sum()),
        corrected=has(analysis, "class_selectivity_corrected"),
        limits=limits(analysis, ablation),
        measured=_measured(analysis),
        source=_source(analysis),
        example=next(iter(analysis.children)),
    )
    return write_folder(folder, files)


def _measured(analysis: xr.DataTree) -> str:
    """Return the name of each measure in an analysis, and what it is."""
    node = next(iter(analysis.children.values()))
    names = [name for name in MEASURES if name in node]
    return "; ".join(f"{name}, {MEASURES[name].long_name}" for name in names)


def open_trees(
    analysis: xr.DataTree | str | os.PathLike[str],
    ablation: xr.DataTree | str | os.PathLike[str] | None,
) -> tuple[xr.DataTree, xr.DataTree | None]:
    """Return the trees of a report, or open their paths.

    Raises
    ------
    StoreError
        They are not an analysis and an ablation, or not of the same network.
    """
    analysis = open_result(analysis, "write_report", "analysis")
    require(analysis, "analysis")
    if ablation is None:
        return analysis, None
    ablation = open_result(ablation, "write_report(ablation=)", "ablation")
    if protocol_of(ablation) is None:
        require(ablation, "ablation", "accuracy_drop", "max_class_accuracy_drop")
    weights = [tree.attrs.get("weights_fingerprint") for tree in (analysis, ablation)]
    if None not in weights and weights[0] != weights[1]:
        raise StoreError(
            f"the analysis is of weights {weights[0]}, the ablation of {weights[1]}; "
            "give two of the same network"
        )
    return analysis, ablation


def draw(
    figure: Callable[[], Figure], name: str, title: str, reading: str, files: dict[str, bytes]
) -> Picture:
    """Draw a plot into `files`, or say why it cannot be drawn."""
    path = f"plots/{name}.svg"
    try:
        files[path] = svg(figure())
    except StoreError as error:
        return Picture(title, reading, missing=str(error))
    return Picture(title, reading, file=path)


def _pictures(
    analysis: xr.DataTree, ablation: xr.DataTree | None, files: dict[str, bytes]
) -> list[Picture]:
    bars = "Dot: median; thick: middle half; thin: middle 90%."
    beyond = ""
    if has(analysis, "class_selectivity_null_mean"):
        beyond = "Blue well above grey means units that tell classes apart beyond chance. "
    pictures = [
        draw(
            lambda: plots.plot_selectivity_by_layer(analysis),
            "selectivity",
            "Selectivity",
            f"{beyond}{bars}",
            files,
        ),
        draw(
            lambda: plots.plot_tuning(analysis, *_tuned_units(analysis)),
            "tuning",
            "Tuning curves",
            "Units at even steps of rank, from the most to the least selective of the most "
            "selective layer, so not only the best. Orange: the preferred class.",
            files,
        ),
        draw(
            lambda: plots.plot_dimensionality_by_layer(analysis),
            "dimensionality",
            "Dimensionality",
            "Few dimensions for many units mean redundant responses. The share is of the most that "
            "the units and stimuli allow.",
            files,
        ),
        draw(
            lambda: plots.plot_sparseness_by_layer(analysis),
            "sparseness",
            "Sparseness",
            "At 1 a unit responds to one stimulus (lifetime), or one unit to a stimulus "
            f"(population); at 0 all responses are alike. {bars}",
            files,
        ),
    ]
    if ablation is not None:
        swept = ablation
        pictures.append(
            draw(
                lambda: plots.plot_selectivity_against_ablation(analysis, swept),
                "ablation",
                "Selectivity and damage",
                "Each dot is a unit, silenced alone. Dots that rise to the right mean that "
                "selective units matter more.",
                files,
            )
        )
    return pictures


def _protocol_picture(protocol: Protocol, tree: xr.DataTree, files: dict[str, bytes]) -> Picture:
    figure = getattr(plots, protocol.plot)
    return draw(lambda: figure(tree), "protocol", protocol.heading, protocol.caption, files)


def _tuned_units(analysis: xr.DataTree) -> tuple[str, list[int]]:
    """Return the layer of the highest mean selectivity, and units at even steps of rank in it."""
    ending = "_corrected" if has(analysis, "class_selectivity_corrected") else ""
    means = layer_values(analysis, f"class_selectivity{ending}")
    if np.isnan(means).all():
        raise StoreError("the analysis has no unit with a 'class_selectivity'")
    layer = list(analysis.children)[int(np.nanargmax(means))]
    values = analysis.children[layer].to_dataset()["class_selectivity"].dropna("unit")
    order = values["unit"].values[np.argsort(-values.values, kind="stable")]
    steps = np.linspace(0, len(order) - 1, min(_TUNED, len(order))).round().astype(int)
    return layer, [int(unit) for unit in order[steps]]


def _facts(analysis: xr.DataTree, ablation: xr.DataTree | None) -> list[tuple[str, Any]]:
    """Return what was probed, as pairs of words and values."""
    known = analysis.attrs
    facts = [
        ("Network", known.get("network")),
        ("Weights", known.get("weights_fingerprint")),
        ("Preprocessing", known.get("preprocessing")),
        ("Pooling over positions", known.get("pool")),
        ("Stimuli", known.get("stimuli")),
        ("Counts", _counts(analysis)),
        (
            "Permutations, resamples, seed",
            _numbers(analysis, "n_permutations", "n_bootstrap", "seed"),
        ),
        ("Where responses are negative", known.get("signed")),
        ("unitprobe", known.get("unitprobe_version")),
    ]
    if ablation is not None:
        swept = int(unit_counts(ablation).sum())
        mode, method = ablation.attrs.get("mode"), ablation.attrs.get("method")
        words = f"{swept:,} units, one at a time; mode {mode}, method {method}"
        facts.insert(-1, ("Ablation", words))
    return [(words, value) for words, value in facts if value not in (None, "")]


def _counts(analysis: xr.DataTree) -> str:
    counts = {
        "stimuli": analysis.sizes.get("stimulus"),
        "classes": analysis.sizes.get("class_name"),
        "layers": len(analysis.children),
        "units": int(unit_counts(analysis).sum()),
    }
    return ", ".join(f"{count:,} {words}" for words, count in counts.items() if count is not None)


def _numbers(analysis: xr.DataTree, *names: str) -> str:
    if not all(name in analysis.attrs for name in names):
        return ""
    return ", ".join(f"{int(analysis.attrs[name]):,}" for name in names)


def _source(analysis: xr.DataTree) -> str:
    """Return the name of the file that the analysis was opened from."""
    source = analysis.to_dataset().encoding.get("source")
    return Path(source).name if source else "analysis.h5"
