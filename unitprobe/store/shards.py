"""The unfinished recording: immutable shards and a manifest, in a folder beside the target.

A shard holds some consecutive stimuli of every layer. It is built in memory, written to a
temporary name and renamed, and then entered in the manifest with its checksum. So a kill at any
moment leaves every shard that the manifest names whole, and the recording goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from unitprobe.errors import ContentsMismatchError, StoreError, StoreExistsError
from unitprobe.store.files import write_atomically, writing
from unitprobe.store.schema import SCHEMA_VERSION, Recording

Arrays = Mapping[str, npt.NDArray[Any]]


def folder_of(path: Path) -> Path:
    """Return the folder in which a recording is kept until it is finished."""
    return path.with_name(f"{path.name}.partial")


class Shards:
    """The shards of one recording.

    Parameters
    ----------
    path : Path
        Where the finished recording will stand.
    recording : Recording
        What is recorded.
    resume : bool
        Go on with what is there; else begin anew.

    Raises
    ------
    ContentsMismatchError
        The folder holds shards of another recording.
    StoreExistsError
        A folder of the same name is there that holds something else.
    """

    def __init__(self, path: Path, recording: Recording, *, resume: bool) -> None:
        self.folder = folder_of(path)
        self._recording = recording
        self._stimuli = len(recording.ids)
        self._rows = recording.shard_stimuli
        self._manifest_path = self.folder / "manifest.json"
        if self.folder.exists() and not self._manifest_path.exists() and any(self._foreign()):
            raise StoreExistsError(
                f"{self.folder} is in the way and not unitprobe's: it holds {self._foreign()[0]}; "
                "choose another path for the recording"
            )
        if self.folder.exists() and not resume:
            shutil.rmtree(self.folder)
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        self._checksums = self._begin()

    def ranges(self) -> list[tuple[int, int]]:
        """Return the (start, stop) stimuli of every shard."""
        starts = range(0, self._stimuli, self._rows)
        return [(start, min(start + self._rows, self._stimuli)) for start in starts]

    def missing(self) -> list[tuple[int, int]]:
        """Return the (start, stop) stimuli of the shards that are still to be recorded."""
        return [(start, stop) for start, stop in self.ranges() if not self._is_whole(start)]

    def write(self, start: int, arrays: Arrays) -> None:
        """Add a shard: an array (stimulus, ...) by layer name, the first stimulus being `start`."""
        image = _hdf5_image(arrays)
        path = self._shard_path(start)
        with writing(path):
            write_atomically(path, image)
            self._checksums[str(start)] = hashlib.sha256(image).hexdigest()
            self._write_manifest()

    def read(self, start: int, layer: str) -> npt.NDArray[Any]:
        """Return one layer of one shard."""
        with h5py.File(self._shard_path(start), "r") as file:
            array: npt.NDArray[Any] = file[layer][()]
        return array

    def remove_if_empty(self) -> None:
        """Delete the folder of a recording that failed before its first shard."""
        if not self._checksums:
            shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """Delete the shards, once the finished file is in place."""
        shutil.rmtree(self.folder)

    def _foreign(self) -> list[str]:
        ours = ("shard-", "manifest.json", "merged.h5")
        return [path.name for path in self.folder.iterdir() if not path.name.startswith(ours)]

    def _shard_path(self, start: int) -> Path:
        return self.folder / f"shard-{start:09d}.h5"

    def _is_whole(self, start: int) -> bool:
        path = self._shard_path(start)
        checksum = self._checksums.get(str(start))
        if checksum is None or not path.exists():
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == checksum

    def _begin(self) -> dict[str, str]:
        found = read_manifest(self.folder) if self._manifest_path.exists() else {"shards": {}}
        if not found["shards"]:
            self._checksums = {}
            self._write_manifest()
            return {}
        wanted = self._contents()
        before = found["contents"]
        changed = [key for key in wanted if before.get(key) != wanted[key]]
        if changed:
            what = ", ".join(
                f"{key} {_short(before.get(key))} there, {_short(wanted[key])} now"
                for key in changed
            )
            raise ContentsMismatchError(
                f"{self.folder} holds an unfinished recording of something else ({what}); choose "
                "another path, or give it up with resume=False (--no-resume)"
            )
        return dict(found["shards"])

    def _contents(self) -> dict[str, str]:
        return {**self._recording.contents, "shard_stimuli": str(self._rows)}

    def _write_manifest(self) -> None:
        manifest = {
            "schema": SCHEMA_VERSION,
            "stimuli": self._stimuli,
            "contents": self._contents(),
            "shards": self._checksums,
        }
        with writing(self._manifest_path):
            write_atomically(self._manifest_path, json.dumps(manifest, indent=1).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an unfinished recording.

    Raises
    ------
    StoreError
        It is not there or damaged.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return {key: manifest[key] for key in ("schema", "stimuli", "contents", "shards")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder} holds no readable manifest of a recording ({error}); "
            "begin anew with resume=False (--no-resume)"
        ) from error


def _hdf5_image(arrays: Arrays) -> bytes:
    # Built in memory: a full disk then fails a plain write, not the inside of HDF5.
    with h5py.File("shard", "w", driver="core", backing_store=False) as file:
        for layer, array in arrays.items():
            file.create_dataset(layer, data=np.ascontiguousarray(array))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _short(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
