"""The unfinished recording: the file itself, filled shard by shard, in a folder beside the target.

The whole file is made at the start, its disk space is allocated, and only its numbers are missing.
A shard is some consecutive stimuli of every layer. Its numbers are written at their offsets and
flushed to disk. Then its marker, a small file with the checksum of these numbers, is written. So a
kill at any moment leaves every shard with a marker whole, the recording goes on from there, and
nothing is written twice. Several processes may write shards of one recording, each its own.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from unitprobe.errors import StoreError
from unitprobe.store.checksum_footer import ShardChecksum, write_footer
from unitprobe.store.empty_file import compress, variable_path, write_empty_file
from unitprobe.store.files import (
    allocate,
    put_in_place,
    reserve,
    write_atomically,
    writing,
)
from unitprobe.store.layout import ArrayLayout, layout_of, structure_of
from unitprobe.store.partial import PartialFolder, Work
from unitprobe.store.schema import SCHEMA_VERSION, Recording

Arrays = Mapping[str, npt.NDArray[Any]]
#: First stimulus and the one after the last.
Range = tuple[int, int]

#: Also the files of older versions, which are not continued.
RECORDING = Work(
    "recording",
    "recorded",
    r"((shard-\d+\.json|manifest\.json|data|structure)(\.tmp)?)|shard-\d+\.h5|compressed",
    parts=r"shard-\d+\..*",
)


@dataclass(frozen=True)
class ShardMarker:
    """The marker of a shard: its stimuli, their checksum, how many did not reach each layer."""

    start: int
    stop: int
    crc32: int
    unreached: Mapping[str, int] = field(default_factory=dict)


class Shards:
    """The shards of one recording.

    One process begins (`begin`), the others of the same run then join it (`join`); all may write,
    and in the end the first finishes (`finish`).

    Parameters
    ----------
    path : Path
        Where the finished recording will be.
    recording : Recording
        What is recorded.
    """

    def __init__(self, path: Path, recording: Recording) -> None:
        self._partial = PartialFolder(path, RECORDING)
        self.folder = self._partial.folder
        self._target = path
        self._recording = recording
        self._data = self.folder / "data"
        self._structure = self.folder / "structure"
        self._layouts: dict[str, ArrayLayout] = {}

    def begin(self, *, resume: bool, shared: bool = False) -> None:
        """Go on with what is there, or start again, and keep every other recording away.

        Parameters
        ----------
        resume : bool
            False starts again.
        shared : bool
            Other processes of this run will join.

        Raises
        ------
        ContentsMismatchError
            The folder holds shards of another recording.
        StoreExistsError
            A folder of the same name holds something else, or another process records to it.
        StorageError
            The disk has no space for the recording.
        """
        self._partial.acquire()
        if resume and self._data.exists() and any(self.folder.glob("shard-*")):
            self._check_contents()
            self._restore_structure()
        else:
            self._start_again()
        self._read_layouts()
        if shared:
            self._partial.share()

    def join(self) -> None:
        """Take part in what another process of this run has begun."""
        self._partial.acquire(shared=True)
        self._read_layouts()

    def ranges(self) -> list[Range]:
        """Return the (start, stop) stimuli of every shard."""
        return self._recording.shards

    def missing(self, ranges: Iterable[Range]) -> list[Range]:
        """Return those of some shards that are still to be recorded, or are damaged."""
        markers = read_markers(self.folder)
        return [(start, stop) for start, stop in ranges if not self._is_whole(markers, start, stop)]

    def write(self, start: int, arrays: Arrays, unreached: Mapping[str, int]) -> None:
        """Add a shard: an array (stimulus, ...) by layer name, the first stimulus being `start`.

        `unreached` says how many of the stimuli did not reach a layer.
        """
        stop = start + len(next(iter(arrays.values())))
        checksum = 0
        with writing(self._data, RECORDING.participle):
            with self._data.open("r+b", buffering=0) as file:
                for array in self._recording.arrays:
                    values, layout = arrays[array.layer], self._layouts[array.layer]
                    for offset, (rows, *others) in layout.pieces(start, stop):
                        own = slice(rows.start - start, rows.stop - start)
                        piece = layout.encode(values[(own, *others)]).data.cast("B")
                        checksum = zlib.crc32(piece, checksum)
                        file.seek(offset)
                        while piece:
                            piece = piece[file.write(piece) :]
                os.fsync(file.fileno())
            marker = ShardMarker(start, stop, checksum, dict(unreached))
            write_atomically(self._marker_path(start), json.dumps(asdict(marker)).encode())

    def read(self, stimulus: int, layer: str) -> npt.NDArray[Any]:
        """Return what is recorded of one stimulus at one layer."""
        layout = self._layouts[layer]
        values = np.empty((1, *layout.shape[1:]), layout.dtype)
        with self._data.open("rb") as file:
            for offset, (_, *others) in layout.pieces(stimulus, stimulus + 1):
                piece = layout.read_piece(file, offset, 1)
                part = values[(slice(None), *others)]
                part[...] = piece[tuple(slice(size) for size in part.shape)]
        stimulus_alone: npt.NDArray[Any] = values[0]
        return stimulus_alone

    def finish(self) -> None:
        """Put the file in place, once it holds every stimulus exactly once.

        Raises
        ------
        StoreError
            Some do not.
        StorageError
            The disk has no space for the compressed file.
        """
        markers = read_markers(self.folder)
        done = [(marker.start, marker.stop) for marker in markers.values()]
        if sorted(done) != self.ranges():
            raise StoreError(
                f"{self.folder} holds {len(done)} shards where {len(self.ranges())} are needed; "
                "run the same recording again"
            )
        finished = self._data
        with writing(self._target, RECORDING.participle):
            self._count_unreached(markers.values())
            if self._recording.compression is not None:
                finished = self.folder / "compressed"
                reserve(finished, self._recording.file_bytes)
                compress(self._data, finished, self._recording)
            shards = (ShardChecksum(m.start, m.stop, m.crc32) for m in markers.values())
            write_footer(
                finished, sorted(shards), compressed=self._recording.compression is not None
            )
            put_in_place(finished, self._target)
        self.remove()

    def remove(self) -> None:
        """Delete the folder; the data first, without which the rest is not continued."""
        self._data.unlink(missing_ok=True)
        self._partial.remove()

    def close(self) -> None:
        """Let others record; delete the folder if it holds no shard."""
        self._partial.release()

    def _marker_path(self, start: int) -> Path:
        return self.folder / f"shard-{start:09d}.json"

    def _is_whole(self, markers: Mapping[int, ShardMarker], start: int, stop: int) -> bool:
        marker = markers.get(start)
        if marker is None or marker.stop != stop:
            return False
        checksum = 0
        try:
            with self._data.open("rb") as file:
                for array in self._recording.arrays:
                    layout = self._layouts[array.layer]
                    for offset, (rows, *_) in layout.pieces(start, stop):
                        piece = layout.read_piece(file, offset, rows.stop - rows.start)
                        checksum = zlib.crc32(piece.data, checksum)
        except OSError:
            return False
        return checksum == marker.crc32

    def _start_again(self) -> None:
        made = self.folder / "data.tmp"
        with writing(self._target, RECORDING.participle):
            self._data.unlink(missing_ok=True)  # first: without it the rest is not continued
            self._partial.clear()
            # HDF5 crashes where the disk fills up beneath it, so first see that all fits.
            reserve(made, self._recording.file_bytes)
            write_empty_file(made, self._recording)
            allocate(made, made.stat().st_size)
            write_atomically(self._structure, _read_structure(made))
            manifest = {
                "schema": SCHEMA_VERSION,
                "stimuli": len(self._recording.ids),
                "shard_stimuli": self._recording.shard_stimuli,
                "layers": [array.layer for array in self._recording.arrays],
                "network": str(self._recording.provenance.get("network", "")),
                "contents": self._contents(),
            }
            write_atomically(self.folder / "manifest.json", json.dumps(manifest).encode())
            with made.open("rb") as file:
                os.fsync(file.fileno())
            put_in_place(made, self._data)

    def _restore_structure(self) -> None:
        """Write the structure over that of the file: whatever happened to it, it is whole now."""
        with writing(self._data):
            try:
                header, _, rest = self._structure.read_bytes().partition(b"\n")
                size, extents = json.loads(header)
                if sum(length for _, length in extents) != len(rest):
                    raise ValueError("truncated")
            except (OSError, ValueError, TypeError) as error:
                raise StoreError(
                    f"{self._structure} is damaged ({error}); start again with resume=False "
                    "(--no-resume)"
                ) from error
            with self._data.open("r+b") as file:
                file.truncate(size)
                for start, length in extents:
                    file.seek(start)
                    file.write(rest[:length])
                    rest = rest[length:]
            allocate(self._data, size)

    def _read_layouts(self) -> None:
        with writing(self._data), h5py.File(self._data, "r") as file:
            self._layouts = {
                array.layer: layout_of(file[variable_path(array)])
                for array in self._recording.arrays
            }

    def _count_unreached(self, markers: Iterable[ShardMarker]) -> None:
        counts: dict[str, int] = {}
        for marker in markers:
            for layer, count in marker.unreached.items():
                counts[layer] = counts.get(layer, 0) + count
        if counts:
            # A kill amid this leaves a structure that the next run restores.
            with h5py.File(self._data, "r+") as file:
                for layer, count in counts.items():
                    file[layer].attrs["unreached_stimuli"] = np.int64(count)

    def _contents(self) -> dict[str, str]:
        shard = str(self._recording.shard_stimuli)
        return {**self._recording.contents, "stimuli in a shard": shard}

    def _check_contents(self) -> None:
        self._partial.check_contents(read_manifest(self.folder)["contents"], self._contents())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an unfinished recording.

    Raises
    ------
    StoreError
        It is not there or damaged.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        keys = ("schema", "stimuli", "shard_stimuli", "layers", "network", "contents")
        return {key: manifest[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder} holds no readable manifest of a recording ({error}); "
            "start again with resume=False (--no-resume)"
        ) from error


def read_markers(folder: Path) -> dict[int, ShardMarker]:
    """Return the markers of the shards that are recorded, by first stimulus; skip damaged ones."""
    markers = {}
    for path in sorted(folder.glob("shard-*.json")):
        try:
            found = ShardMarker(**json.loads(path.read_bytes()))
            if path.name == f"shard-{found.start:09d}.json":
                markers[found.start] = found
        except (OSError, ValueError, TypeError):
            continue
    return markers


def _read_structure(path: Path) -> bytes:
    """Return the structure of a file: its size and extents as a line of JSON, and their bytes."""
    extents = structure_of(path)
    parts = [json.dumps([path.stat().st_size, extents]).encode() + b"\n"]
    with path.open("rb") as file:
        for start, length in extents:
            file.seek(start)
            parts.append(file.read(length))
    return b"".join(parts)
