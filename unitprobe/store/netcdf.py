"""Dimensions, variables and attributes of a netCDF-4 file, written through h5py.

netCDF-4 is HDF5 with conventions: a dimension is a dataset that serves as a scale, with a number
that is unique in the file, and a variable is attached to the scales of its dimensions. h5netcdf
writes the same, but searches the file at each step, which takes seconds for a thousand layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

#: The name that netCDF gives to the scale of a dimension that has no coordinates.
_NO_COORDINATES = "This is a netCDF dimension but not a netCDF variable.{:10d}"


class Dimension(NamedTuple):
    """A dimension: its scale, and its number in the file."""

    scale: h5py.Dataset
    number: int


class NetcdfWriter:
    """Adds dimensions and variables to an HDF5 file that was opened with ``track_order=True``."""

    def __init__(self, file: h5py.File) -> None:
        self._dimensions = 0
        versions = f"hdf5={h5py.version.hdf5_version},h5py={h5py.__version__}"
        file.attrs["_NCProperties"] = np.bytes_(f"version=2,{versions}")

    def coordinates(
        self, group: h5py.Group, name: str, values: npt.ArrayLike, dtype: Any
    ) -> Dimension:
        """Add a dimension with its coordinates."""
        is_text = h5py.check_string_dtype(np.dtype(dtype)) is not None
        data = np.asarray(values, dtype=object if is_text else dtype)
        scale = group.create_dataset(name, data=data, dtype=dtype, track_order=True)
        dimension = self._dimension(scale, name)
        scale.attrs["_Netcdf4Coordinates"] = np.array([dimension.number], np.int32)
        return dimension

    def dimension(self, group: h5py.Group, name: str, size: int) -> Dimension:
        """Add a dimension that has a size and no coordinates."""
        scale = group.create_dataset(name, (size,), ">f4", track_order=True)
        return self._dimension(scale, _NO_COORDINATES.format(size))

    def variable(
        self, group: h5py.Group, name: str, dims: Sequence[Dimension], dtype: Any, **options: Any
    ) -> h5py.Dataset:
        """Add a variable; `options` are those of ``create_dataset``."""
        shape = tuple(dim.scale.shape[0] for dim in dims)
        variable = group.create_dataset(name, shape, dtype, track_order=True, **options)
        for axis, dim in enumerate(dims):
            variable.dims[axis].attach_scale(dim.scale)
        variable.attrs["_Netcdf4Coordinates"] = np.array([dim.number for dim in dims], np.int32)
        variable.attrs["_Netcdf4Dimid"] = np.int32(dims[0].number)
        return variable

    def _dimension(self, scale: h5py.Dataset, name: str) -> Dimension:
        dimension = Dimension(scale, self._dimensions)
        self._dimensions += 1
        scale.attrs["_Netcdf4Dimid"] = np.int32(dimension.number)
        scale.make_scale(name)
        return dimension


def write_attributes(item: h5py.Group | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    """Write attributes as netCDF-4 has them: it knows no single numbers, but lists of one."""
    for name, value in attributes.items():
        item.attrs[name] = value if isinstance(value, str) else np.atleast_1d(value)
