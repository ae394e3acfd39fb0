"""Tables of a page: which columns, in which words, to how many digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe.analysis import layer_table, unit_table
from unitprobe.plots import has, printable

DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column: its name in the data, its heading, what it means, how a value is written."""

    name: str
    heading: str
    meaning: str
    write: Callable[[Any], str]

    @property
    def is_number(self) -> bool:
        """Whether values are numbers, which stand at the right."""
        return self.write is not text


@dataclass(frozen=True)
class Cell:
    """A value as it is shown, and as it is sorted."""

    shown: str
    sort: str


@dataclass(frozen=True)
class Table:
    """Columns and rows, ready for a page."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def text(value: Any) -> str:
    """Write a name."""
    return printable(str(value))


def digits(decimals: int) -> Callable[[Any], str]:
    """Return how to write a number with so many decimals.

    Examples
    --------
    >>> digits(2)(0.123), digits(0)(1234), digits(1)(float("nan"))
    ('0.12', '1,234', '–')
    """
    return lambda value: DASH if np.isnan(value) else f"{value:,.{decimals}f}"


def percent(value: float) -> str:
    """Write a share as percent.

    Examples
    --------
    >>> percent(0.123)
    '12.3%'
    """
    return DASH if np.isnan(value) else f"{100 * value:.1f}%"


def points(value: float) -> str:
    """Write a difference of shares in points.

    Examples
    --------
    >>> points(0.0123)
    '1.2'
    """
    # Zero has no sign.
    return DASH if np.isnan(value) else f"{100 * value + 0.0:.1f}".replace("-0.0", "0.0")


def chance(value: float) -> str:
    """Write a probability.

    Examples
    --------
    >>> chance(0.0234), chance(0.0001)
    ('0.023', '< 0.001')
    """
    if np.isnan(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


LAYER_COLUMNS = (
    Column("layer", "Layer", "its name", text),
    Column("units", "Units", "number of units", digits(0)),
    Column("class_selectivity", "Selectivity", "class selectivity, mean over units", digits(3)),
    Column(
        "class_selectivity_null_mean", "Shuffled", "the same with the labels shuffled", digits(3)
    ),
    Column("selective_share", "Selective", "share of units with q < 0.05", percent),
    Column("lifetime_sparseness", "Lifetime sp.", "its mean over units", digits(3)),
    Column(
        "population_sparseness",
        "Population sp.",
        "its mean over stimuli",
        digits(3),
    ),
    Column("dead_share", "Dead", "share of units that never respond", percent),
    Column("participation_ratio", "Particip. ratio", "in dimensions", digits(1)),
    Column("effective_rank", "Eff. rank", "in dimensions", digits(1)),
    Column("components_90", "PCs to 90%", "principal components to 90% of the variance", digits(0)),
    Column("components_95", "PCs to 95%", "principal components to 95% of the variance", digits(0)),
    Column("negative_responses", "Negative", "number of negative responses", digits(0)),
    Column("accuracy_drop", "Largest drop", "largest accuracy drop, in points", points),
    Column(
        "max_class_accuracy_drop",
        "Largest class drop",
        "largest accuracy drop of a class, in points",
        points,
    ),
)
UNIT_COLUMNS = (
    Column("rank", "Rank", "among all units of all layers", digits(0)),
    Column("layer", "Layer", "its name", text),
    Column("unit", "Unit", "its number in the layer", lambda value: f"{value:d}"),
    Column("preferred_class_name", "Preferred class", "class of the largest mean response", text),
    Column("class_selectivity", "Selectivity", "class selectivity", digits(3)),
    Column("class_selectivity_low", "Low", "lower end of its 95% interval", digits(3)),
    Column("class_selectivity_high", "High", "upper end of its 95% interval", digits(3)),
    Column("class_selectivity_null_mean", "Shuffled", "mean with the labels shuffled", digits(3)),
    Column("class_selectivity_corrected", "Corrected", "selectivity minus shuffled", digits(3)),
    Column("class_selectivity_q", "q", "false discovery rate", chance),
    Column("fraction_active", "Active", "share of stimuli it responds to", percent),
    Column("incoming_l1", "Weights in", "L1 norm of the weights into it", digits(2)),
    Column("outgoing_l1", "Weights out", "L1 norm of the weights that read it", digits(2)),
    Column("accuracy_drop", "Drop", "accuracy drop without it, in points", points),
    Column(
        "max_class_accuracy_drop",
        "Class drop",
        "largest accuracy drop of a class, in points",
        points,
    ),
)


def make_table(data: pd.DataFrame, columns: Sequence[Column]) -> Table:
    """Return the columns that the data have.

    Examples
    --------
    >>> table = make_table(pd.DataFrame({"layer": ["relu"], "units": [1024]}), LAYER_COLUMNS)
    >>> [cell.shown for cell in table.rows[0]]
    ['relu', '1,024']
    """
    present = [column for column in columns if column.name in data]
    written = [
        [Cell(column.write(value), str(value)) for value in data[column.name]] for column in present
    ]
    return Table(present, list(zip(*written, strict=True)))


def all_units(analysis: xr.DataTree, ablation: xr.DataTree | None) -> pd.DataFrame:
    """Return the units of an analysis, with the drops of an ablation where there is one."""
    table = unit_table(analysis)
    if ablation is None:
        return table
    key = ["layer", "unit"]
    # A protocol measures selectivity too; the analysis has it with its null.
    swept = unit_table(ablation)
    new = [name for name in swept if name in key or name not in table]
    return table.merge(swept[new], on=key, how="left")


def all_layers(analysis: xr.DataTree, units: pd.DataFrame) -> pd.DataFrame:
    """Return the layers of an analysis, with largest drops and number of negative responses."""
    table = layer_table(analysis)
    negative = [int(node.attrs.get("negative_responses", 0)) for node in analysis.children.values()]
    if any(negative):
        table["negative_responses"] = negative
    for name in ("accuracy_drop", "max_class_accuracy_drop"):
        if name in units:
            table[name] = table["layer"].map(units.groupby("layer")[name].max())
    return table


def most_selective(units: pd.DataFrame, analysis: xr.DataTree, count: int) -> pd.DataFrame:
    """Return the units of the highest selectivity, corrected by its null if there is one."""
    name = "class_selectivity"
    if has(analysis, f"{name}_corrected"):
        name = f"{name}_corrected"
    best = units.dropna(subset=[name]).sort_values(name, ascending=False, kind="stable")
    best.insert(0, "rank", best[name].rank(ascending=False, method="min").astype(int))
    return best.head(count)
