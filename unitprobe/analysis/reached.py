"""Layers that some stimuli did not reach, because the path of the network depends on the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.errors import LabelError, UnitprobeWarning


def reached_layers(counts: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Return the layers that stimuli of two classes or more reached; warn of the others.

    `counts` holds how many stimuli of each class (class_name,) reached each layer.

    Raises
    ------
    LabelError
        None is left.
    """
    classes = {layer: np.count_nonzero(count) for layer, count in counts.items()}
    kept = [layer for layer in counts if classes[layer] > 1]
    if not kept:
        raise LabelError("no layer was reached by stimuli of two classes")
    if len(kept) < len(counts):
        first = next(layer for layer in counts if layer not in kept)
        warnings.warn(
            f"{len(counts) - len(kept)} of {len(counts)} layers are left out, the first {first!r}: "
            f"it was reached by {int(counts[first].sum())} stimuli of {classes[first]} classes, "
            "and selectivity needs at least two",
            UnitprobeWarning,
            stacklevel=3,
        )
    return kept


def place_stimuli(dataset: xr.Dataset, reached: npt.NDArray[np.int64], count: int) -> xr.Dataset:
    """Return `dataset` with what it has of the stimuli that reached a layer at their indices.

    NaN stands at those of the others; `count` is the number of all.
    """
    if len(reached) == count:
        return dataset
    placed = dataset.drop_dims("stimulus", errors="ignore")
    placed.attrs["unreached_stimuli"] = count - len(reached)
    for name, variable in dataset.items():
        if variable.dims == ("stimulus",):
            values = np.full(count, np.nan)
            values[reached] = variable.values
            placed[name] = ("stimulus", values)
    return placed
