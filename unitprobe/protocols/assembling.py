"""The result of a protocol: an ablation tree that says which protocol made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from unitprobe.errors import LayerError


def nodes_of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return what a tree holds of each layer, by its name.

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
    """Return a tree of a protocol's results beside what the ablation says of the intact network.

    Parameters
    ----------
    ablation : DataTree
        From `unitprobe.ablate`; its root is kept.
    root : Dataset
        What holds for all layers.
    nodes : mapping of str to Dataset
        What holds for one.
    protocol : str
        Name of the protocol.
    **attributes
        What the protocol was asked for.

    Raises
    ------
    LayerError
        A layer has the name of a variable at the root.
    """
    whole = xr.merge([ablation.to_dataset(), root], combine_attrs="drop")
    for name in nodes:
        if name in whole.variables:
            raise LayerError(
                f"a layer named {name!r} cannot stand in a result of protocol {protocol!r}, where "
                f"{name!r} is something else; leave it out of layers=, or rename the module"
            )
    whole.attrs = {**ablation.attrs, "protocol": protocol, **attributes}
    return xr.DataTree.from_dict({"/": whole, **nodes})
