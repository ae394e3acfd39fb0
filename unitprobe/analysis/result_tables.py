"""The result of an analysis as tables, and the statistics of all layers together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitprobe import inference
from unitprobe.errors import StoreError, UnitprobeWarning
from unitprobe.metrics.registry import (
    INTERVAL_ENDINGS,
    MEASURES,
    NULL_ENDINGS,
    measures,
    variable_attributes,
)
from unitprobe.store import content_of, open_store


def unit_table(tree: xr.DataTree | str | os.PathLike[str]) -> pd.DataFrame:
    """Return the per-unit statistics of an analysis or ablation, one row per unit of every layer.

    Parameters
    ----------
    tree : xarray.DataTree or path
        From `analyze` or `ablate`, or its path.

    Returns
    -------
    pandas.DataFrame
        ``layer``, ``unit``, and a column for each variable (unit,); ``preferred_class_name`` too.

    Raises
    ------
    StoreError
        It is another kind of tree.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> node = xr.Dataset({"gini": ("unit", np.array([0.5, 0.25]))}, coords={"unit": [0, 1]})
    >>> root = xr.Dataset(attrs={"unitprobe_content": "analysis"})
    >>> unit_table(xr.DataTree.from_dict({"/": root, "relu": node}))
      layer  unit  gini
    0  relu     0  0.50
    1  relu     1  0.25
    """
    tree = open_result(tree, "unit_table", "analysis", "ablation")
    tables = []
    for layer, node in tree.children.items():
        dataset = node.to_dataset(inherit=False)
        columns = [name for name, variable in dataset.items() if variable.dims == ("unit",)]
        table = dataset[columns].to_dataframe().reset_index()
        table.insert(0, "layer", layer)
        if "preferred_class" in table and "class_name" in tree.coords:
            names = np.append(tree.coords["class_name"].to_numpy().astype(object), "")
            position = table.columns.get_loc("preferred_class")
            assert isinstance(position, int)
            table.insert(position + 1, "preferred_class_name", names[table["preferred_class"]])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


#: A unit is selective if the q of its class selectivity is below this.
SELECTIVE_Q = 0.05
_BESIDE = (*NULL_ENDINGS, "_q", *INTERVAL_ENDINGS)


def tidy(tree: xr.DataTree | str | os.PathLike[str]) -> pd.DataFrame:
    """Return the per-unit statistics as one long table, as seaborn and R take them.

    Parameters
    ----------
    tree : xarray.DataTree or path
        From `analyze` or `ablate`, or its path.

    Returns
    -------
    pandas.DataFrame
        A row for each unit, statistic and layer: ``layer``, ``unit``, ``statistic``, ``value``.
        Where any statistic has a null, a test or an interval, there are also columns such as
        ``null_mean``, ``q``, ``corrected``, ``low`` and ``high``; NaN for statistics without them.
        Statistics that hold the index of a class, such as ``preferred_class``, are numbers too.

    Raises
    ------
    StoreError
        It is another kind of tree.

    See Also
    --------
    unit_table : The same with a column for each statistic.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> node = xr.Dataset(
    ...     {"gini": ("unit", np.array([0.5, 0.25])), "dead": ("unit", np.array([False, True]))},
    ...     coords={"unit": [0, 1]},
    ... )
    >>> root = xr.Dataset(attrs={"unitprobe_content": "analysis"})
    >>> tidy(xr.DataTree.from_dict({"/": root, "relu": node}))
      layer  unit statistic  value
    0  relu     0      gini   0.50
    1  relu     1      gini   0.25
    2  relu     0      dead   0.00
    3  relu     1      dead   1.00
    """
    tree = open_result(tree, "tidy", "analysis", "ablation")
    tables = []
    for layer, node in tree.children.items():
        dataset = node.to_dataset(inherit=False)
        columns = [str(name) for name, found in dataset.items() if found.dims == ("unit",)]
        for name in columns:
            if any(name.endswith(end) and name.removesuffix(end) in columns for end in _BESIDE):
                continue
            beside = {end[1:]: name + end for end in _BESIDE if name + end in columns}
            table = {"layer": layer, "unit": dataset["unit"], "statistic": name}
            table["value"] = dataset[name].astype(np.float64)
            tables.append(
                pd.DataFrame(table | {end: dataset[column] for end, column in beside.items()})
            )
    return pd.concat(tables, ignore_index=True)


def layer_table(tree: xr.DataTree | str | os.PathLike[str]) -> pd.DataFrame:
    """Return the per-layer summary of an analysis, one row per layer.

    Parameters
    ----------
    tree : xarray.DataTree or path
        From `analyze`, or its path.

    Returns
    -------
    pandas.DataFrame
        ``layer``, ``units``, and the mean over units of each statistic.

    Raises
    ------
    StoreError
        It is another kind of tree.

    Examples
    --------
    >>> import xarray as xr
    >>> layers = xr.Dataset({"gini": ("layer", [0.5])}, coords={"layer": ["relu"]})
    >>> layers.attrs["unitprobe_content"] = "analysis"
    >>> layer_table(xr.DataTree(layers))
      layer  gini
    0  relu   0.5
    """
    dataset = open_result(tree, "layer_table", "analysis").to_dataset()
    columns = [name for name, variable in dataset.items() if variable.dims == ("layer",)]
    return dataset[columns].to_dataframe().reset_index()


def open_result(
    tree: xr.DataTree | str | os.PathLike[str], function: str, *contents: str
) -> xr.DataTree:
    """Return a tree, or open its path, if it holds what `function` takes.

    Raises
    ------
    StoreError
        It holds none of `contents`, such as ``"analysis"``.
    """
    opened = tree if isinstance(tree, xr.DataTree) else open_store(tree)
    content = content_of(opened)
    if content not in contents:
        advice = "; analyze it first" if content == "recording" else ""
        raise StoreError(
            f"{function} takes an {' or an '.join(contents)}, and this tree holds: "
            f"{content}{advice}"
        )
    return opened


def warn_if_negative(nodes: Mapping[str, xr.Dataset], names: Sequence[str]) -> None:
    """Warn of negative responses in measures that assume none, or because of which they are NaN.

    `nodes` holds the layers, `names` the statistics.
    """
    negative = {layer: int(node.attrs["negative_responses"]) for layer, node in nodes.items()}
    layers = [layer for layer, count in negative.items() if count]
    affected = ", ".join(name for name in names if MEASURES[name].assumes_non_negative)
    if not layers or not affected:
        return
    first = nodes[layers[0]].attrs
    found = (
        f"{len(layers)} of {len(nodes)} layers have negative responses, the first {layers[0]!r} "
        f"({negative[layers[0]]:,}); {affected} assume non-negative ones and are "
    )
    if "not_computed" in first:
        found += (
            "NaN in these layers; to have them, choose signed='rectify', 'shift' or 'allow' "
            "(--signed), or set negative values to 0 before pooling with rectify=True (--rectify)"
        )
    elif first["signed"] == "allow":
        found += "unbounded here: choose signed='rectify', 'shift' or 'auto' (--signed)"
    else:
        return
    warnings.warn(found, UnitprobeWarning, stacklevel=4)


def selective_share(node: xr.Dataset | xr.DataTree) -> float:
    """Return the share of the units of a layer whose class selectivity has a q below `SELECTIVE_Q`.

    NaN if it was not computed because responses are negative.
    """
    if "class_selectivity" in str(node.attrs.get("not_computed", "")).split(", "):
        return float("nan")
    return float((node["class_selectivity_q"] < SELECTIVE_Q).mean())


def add_false_discovery_rates(nodes: Mapping[str, xr.Dataset]) -> None:
    """Add ``_q`` to every measure that has ``_p``: one family of all units of all layers."""
    ends = np.cumsum([node.sizes["unit"] for node in nodes.values()])
    for name in measures("class"):
        if not all(f"{name}_p" in node for node in nodes.values()):
            continue
        p = np.concatenate([node[f"{name}_p"].values for node in nodes.values()])
        q = inference.false_discovery_rate(p)
        for node, part in zip(nodes.values(), np.split(q, ends[:-1]), strict=True):
            node[f"{name}_q"] = ("unit", part)
            if "not_computed" in node[f"{name}_p"].attrs:
                node[f"{name}_q"].attrs["not_computed"] = node[f"{name}_p"].attrs["not_computed"]


def describe_variables(nodes: Mapping[str, xr.Dataset]) -> None:
    """Give every variable of each layer its ``long_name``, ``units`` and ``valid_range``."""
    for node in nodes.values():
        negative = node.attrs.get("signed") == "allow" and node.attrs["negative_responses"] > 0
        for name, variable in node.items():
            variable.attrs.update(variable_attributes(str(name), bounded=not negative))


def summarize_layers(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return the mean over units, or over stimuli, of every statistic, by layer.

    NaN and infinite values are left out. Where a statistic is infinite for any unit of any layer,
    ``NAME_infinite`` counts these units. ``selective_share`` is the share of units whose class
    selectivity has a q below 0.05.
    """
    first = next(iter(nodes.values()))
    summary = xr.Dataset(coords={"layer": np.asarray(list(nodes), dtype=object)})
    summary["units"] = ("layer", [node.sizes["unit"] for node in nodes.values()])
    for name, variable in first.items():
        is_class = str(name) == "preferred_class" or str(name).endswith("_class")
        if is_class or variable.dims == ("unit", "class_name"):
            continue
        values = [finite_mean(node[name].values) for node in nodes.values()]
        summary["dead_share" if name == "dead" else name] = ("layer", np.asarray(values))
        if name != "dead":
            summary[name].attrs.update(_attributes_of_mean(variable))
            summary[name].attrs.pop("not_computed", None)
            missing = sum("not_computed" in node[name].attrs for node in nodes.values())
            if missing:
                summary[name].attrs["not_computed"] = (
                    f"in {missing} of {len(nodes)} layers, because responses are negative"
                )
        infinite = [int(np.isinf(node[name].values).sum()) for node in nodes.values()]
        if any(infinite):
            summary[f"{name}_infinite"] = ("layer", np.asarray(infinite))
            long_name = variable.attrs.get("long_name", name)
            summary[f"{name}_infinite"].attrs.update(
                long_name=f"{long_name}, number of infinite values left out of the mean", units="1"
            )
    if "class_selectivity_q" in first:
        significant = [selective_share(node) for node in nodes.values()]
        summary["selective_share"] = ("layer", np.asarray(significant))
    for name in ("units", "dead_share", "selective_share"):
        if name in summary:
            summary[name].attrs.update(variable_attributes(name))
    return summary


def _attributes_of_mean(variable: xr.DataArray) -> dict[str, Any]:
    over = {"unit": ", mean over units", "stimulus": ", mean over stimuli"}
    attributes = dict(variable.attrs)
    if "long_name" in attributes:
        attributes["long_name"] += over.get(str(variable.dims[0]) if variable.dims else "", "")
    return attributes


def finite_mean(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Return the mean without NaN and infinite values; NaN if none is left."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
