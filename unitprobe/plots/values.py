"""Read the statistics of a tree, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.errors import StoreError

if TYPE_CHECKING:
    pass

Floats = npt.NDArray[np.float64]


def has(tree: xr.DataTree, name: str) -> bool:
    """Return whether every layer of a tree has a variable."""
    return all(name in node.data_vars for node in tree.children.values())


def require(tree: xr.DataTree, what: str, *names: str) -> None:
    """Refuse a tree without a variable that is needed.

    Raises
    ------
    StoreError
        With the name of the variable, the first layer that lacks it, and what that layer has.
    """
    if not tree.children:
        raise StoreError(f"the {what} has no layer")
    for layer, node in tree.children.items():
        missing = [name for name in names if name not in node.data_vars]
        if missing:
            raise StoreError(
                f"the {what} has no {missing[0]!r} in layer {layer!r}, which has "
                f"{', '.join(map(str, node.data_vars)) or 'nothing'}; make it again with "
                f"{missing[0]!r} among its metrics"
            )


def unit_counts(tree: xr.DataTree) -> npt.NDArray[np.int64]:
    """Return the number of units of each layer."""
    return np.asarray([node.sizes["unit"] for node in tree.children.values()], dtype=np.int64)


def unit_values(tree: xr.DataTree, name: str) -> list[Floats]:
    """Return the finite values of a statistic, an array for each layer."""
    require(tree, "analysis", name)
    arrays = [np.asarray(node[name].values, dtype=float) for node in tree.children.values()]
    return [array[np.isfinite(array)] for array in arrays]


def layer_values(tree: xr.DataTree, name: str) -> Floats:
    """Return a statistic of each layer: its mean over what is finite, NaN if nothing is."""
    means = [values.mean() if values.size else np.nan for values in unit_values(tree, name)]
    return np.asarray(means, dtype=float)
