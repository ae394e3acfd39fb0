"""The report that holds several networks against each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe import plots
from unitprobe.errors import OptionError
from unitprobe.plots import has, layer_values, printable, rank_correlation, unit_counts
from unitprobe.report.columns import Column, all_units, digits, make_table, percent, points, text
from unitprobe.report.findings import dead_count, selective_count, within_layer_correlation
from unitprobe.report.folder import PAGE, check_folder, csv, render, write_folder
from unitprobe.report.page import draw, open_trees

_NAN = float("nan")


@dataclass(frozen=True)
class NetworkResult:
    """What was found in one network of a comparison.

    Attributes
    ----------
    name : str
        The name in the comparison. Its own report, if any, is in the folder of this name.
    analysis, ablation : DataTree
        From `analyze` and `ablate`.
    notes : str
        A line about the network, such as how it was trained.
    """

    name: str
    analysis: xr.DataTree
    ablation: xr.DataTree
    notes: str = ""


COLUMNS = (
    Column("network", "Network", "its name", text),
    Column("accuracy", "Accuracy", "accuracy of the intact network", percent),
    Column(
        "class_selectivity",
        "Selectivity",
        "mean over units of a layer, then over layers",
        digits(3),
    ),
    Column("class_selectivity_null_mean", "Shuffled", "the same with shuffled labels", digits(3)),
    Column("class_selectivity_corrected", "Corrected", "selectivity minus shuffled", digits(3)),
    Column("selective_share", "Selective", "share of all units with q < 0.05", percent),
    Column("dead_share", "Dead", "share of all units that never respond", percent),
    Column("participation_ratio", "Particip. ratio", "mean over layers", digits(1)),
    Column("mean_accuracy_drop", "Mean drop", "of accuracy, over units, in points", points),
    Column("max_accuracy_drop", "Largest drop", "of accuracy, over units, in points", points),
    Column(
        "max_class_accuracy_drop", "Largest class drop", "over units and classes, in points", points
    ),
    Column(
        "rank_correlation", "Corr. with drop", "Spearman, selectivity and accuracy drop", digits(2)
    ),
    Column(
        "rank_correlation_class",
        "Corr. with class drop",
        "Spearman, selectivity and largest drop of a class",
        digits(2),
    ),
    Column("rank_correlation_within", "Within layers", "median over layers of the last", digits(2)),
)


def write_comparison(
    networks: Sequence[NetworkResult], out: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a page that compares networks, to browse from disk.

    Parameters
    ----------
    networks : sequence of NetworkResult
        In the order in which they are shown.
    out : path
        The folder: ``index.html``, its plot, and ``comparison.csv``, a row per network. Where a
        network has a report in the folder ``out/name``, the page links to it.
    overwrite : bool
        Write into a folder that has something in it, over an earlier comparison. Files that no
        report wrote are left alone.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OptionError
        There is no network, or two have the same name.
    StoreExistsError, StoreError, StorageError
        As `write_report`.
    """
    folder = check_folder(out, overwrite=overwrite)
    names = [network.name for network in networks]
    if not names or len(set(names)) < len(names):
        raise OptionError(f"networks are named {names}; give at least one, each of its own name")
    for network in networks:
        open_trees(network.analysis, network.ablation)
    table = comparison_table(networks)
    files: dict[str, bytes] = {"comparison.csv": csv(table)}
    picture = draw(
        lambda: plots.plot_network_comparison({one.name: one.analysis for one in networks}),
        "networks",
        "By layer",
        "Each line is a network. A line far above its dashed one means selectivity beyond chance.",
        files,
    )
    files[PAGE] = render(
        "comparison.html",
        title="Networks compared: " + ", ".join(names),
        networks=[(network, _link(folder, network.name)) for network in networks],
        findings=_findings(table),
        table=make_table(table, COLUMNS),
        pictures=[picture],
        stimuli=sorted({str(network.analysis.attrs.get("stimuli", "?")) for network in networks}),
        count=networks[0].analysis.sizes.get("stimulus", 0),
    )
    return write_folder(folder, files)


def comparison_table(networks: Sequence[NetworkResult]) -> pd.DataFrame:
    """Return a row per network; NaN where its analysis lacks the statistic."""
    return pd.DataFrame([_row(network) for network in networks])


def _row(network: NetworkResult) -> dict[str, object]:
    analysis = network.analysis
    units = all_units(analysis, network.ablation)
    total = int(unit_counts(analysis).sum())
    row: dict[str, object] = {
        "network": network.name,
        "accuracy": float(network.ablation["accuracy"]),
        "stimuli": analysis.sizes.get("stimulus", 0),
        "units": total,
    }
    for ending in ("", "_null_mean", "_corrected"):
        row[f"class_selectivity{ending}"] = _mean(analysis, f"class_selectivity{ending}")
    tested, counted = has(analysis, "class_selectivity_q"), has(analysis, "dead")
    row["selective_share"] = selective_count(analysis) / total if tested else _NAN
    row["dead_share"] = dead_count(analysis) / total if counted else _NAN
    row["participation_ratio"] = _mean(analysis, "participation_ratio")
    row["mean_accuracy_drop"] = float(units["accuracy_drop"].mean())
    row["max_accuracy_drop"] = float(units["accuracy_drop"].max())
    row["max_class_accuracy_drop"] = float(units["max_class_accuracy_drop"].max())
    if "class_selectivity" in units:
        both = units.dropna(subset=["class_selectivity", "accuracy_drop"])
        selectivity, worst = both["class_selectivity"], "max_class_accuracy_drop"
        row["rank_correlation"] = rank_correlation(selectivity, both["accuracy_drop"])
        row["rank_correlation_class"] = rank_correlation(selectivity, both[worst])
        row["rank_correlation_within"] = within_layer_correlation(both, worst)
    return row | {"notes": network.notes}


def _mean(analysis: xr.DataTree, name: str) -> float:
    """Return the mean over layers."""
    if not has(analysis, name):
        return _NAN
    values = layer_values(analysis, name)
    return _NAN if np.isnan(values).all() else float(np.nanmean(values))


def _findings(table: pd.DataFrame) -> list[str]:
    """Return which network has the most and the least of what was measured."""
    sentences = []
    for name, words, write in (
        ("class_selectivity", "Class selectivity", digits(2)),
        ("accuracy", "Accuracy", percent),
        ("participation_ratio", "The participation ratio", digits(1)),
        ("max_accuracy_drop", "The cost of the most damaging unit, in points,", points),
    ):
        known = table.dropna(subset=[name]).sort_values(name, kind="stable")
        if len(known) < 2:
            continue
        low, high = known.iloc[0], known.iloc[-1]
        sentences.append(
            f"{words} is lowest in {printable(low['network'])} ({write(low[name])}) and highest in "
            f"{printable(high['network'])} ({write(high[name])})."
        )
    return sentences


def _link(folder: Path, name: str) -> str:
    """Return the address of a network's own report, empty if there is none beside the page."""
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        return ""
    return f"{quote(name)}/{PAGE}" if (folder / name / PAGE).is_file() else ""
