"""Make the netCDF-4 file of a recording: names, attributes, chunks, and no numbers yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np

from unitprobe.store.schema import SCHEMA_VERSION, LayerArray, Recording, compression_filter


def write_skeleton(path: Path, recording: Recording) -> None:
    """Write the file of a recording, uncompressed, with a place for every number."""
    placed = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    placed.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    placed.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5netcdf.File(path, "w") as file:
        _write_root(file, recording, "none")
        for array in recording.arrays:
            _write_layer(file, array, recording, dcpl=placed)


def compress(source: Path, path: Path, recording: Recording) -> None:
    """Write a finished file once more, compressed as the recording says."""
    filters = compression_filter(recording.compression)
    with h5py.File(source, "r") as raw, h5netcdf.File(path, "w") as file:
        _write_root(file, recording, recording.compression or "none")
        for array in recording.arrays:
            variable = _write_layer(file, array, recording, **filters)
            numbers = raw[array.layer][array.variable]
            rows = numbers.chunks[0]
            for start in range(0, len(numbers), rows):
                variable[start : start + rows] = numbers[start : start + rows]


def variable_path(array: LayerArray) -> str:
    """Return where the array of a layer stands in the file."""
    return f"{array.layer}/{array.variable}"


def _write_root(file: Any, recording: Recording, compression: str) -> None:
    file.attrs["unitprobe_content"] = "recording"
    file.attrs["unitprobe_schema"] = np.int64(SCHEMA_VERSION)
    file.attrs["complete"] = np.int64(1)
    file.attrs["compression"] = compression
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


def _write_layer(file: Any, array: LayerArray, recording: Recording, **options: Any) -> Any:
    group = file.create_group(array.layer)
    for name, value in array.attributes.items():
        group.attrs[name] = value
    group.dimensions = dict(zip(array.dims[1:], array.shape, strict=True))
    unit = group.create_variable("unit", ("unit",), np.int64, data=np.arange(array.units))
    unit.attrs["long_name"] = "index of the unit in its layer"
    dtype = np.dtype(recording.dtype)
    chunks = array.chunks(len(recording.ids), dtype.itemsize)
    variable = group.create_variable(array.variable, array.dims, dtype, chunks=chunks, **options)
    variable.attrs["long_name"] = (
        "activation pooled over positions" if array.variable == "response" else "activation"
    )
    return variable
