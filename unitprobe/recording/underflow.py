"""Responses that are too small for float16: counted while they are recorded, and warned of once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unitprobe.errors import UnitprobeWarning
from unitprobe.typing import IntArray

# A relative error of a stored response above which it counts as too small, and the share of the
# responses of a unit, other than 0, that may be. Below 3e-6 float16 has such errors.
_ERROR = 0.01
_SHARE = 0.01

#: By layer (2, unit): the number of responses other than 0, and of those that are too small.
SmallCounts = Mapping[str, IntArray]


class UnderflowCounter:
    """Count the responses of each unit that float16 stores with a large error, or as 0."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}

    def add(self, layer: str, responses: Tensor, unit_axis: int) -> None:
        """Count in a batch of responses, before they are rounded."""
        others = [axis for axis in range(responses.ndim) if axis != unit_axis]
        rounded = responses.to(torch.float16).to(responses.dtype)
        small = (rounded - responses).abs() > _ERROR * responses.abs()
        counts = torch.stack([(responses != 0).sum(others), small.sum(others)])
        earlier = self._counts.get(layer)
        self._counts[layer] = counts if earlier is None else earlier + counts

    def counts(self) -> SmallCounts:
        """Return what was counted."""
        return {layer: counts.cpu().numpy() for layer, counts in self._counts.items()}


def warn_of_underflow(of_processes: Sequence[SmallCounts]) -> None:
    """Warn of layers with units of whose responses more than 1% are too small for float16."""
    found: dict[str, IntArray] = {}
    for counts in of_processes:
        for layer, count in counts.items():
            found[layer] = found[layer] + count if layer in found else count
    affected = {
        layer: small > _SHARE * np.maximum(nonzero, 1) for layer, (nonzero, small) in found.items()
    }
    layers = [layer for layer, units in affected.items() if units.any()]
    if not layers:
        return
    nonzero, small = found[layers[0]]
    more = f" (and in {len(layers) - 1} more layers)" if len(layers) > 1 else ""
    warnings.warn(
        f"float16 holds {int(small.sum()):,} of {int(nonzero.sum()):,} responses of layer "
        f"{layers[0]!r} other than 0 with an error above 1%, or as 0, because they are too small, "
        f"in {int(affected[layers[0]].sum()):,} of {small.size:,} units{more}; choose "
        "dtype='float32' (--dtype)",
        UnitprobeWarning,
        stacklevel=3,
    )
