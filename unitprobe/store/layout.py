"""The offsets of the numbers in a file, so that they can be written without HDF5.

On demand HDF5 allocates the chunks of an uncompressed array when the file is made. From then on the
rows of a chunk are plain bytes at a known offset. Several processes can write theirs, each once,
and a process that is killed between two writes leaves the structure of the file whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

#: Start and length in bytes.
Extent = tuple[int, int]


@dataclass(frozen=True)
class ArrayLayout:
    """The chunks of one array (stimulus, ...) in a file.

    Attributes
    ----------
    shape, chunks : tuple of int
        Shape of the array and of a chunk.
    dtype : np.dtype
        Type of the numbers.
    offsets : array of int
        Where each chunk starts in the file, an axis for each axis of the array.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    offsets: npt.NDArray[np.int64]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield the offset in the file and the slices of each piece of the rows `start` to `stop`.

        A piece is a run of rows of one chunk.
        """
        rows, *widths = self.chunks
        row_bytes = math.prod(widths) * self.dtype.itemsize
        for row in range(start // rows, -(-stop // rows)):
            first, last = max(start, row * rows), min(stop, (row + 1) * rows)
            skipped = (first - row * rows) * row_bytes
            for column in itertools.product(*map(range, self.offsets.shape[1:])):
                spans = (
                    slice(index * width, min((index + 1) * width, size))
                    for index, width, size in zip(column, widths, self.shape[1:], strict=True)
                )
                yield int(self.offsets[(row, *column)]) + skipped, (slice(first, last), *spans)

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the values of a piece as they stand in the file: as wide as a chunk."""
        widths = self.chunks[1:]
        if values.shape[1:] == widths:
            return np.ascontiguousarray(values)
        whole = np.zeros((len(values), *widths), self.dtype)
        whole[tuple(slice(size) for size in values.shape)] = values
        return whole

    def read_piece(self, file: BinaryIO, offset: int, rows: int) -> npt.NDArray[Any]:
        """Return a piece as it stands in the file."""
        whole = np.empty((rows, *self.chunks[1:]), self.dtype)
        file.seek(offset)
        count = file.readinto(whole.data.cast("B"))  # type: ignore[attr-defined]
        if count != whole.nbytes:
            raise OSError(
                f"{whole.nbytes} bytes are expected at offset {offset}, {count} are there"
            )
        return whole


def layout_of(dataset: h5py.Dataset) -> ArrayLayout:
    """Return where the chunks of an array stand."""
    grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    offsets = np.full(grid, -1, np.int64)

    def keep(chunk: Any) -> None:
        index = tuple(
            offset // width
            for offset, width in zip(chunk.chunk_offset, dataset.chunks, strict=True)
        )
        offsets[index] = chunk.byte_offset

    dataset.id.chunk_iter(keep)
    if (offsets < 0).any():
        raise OSError(f"HDF5 did not allocate all chunks of {dataset.name}")
    return ArrayLayout(dataset.shape, dataset.chunks, dataset.dtype, offsets)


def layer_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the groups of a recording that are layers, without those that users added."""
    return {
        name: item
        for name, item in file.items()
        if isinstance(item, h5py.Group) and ("unit" in item or "kind" in item.attrs)
    }


def structure_of(path: Path) -> list[Extent]:
    """Return the parts of an HDF5 file outside the chunks of arrays, in order.

    These are names, attributes, text, small arrays such as labels, and the positions of the chunks.
    """
    numbers: list[Extent] = []

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.chunks is not None:
            item.id.chunk_iter(lambda chunk: numbers.append((chunk.byte_offset, chunk.size)))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    gaps, end = [], 0
    for start, length in sorted(numbers):
        if start > end:
            gaps.append((end, start - end))
        end = max(end, start + length)
    size = path.stat().st_size
    return [*gaps, (end, size - end)] if size > end else gaps
