"""Open a unitprobe file, and save the results of an analysis as one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from unitprobe.errors import OptionError, StoreError, StoreNotFoundError
from unitprobe.store.backend import RecordingBackend
from unitprobe.store.checksum_footer import write_footer
from unitprobe.store.files import (
    check_output,
    first_line,
    put_in_place,
    reading,
    reserve,
    writing,
)
from unitprobe.store.layout import layer_groups
from unitprobe.store.partial import folder_of
from unitprobe.store.schema import SCHEMA_VERSION, compression_filter
from unitprobe.store.shards import read_manifest, read_markers

CONTENTS = ("recording", "analysis", "ablation")


def open_store(
    path: str | os.PathLike[str], *, chunks: int | str | Mapping[Any, Any] | None = None
) -> xr.DataTree:
    """Open a recording, or the saved result of an analysis or ablation, lazily.

    Nothing but the numbers that are asked for is read, and nothing in the file is ever executed.

    Parameters
    ----------
    path : path
        The file.
    chunks : int, str or mapping, optional
        ``"auto"`` gives dask arrays in the chunks of the file (needs the extra ``dask``).

    Returns
    -------
    xarray.DataTree
        A recording has the coordinates ``stimulus``, ``label`` (stimulus) and ``class_name`` at
        its root and a node per layer with ``response`` (stimulus, unit) or ``activation``.

    Raises
    ------
    StoreNotFoundError
        There is no such file; if its recording is unfinished, the message says how far it is.
    StoreError
        The file is damaged, or not one of unitprobe's.
    OptionError
        `chunks` is given without dask, or the file is compressed and hdf5plugin is not installed.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = up.record(network, up.load_stimuli("digits", limit=20), f"{folder}/store.h5")
    ...     with up.open_store(f"{folder}/store.h5") as tree:
    ...         print(tree["2"]["response"].dims, tree.attrs["pool"])
    ('stimulus', 'unit') mean
    """
    target = Path(path)
    content = check_store(target)
    engine: Any = RecordingBackend if content == "recording" else "h5netcdf"
    try:
        return xr.open_datatree(target, engine=engine, chunks=chunks)
    except ImportError as error:
        raise OptionError(
            f"chunks={chunks!r} needs dask: python -m pip install 'unitprobe[dask]' ({error})"
        ) from error
    except Exception as error:
        raise StoreError(f"{target} is damaged: {first_line(error)}; record it again") from error


def save_tree(tree: xr.DataTree, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Save the result of `analyze` or `ablate` as one netCDF-4 file, whole or not at all.

    Raises
    ------
    StoreExistsError
        The path exists and `overwrite` is false.
    StorageError
        It cannot be written.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> tree = xr.DataTree(xr.Dataset({"loss": 0.5}, attrs={"unitprobe_content": "ablation"}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_tree(tree, f"{folder}/ablation.h5")
    ...     float(open_store(path)["loss"])
    0.5
    """
    target = check_output(path, overwrite=overwrite)
    partial = target.with_name(f"{target.name}.tmp")
    with writing(target):
        reserve(partial, 2 * tree.nbytes + 2**20)
        try:
            tree.to_netcdf(partial, engine="h5netcdf")
            write_footer(partial)
            put_in_place(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def content_of(tree: xr.DataTree) -> str:
    """Return what a tree holds: ``"recording"``, ``"analysis"`` or ``"ablation"``.

    Raises
    ------
    StoreError
        It was not written by unitprobe.
    """
    content = tree.attrs.get("unitprobe_content")
    if content not in CONTENTS:
        raise StoreError(
            "the tree is not one of unitprobe's (attribute unitprobe_content is "
            f"{content!r}); open one with open_store, or make one with record, analyze or ablate"
        )
    return str(content)


def check_store(path: Path) -> str:
    """Return what a file holds, as `content_of` says it, or refuse it.

    Raises
    ------
    StoreNotFoundError, StoreError, OptionError
        As `open_store`.
    """
    if not path.exists():
        raise StoreNotFoundError(_why_missing(path))
    if path.parent.name.endswith(".partial") and path.name in ("data", "compressed"):
        raise StoreError(f"{path} is unfinished; run the same recording again to go on")
    with reading(path) as file:
        content = str(file.attrs.get("unitprobe_content"))
        compression = str(file.attrs.get("compression", "none"))
        schema = int(np.ravel(file.attrs.get("unitprobe_schema", SCHEMA_VERSION))[0])
        if content == "recording":
            _check_recording(path, file)
    if content not in CONTENTS:
        raise StoreError(
            f"{path} is an HDF5 file, but not one of unitprobe's (no attribute unitprobe_content)"
        )
    if compression == "zstd":
        compression_filter(compression)
    if schema > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {schema}, this unitprobe reads up to {SCHEMA_VERSION}; update it"
        )
    return content


def _check_recording(path: Path, file: h5py.File) -> None:
    missing = {"stimulus", "label", "class_name"} - set(file)
    if missing:
        raise StoreError(f"{path} is damaged: it has no {sorted(missing)[0]!r}")
    stimuli = file["stimulus"].shape
    if len(stimuli) != 1 or file["label"].shape != stimuli or file["label"].dtype.kind not in "iu":
        raise StoreError(f"{path} is damaged: its labels are not whole numbers, one a stimulus")
    if file["class_name"].ndim != 1:
        raise StoreError(f"{path} is damaged: 'class_name' is not a list")
    for name, item in layer_groups(file).items():
        _check_layer(path, name, item, stimuli[0])


def _check_layer(path: Path, name: str, group: h5py.Group, stimuli: int) -> None:
    arrays = [group[key] for key in ("response", "activation") if key in group]
    if "unit" not in group or len(arrays) != 1 or arrays[0].dtype.kind != "f":
        raise StoreError(f"{path} is damaged: layer {name!r} holds no array of responses")
    shape = arrays[0].shape
    if len(shape) < 2 or shape[0] != stimuli:
        raise StoreError(
            f"{path} is damaged: layer {name!r} has {shape[:1]} stimuli, not {stimuli}"
        )
    if group["unit"].ndim != 1 or len(group["unit"]) not in shape[1:]:
        raise StoreError(f"{path} is damaged: layer {name!r} has not as many units as responses")


def _why_missing(path: Path) -> str:
    folder = folder_of(path)
    if not folder.is_dir():
        return f"{path} does not exist; record it first"
    if not (folder / "manifest.json").exists():
        done = f"{folder.name} holds what was done"
        return f"{path} is not finished: {done}; run the same again to go on"
    total = read_manifest(folder)["stimuli"]
    count = sum(marker.stop - marker.start for marker in read_markers(folder).values())
    return (
        f"{path} is not finished: {folder.name} holds {count} of {total} stimuli; "
        "run the same recording again to go on"
    )
