"""The norms of the weights of units beside the statistics of their responses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from torch import Tensor, nn

from unitprobe.errors import StoreError
from unitprobe.layers import weight_norms
from unitprobe.models import Network, as_network

#: Per unit, as `unitprobe.weight_norms` names and defines them.
WEIGHT_NORMS = ("incoming_l1", "incoming_l2", "outgoing_l1", "outgoing_l2")


def add_weight_norms(
    nodes: Mapping[str, xr.Dataset], model: Network | nn.Module, example: Tensor | None = None
) -> None:
    """Add the norms of the weights into and out of each unit to the node of each layer.

    NaN where they cannot be determined, and in a layer that `example` does not reach.

    Raises
    ------
    ModelError, LayerNotFoundError
        As `unitprobe.weight_norms`.
    """
    norms = weight_norms(model, layers=lambda layer: layer.name in nodes, example=example)
    for layer, node in nodes.items():
        for name in WEIGHT_NORMS:
            unknown = np.full(node.sizes["unit"], np.nan)
            node[name] = ("unit", norms[layer][name].values if layer in norms else unknown)
            way, norm = name.split("_")
            words = f"{norm.upper()} norm of the {way} weights of the unit"
            node[name].attrs.update(long_name=words, units="1")


def check_weights(tree: xr.DataTree, model: Network | nn.Module) -> None:
    """Refuse a network that is not the one of a recording.

    Raises
    ------
    StoreError
        It has other weights.
    """
    recorded, given = tree.attrs.get("weights_fingerprint"), as_network(model).fingerprint
    if recorded != given:
        raise StoreError(
            f"the recording is of weights {recorded}, the network has {given}; give the network "
            "that was recorded"
        )
