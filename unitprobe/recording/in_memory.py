"""A recording that is kept in memory instead of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.store import Recording
from unitprobe.store.empty_file import LONG_NAMES, root_attributes


class MemoryRecording:
    """The arrays of a recording, filled shard by shard.

    Parameters
    ----------
    recording : Recording
        What is recorded.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._unreached: Counter[str] = Counter()
        self._arrays = {
            array.layer: np.empty((len(recording.ids), *array.shape), recording.dtype)
            for array in recording.arrays
        }

    def write(
        self, start: int, arrays: Mapping[str, npt.NDArray[Any]], unreached: Mapping[str, int]
    ) -> None:
        """Take a shard: an array (stimulus, ...) by layer name, the first stimulus is `start`.

        `unreached` says how many of the stimuli did not reach a layer.
        """
        for layer, values in arrays.items():
            self._arrays[layer][start : start + len(values)] = values
        self._unreached.update(unreached)

    def tree(self) -> xr.DataTree:
        """Return the recording as `unitprobe.open_store` returns it from a file."""
        recording = self._recording
        root = xr.Dataset(
            coords={
                "stimulus": _variable("stimulus", ("stimulus",), recording.ids.astype(object)),
                "class_name": _variable(
                    "class_name", ("class_name",), np.asarray(recording.class_names, dtype=object)
                ),
                "label": _variable("label", ("stimulus",), recording.labels.astype(np.int64)),
            },
            attrs=root_attributes(recording),
        )
        nodes = {"/": root}
        for array in recording.arrays:
            attributes = dict(array.attributes)
            if self._unreached[array.layer]:
                attributes["unreached_stimuli"] = np.int64(self._unreached[array.layer])
            nodes[array.layer] = xr.Dataset(
                {array.variable: _variable(array.variable, array.dims, self._arrays[array.layer])},
                coords={"unit": _variable("unit", ("unit",), np.arange(array.units))},
                attrs=attributes,
            )
        return xr.DataTree.from_dict(nodes)


def _variable(name: str, dims: tuple[str, ...], values: npt.NDArray[Any]) -> xr.Variable:
    return xr.Variable(dims, values, attrs={"long_name": LONG_NAMES[name]})
