"""Make the netCDF-4 file of a recording: names, attributes, chunks, and no numbers yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from unitprobe.store.netcdf import Dimension, NetcdfWriter, write_attributes
from unitprobe.store.schema import SCHEMA_VERSION, LayerArray, Recording, compression_filter

#: What each variable of a recording is, its attribute ``long_name``.
LONG_NAMES = {
    "stimulus": "identity of the stimulus",
    "class_name": "name of the class",
    "label": "class of the stimulus, an index into class_name",
    "unit": "index of the unit in its layer",
    "response": "activation pooled over positions",
    "activation": "activation",
}


def root_attributes(recording: Recording, compression: str = "none") -> dict[str, Any]:
    """Return the attributes of a finished recording."""
    # The layers are the groups of the file, and an attribute holds at most 64 kB.
    described = {**recording.provenance, **recording.contents}
    described.pop("layers", None)
    return {
        "unitprobe_content": "recording",
        "unitprobe_schema": np.int64(SCHEMA_VERSION),
        "complete": np.int64(1),
        "compression": compression,
        **described,
    }


def write_empty_file(path: Path, recording: Recording) -> None:
    """Write the file of a recording, uncompressed, with space for every number."""
    allocated = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    allocated.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    allocated.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w", track_order=True) as file:
        writer = NetcdfWriter(file)
        stimulus = _write_root(file, writer, recording, "none")
        for array in recording.arrays:
            _write_layer(file, writer, array, recording, stimulus, dcpl=allocated)


def compress(source: Path, path: Path, recording: Recording) -> None:
    """Write a finished file once more, compressed as the recording says."""
    filters = compression_filter(recording.compression)
    with h5py.File(source, "r") as raw, h5py.File(path, "w", track_order=True) as file:
        writer = NetcdfWriter(file)
        stimulus = _write_root(file, writer, recording, recording.compression or "none")
        for array in recording.arrays:
            variable = _write_layer(file, writer, array, recording, stimulus, **filters)
            numbers = raw[array.layer][array.variable]
            rows = numbers.chunks[0]
            for start in range(0, len(numbers), rows):
                variable[start : start + rows] = numbers[start : start + rows]


def variable_path(array: LayerArray) -> str:
    """Return where the array of a layer stands in the file."""
    return f"{array.layer}/{array.variable}"


def _write_root(
    file: h5py.File, writer: NetcdfWriter, recording: Recording, compression: str
) -> Dimension:
    """Write all but the layers, and return the dimension of the stimuli."""
    # For xarray "label" is a coordinate.
    write_attributes(file, {**root_attributes(recording, compression), "coordinates": "label"})
    text = h5py.string_dtype()
    stimulus = writer.coordinates(file, "stimulus", recording.ids, text)
    stimulus.scale.attrs["long_name"] = LONG_NAMES["stimulus"]
    class_name = writer.coordinates(file, "class_name", list(recording.class_names), text)
    class_name.scale.attrs["long_name"] = LONG_NAMES["class_name"]
    label = writer.variable(file, "label", [stimulus], np.int64)
    label[...] = recording.labels
    label.attrs["long_name"] = LONG_NAMES["label"]
    return stimulus


def _write_layer(
    file: h5py.File,
    writer: NetcdfWriter,
    array: LayerArray,
    recording: Recording,
    stimulus: Dimension,
    **options: Any,
) -> h5py.Dataset:
    group = file.create_group(array.layer, track_order=True)
    write_attributes(group, array.attributes)
    dims = [stimulus]
    for name, size in zip(array.dims[1:], array.shape, strict=True):
        if name == "unit":
            dims.append(writer.coordinates(group, name, np.arange(size), np.int64))
            dims[-1].scale.attrs["long_name"] = LONG_NAMES["unit"]
        else:
            dims.append(writer.dimension(group, name, size))
    dtype = np.dtype(recording.dtype)
    chunks = array.chunks(len(recording.ids), dtype.itemsize)
    variable = writer.variable(group, array.variable, dims, dtype, chunks=chunks, **options)
    variable.attrs["long_name"] = LONG_NAMES[array.variable]
    return variable
