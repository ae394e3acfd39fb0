"""What every protocol needs: options of the run, exact layer names, and the tree it returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

import pandas as pd
import torch
import xarray as xr

from unitprobe.ablation.settings import Method, Output
from unitprobe.errors import LayerError, OptionError
from unitprobe.layers import Layer


class RunOptions(TypedDict, total=False):
    """How the network is run; each as in `unitprobe.ablate`."""

    batch_size: int
    device: str | torch.device | None
    method: Method
    memory: int
    workers: int
    output: Output | None
    progress: bool
    keep: str | os.PathLike[str] | None


def exactly(names: Iterable[str]) -> Callable[[Layer], bool]:
    """Return a selection of the layers with these names.

    A name in a selection could be a glob, or mean blocks; a name here is only itself.

    Examples
    --------
    >>> selection = exactly(["relu"])
    """
    wanted = frozenset(names)
    return lambda layer: layer.name in wanted


def check_count(name: str, value: int, least: int) -> int:
    """Return a number if it is large enough.

    Examples
    --------
    >>> check_count("n_orders", 3, 1)
    3
    """
    if value < least:
        raise OptionError(f"{name}={value} is too few; give {least} or more")
    return value


def nodes_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return the dataset of each layer, by name.

    Examples
    --------
    >>> list(nodes_of(xr.DataTree.from_dict({"relu": xr.Dataset()})))
    ['relu']
    """
    return {str(name): node.to_dataset(inherit=False) for name, node in tree.children.items()}


def assemble(
    ablation: xr.DataTree,
    root: xr.Dataset,
    nodes: Mapping[str, xr.Dataset],
    protocol: str,
    **attributes: Any,
) -> xr.DataTree:
    """Return the tree of a protocol.

    Parameters
    ----------
    ablation : DataTree
        From `unitprobe.ablate`. Its root, about the intact network, is part of the result.
    root : Dataset
        The results over all layers.
    nodes : mapping of str to Dataset
        The results of each layer.
    protocol : str
        Name of the protocol.
    **attributes
        The options of the protocol.

    Raises
    ------
    LayerError
        A layer has the name of a variable at the root.
    """
    whole = xr.merge([ablation.to_dataset(), root], combine_attrs="drop")
    for name in nodes:
        if name in whole.variables:
            raise LayerError(
                f"layer {name!r} has the name of a variable of protocol {protocol!r}; leave the "
                "layer out with layers=, or rename the module"
            )
    whole.attrs = {**ablation.attrs, "protocol": protocol, **attributes}
    return xr.DataTree.from_dict({"/": whole, **nodes})


def table(root: xr.Dataset, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return variables, renamed, and their coordinates as the columns of a table.

    Examples
    --------
    >>> root = xr.Dataset({"difference": ("layer", [0.5])}, {"layer": ["relu"]})
    >>> table(root, {"difference": "gap"}).to_dict("list")
    {'layer': ['relu'], 'gap': [0.5]}
    """
    return root[list(columns)].rename(columns).to_dataframe().reset_index()
