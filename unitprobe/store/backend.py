"""Give a recording to xarray: the tree that it opens by itself, but soon with many layers too.

xarray's own reader asks HDF5 for the name of every dimension of every variable, and to find a name
HDF5 searches the file: the time grows with the square of the layers, a minute for 1,500. Here the
dimensions are told apart by where they stand. And a value that cannot be read because the file is
damaged is a `StoreError`, at whatever time it is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint, CachingFileManager
from xarray.backends.locks import HDF5_LOCK
from xarray.core import indexing

from unitprobe.errors import StoreError
from unitprobe.store.files import first_line
from unitprobe.store.layout import layer_groups

#: What netCDF-4 itself keeps in attributes.
_NETCDF = frozenset(
    (
        *("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS"),
        *("_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "_nc3_strict"),
    )
)


class RecordingBackend(BackendEntrypoint):
    """Opens a recording, for ``xr.open_datatree(path, engine=RecordingBackend)``."""

    description = "recordings of unitprobe"

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: Any = None,
    ) -> xr.Dataset:
        """Return the root alone."""
        return self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables)["/"]

    def open_datatree(self, filename_or_obj: Any, *, drop_variables: Any = None) -> xr.DataTree:
        """Return the whole tree."""
        groups = self.open_groups_as_dict(filename_or_obj, drop_variables=drop_variables)
        tree = xr.DataTree.from_dict(groups)
        tree.set_close(groups["/"]._close)
        return tree

    def open_groups_as_dict(
        self, filename_or_obj: Any, *, drop_variables: Any = None
    ) -> dict[str, xr.Dataset]:
        """Return the root and the layers."""
        path = Path(filename_or_obj)
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        manager = CachingFileManager(h5py.File, os.fspath(path.resolve()), mode="r")
        with HDF5_LOCK:
            file = manager.acquire()
            content = file.attrs.get("unitprobe_content")
            if content != "recording":
                manager.close()
                raise StoreError(
                    f"{path} is not a recording but holds: {content or 'something else'}; open it "
                    "with engine='h5netcdf'"
                )
            scales = {_address(file[name]): name for name in ("stimulus", "class_name")}
            root = _root(file)
            groups = {"/": root.drop_vars(dropped, errors="ignore")}
            for name, item in layer_groups(file).items():
                layer = _layer(item, name, scales, manager, path)
                groups[f"/{name}"] = layer.drop_vars(dropped, errors="ignore")
        groups["/"].set_close(manager.close)
        return groups


class _RecordedArray(BackendArray):
    """An array of a file that is read when it is indexed; goes to other processes by its path."""

    def __init__(self, manager: Any, name: str, dataset: h5py.Dataset, path: Path) -> None:
        self._manager = manager
        self._name = name
        self._path = path
        self.shape = dataset.shape
        self.dtype = dataset.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> Any:
        with HDF5_LOCK:
            try:
                return self._manager.acquire()[self._name][key]
            except Exception as error:
                raise StoreError(
                    f"{self._path} is damaged: {self._name} cannot be read "
                    f"({first_line(error)}); record it again"
                ) from error


def _root(file: h5py.File) -> xr.Dataset:
    attributes = _attributes(file)
    attributes.pop("coordinates", None)  # says that `label` is one, as it is below
    dims = {"stimulus": "stimulus", "class_name": "class_name", "label": "stimulus"}
    coordinates = {}
    for name, dim in dims.items():
        item = file[name]
        text = h5py.check_string_dtype(item.dtype)
        values = np.asarray(item.asstr()[()], dtype=str) if text else item[()]
        coordinates[name] = xr.Variable(dim, values, _attributes(item), _encoding(item, (dim,)))
    return xr.Dataset(coords=coordinates, attrs=attributes)


def _layer(
    group: h5py.Group, name: str, scales: dict[int, str], manager: Any, path: Path
) -> xr.Dataset:
    variable = "response" if "response" in group else "activation"
    array, unit = group[variable], group["unit"]
    own = {_address(item): key for key, item in group.items() if item.is_scale}
    dims = tuple((own | scales)[_address(dimension[0])] for dimension in array.dims)
    lazy = indexing.LazilyIndexedArray(_RecordedArray(manager, f"{name}/{variable}", array, path))
    encoding = _encoding(array, dims)
    return xr.Dataset(
        {variable: xr.Variable(dims, lazy, _attributes(array), encoding)},
        coords={"unit": ("unit", unit[()], _attributes(unit), _encoding(unit, ("unit",)))},
        attrs=_attributes(group),
    )


def _address(item: h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _attributes(item: h5py.HLObject) -> dict[str, Any]:
    """Return the attributes that are the user's, without those that netCDF-4 needs for itself."""
    found = {name: value for name, value in item.attrs.items() if name not in _NETCDF}
    # netCDF-4 has no single values, but lists of one.
    return {
        name: value[0] if isinstance(value, np.ndarray) and value.shape == (1,) else value
        for name, value in found.items()
    }


def _encoding(dataset: h5py.Dataset, dims: tuple[str, ...]) -> dict[str, Any]:
    chunks = dataset.chunks
    return {
        "dtype": str if h5py.check_string_dtype(dataset.dtype) else dataset.dtype,
        "contiguous": chunks is None,
        "chunksizes": chunks,
        **({"preferred_chunks": dict(zip(dims, chunks, strict=True))} if chunks else {}),
        "original_shape": dataset.shape,
        "source": dataset.file.filename,
    }
