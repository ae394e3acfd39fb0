"""Join the shards of a recording into one self-describing netCDF-4 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np

from unitprobe.store.files import put_in_place, reserve, writing
from unitprobe.store.schema import SCHEMA_VERSION, LayerArray, Recording, compression_filter
from unitprobe.store.shards import Shards


def merge_shards(shards: Shards, recording: Recording, path: Path) -> None:
    """Write the finished file and put it in place; the shards stay until then.

    Raises
    ------
    StorageError
        There is no room for it.
    """
    partial = shards.folder / "merged.h5"
    with writing(path):
        reserve(partial, recording.file_bytes)
        with h5netcdf.File(partial, "w") as file:
            _write_root(file, recording)
            for array in recording.arrays:
                _write_layer(file, array, shards, recording)
        put_in_place(partial, path)
    shards.remove()


def _write_root(file: Any, recording: Recording) -> None:
    file.attrs["unitprobe_content"] = "recording"
    file.attrs["unitprobe_schema"] = np.int64(SCHEMA_VERSION)
    file.attrs["complete"] = np.int64(1)
    file.attrs["compression"] = recording.compression or "none"
    file.attrs["coordinates"] = "label"  # for xarray: no variable of its own
    for name, value in {**recording.provenance, **recording.contents}.items():
        # The layers are the groups of the file, and an attribute holds no more than 64 kB.
        if name != "layers":
            file.attrs[name] = value
    file.dimensions = {
        "stimulus": len(recording.ids),
        "class_name": len(recording.class_names),
    }
    text = h5py.string_dtype()
    stimulus = file.create_variable(
        "stimulus", ("stimulus",), text, data=np.asarray(recording.ids, dtype=object)
    )
    stimulus.attrs["long_name"] = "identity of the stimulus"
    names = np.asarray(list(recording.class_names), dtype=object)
    class_name = file.create_variable("class_name", ("class_name",), text, data=names)
    class_name.attrs["long_name"] = "name of the class"
    label = file.create_variable("label", ("stimulus",), np.int64, data=recording.labels)
    label.attrs["long_name"] = "class of the stimulus, an index into class_name"


def _write_layer(file: Any, array: LayerArray, shards: Shards, recording: Recording) -> None:
    group = file.create_group(array.layer)
    for name, value in array.attributes.items():
        group.attrs[name] = value
    group.dimensions = dict(zip(array.dims[1:], array.shape, strict=True))
    unit = group.create_variable("unit", ("unit",), np.int64, data=np.arange(array.units))
    unit.attrs["long_name"] = "index of the unit in its layer"
    dtype = np.dtype(recording.dtype)
    chunks = array.chunks(len(recording.ids), dtype.itemsize)
    filters = compression_filter(recording.compression)
    variable = group.create_variable(array.variable, array.dims, dtype, chunks=chunks, **filters)
    variable.attrs["long_name"] = (
        "activation pooled over positions" if array.variable == "response" else "activation"
    )
    for start, stop in shards.ranges():
        variable[start:stop] = shards.read(start, array.layer)
