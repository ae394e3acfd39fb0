"""Numbers as they stand in the tables of a page, and the table of all networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import xarray as xr

from recipes.selectivity_regularization.gathering import LAYER_MEASURES, at
from unitprobe.inference import mean_over_networks

#: Where there is no number.
NONE = "-"


def network_table(runs: xr.Dataset) -> pd.DataFrame:
    """Return one row for each network.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.

    Returns
    -------
    pandas.DataFrame
        Accuracies in 0..1; ``test_accuracy_low`` and ``_high`` are the 95% Wilson interval for
        the sampling of test images alone, not for another training; selectivity and its kin are
        means over units and layers; ``minutes`` of training, without measuring.
    """
    rows = []
    for alpha in runs["alpha"].data:
        for seed in runs["seed"].data:
            run = runs.sel(alpha=alpha, seed=seed)
            if not bool(run["finished"]):
                continue
            accuracy = float(run["test_accuracy"])
            low, high = binomial_interval(accuracy, runs.attrs["test_stimuli"])
            row = {
                "alpha": float(alpha),
                "seed": int(seed),
                "test_accuracy": accuracy,
                "test_accuracy_low": low,
                "test_accuracy_high": high,
                "validation_accuracy": float(run["validation_accuracy"][-1]),
            }
            row |= {name: float(run[f"mean_{name}"]) for name in LAYER_MEASURES}
            rows.append(row | {"minutes": float(run["seconds"].sum()) / 60})
    return pd.DataFrame(rows)


def binomial_interval(accuracy: float, stimuli: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share of independent stimuli."""
    from scipy.stats import binomtest

    interval = binomtest(round(accuracy * stimuli), stimuli).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_cell(values: xr.DataArray, alpha: float, digits: int) -> str:
    """Return the mean over the networks of an alpha, and its interval where there is one."""
    estimate = mean_over_networks(at(values, alpha))
    return range_cell([estimate.value, estimate.low, estimate.high], digits)


def range_cell(values: Sequence[float], digits: int, *, signed: bool = False) -> str:
    """Return a number and its interval, each with so many digits."""
    value, low, high = values
    shown = number(value, digits, signed=signed)
    interval = interval_text(low, high, digits)
    return f"{shown} {interval}" if interval else shown


def interval_text(low: float, high: float, digits: int = 2) -> str:
    """Return an interval, empty where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Return a number with so many digits, or `NONE`."""
    if math.isnan(value):
        return NONE
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
