"""Compare a network with a baseline, such as the same architecture untrained, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe.analysis.result_tables import finite_mean
from unitprobe.errors import OptionError, StoreError, nearest
from unitprobe.inference import compare_to_baseline, false_discovery_rate
from unitprobe.metrics.registry import MEASURES, measures
from unitprobe.store import content_of

# Statistics for which the difference of two means says nothing.
_NOT_COMPARED = frozenset({"preferred_class", "dead"})
_COLUMNS = (
    "metric",
    "layer",
    "value",
    "baseline",
    "difference",
    "low",
    "high",
    "auc",
    "p",
    "q",
    "units",
    "baseline_units",
)


def compare(
    analysis: xr.DataTree,
    baseline: xr.DataTree,
    *,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the units of a network with those of a baseline.

    Every claim about a trained network needs a baseline: the same architecture untrained, shown the
    same stimuli.

    Parameters
    ----------
    analysis, baseline : xarray.DataTree
        Of the network and of the baseline, from `analyze`.
    metrics : sequence of str, optional
        Which statistics of units, by name, such as ``"gini"`` or ``"class_selectivity_corrected"``.
        If None all that both have, measures by class after correction too where both have a null.
    seed : int
        Seed of the resampled units.

    Returns
    -------
    pandas.DataFrame
        A row for each statistic and layer that both have: ``metric``, ``layer``, the means
        ``value`` and ``baseline``, their ``difference`` with the ends ``low`` and ``high`` of its
        95% interval over units, ``auc``, the chance that a unit of the network has the larger
        value, ``p`` (two-sided), ``q`` (Benjamini-Hochberg over the layers) and the numbers of
        units with a value, ``units`` and ``baseline_units``. Means and their difference leave
        infinite values out. NaN where a network has no unit with a value.

    Raises
    ------
    StoreError
        They are not two analyses of the same stimuli, are of the same weights, or share no layer.
    OptionError
        A metric is in neither, or none is in both.

    See Also
    --------
    unitprobe.inference.compare_to_baseline : How two groups of units are compared.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.analysis import compare
    >>> def network(seed):
    ...     torch.manual_seed(seed)
    ...     return torch.nn.Sequential(
    ...         torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU()
    ...     )
    >>> stimuli = up.load_stimuli("digits", limit=50)
    >>> both = [up.analyze(network(seed), stimuli, metrics=["gini"]) for seed in (0, 1)]
    >>> compare(*both)[["metric", "layer", "units", "baseline_units"]]
      metric layer  units  baseline_units
    0   gini     2      5               5
    """
    _check(analysis, baseline)
    layers = [layer for layer in analysis.children if layer in baseline.children]
    if not layers:
        near = ", ".join(nearest(next(iter(analysis.children)), baseline.children))
        raise StoreError(f"the two have no layer in common; those of the baseline are {near}")
    rows = []
    for name in _shared_metrics(analysis, baseline, layers[0], metrics):
        of_layers = []
        for layer in layers:
            ours, theirs = (
                tree.children[layer].to_dataset()[name].values for tree in (analysis, baseline)
            )
            found = compare_to_baseline(ours, theirs, seed=seed)
            of_layers.append(
                {
                    "metric": name,
                    "layer": layer,
                    "value": finite_mean(ours),
                    "baseline": finite_mean(theirs),
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "auc": found.auc,
                    "p": found.p,
                    "units": int((~np.isnan(ours)).sum()),
                    "baseline_units": int((~np.isnan(theirs)).sum()),
                }
            )
        q = false_discovery_rate(np.asarray([row["p"] for row in of_layers], dtype=np.float64))
        rows += [row | {"q": value} for row, value in zip(of_layers, q, strict=True)]
    table = pd.DataFrame(rows)
    return table[[*_COLUMNS]]


def _check(analysis: xr.DataTree, baseline: xr.DataTree) -> None:
    for tree in (analysis, baseline):
        if content_of(tree) != "analysis":
            raise StoreError(f"compare takes two analyses, and this tree holds: {content_of(tree)}")
    for what, attribute in (
        ("stimuli", "stimuli_fingerprint"),
        ("pooling", "pool"),
        ("rectification", "rectify"),
    ):
        ours, theirs = (tree.attrs.get(attribute) for tree in (analysis, baseline))
        if ours != theirs:
            raise StoreError(
                f"the network was measured with {what} {ours}, the baseline with {theirs}; "
                "compare them on the same"
            )
    weights = [tree.attrs.get("weights_fingerprint") for tree in (analysis, baseline)]
    if weights[0] is not None and weights[0] == weights[1]:
        raise StoreError(
            f"both analyses have the weights {weights[0]}; give the analysis of another network"
        )


def _shared_metrics(
    analysis: xr.DataTree, baseline: xr.DataTree, layer: str, metrics: Sequence[str] | None
) -> list[str]:
    """Return the statistics of units, by name, that both have and that are asked for."""
    here, there = (tree.children[layer].to_dataset() for tree in (analysis, baseline))
    shared = [str(name) for name in here if here[name].dims == ("unit",) and name in there]
    if metrics is None:
        known = {*MEASURES, *(f"{name}_corrected" for name in measures("class"))} - _NOT_COMPARED
        found = [name for name in shared if name in known]
    else:
        found = list(metrics)
    missing = [name for name in found if name not in shared]
    if missing or not found:
        near = ", ".join(nearest(missing[0] if missing else "class_selectivity", shared))
        raise OptionError(
            f"metric {missing[0]!r} is not a statistic of units in both; the nearest are {near}"
            if missing
            else "the two have no statistic of units in common"
        )
    return found
