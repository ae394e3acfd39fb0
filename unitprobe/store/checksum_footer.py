"""A footer of checksums at the end of a file, so that damage is found before HDF5 reads it.

HDF5 trusts the structure of a file: one wrong bit can make it crash, hang or ask for all memory. So
a finished file ends with a footer behind the end of HDF5's own bytes, which no other reader looks
at. It holds the extents of the structure with their checksum, and the checksums that the shards of
a recording had when they were written. The structure is checked whenever a file is opened, the
numbers on demand (`unitprobe.store.verify_store`). A program that changes the file with HDF5
removes the footer, and the file opens as one without.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from unitprobe.errors import StoreError
from unitprobe.store.layout import Extent, structure_of

_MAGIC = b"unitprobe seal 1"
_TAIL = 8 + len(_MAGIC)  # length of the text before it, and the magic
_BLOCK = 2**20


class ShardChecksum(NamedTuple):
    """Some stimuli of a recording, and the checksum of all their numbers."""

    start: int
    stop: int
    crc32: int


class Footer(NamedTuple):
    """What the footer of a file says.

    Attributes
    ----------
    whole : bool
        The structure is the whole file: there are no numbers beside it.
    shards : sequence of ShardChecksum
        Checksums of the numbers; none if they are not known.
    numbers : sequence of (int, int)
        Start and length of everything but the structure.
    stored : str or None
        Checksum of the bytes there, where it was taken.
    """

    whole: bool
    shards: Sequence[ShardChecksum]
    numbers: Sequence[Extent]
    stored: str | None


def write_footer(
    path: Path, shards: Iterable[ShardChecksum] = (), *, compressed: bool = False
) -> None:
    """Append the footer to a finished HDF5 file and flush it to disk.

    The bytes of `compressed` numbers get a checksum too. A decoder makes arbitrary numbers of
    damaged bytes: they may be right when they are verified and wrong when they are read.
    """
    extents = structure_of(path)
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        record = {
            "size": size,
            "extents": extents,
            "sha256": _checksum(file, extents),
            "shards": list(shards),
            "stored": _checksum(file, _beside(extents, size)) if compressed else None,
        }
        text = json.dumps(record).encode()
        file.seek(size)
        file.write(text + len(text).to_bytes(8, "little") + _MAGIC)
        file.flush()
        os.fsync(file.fileno())


def check_footer(path: Path) -> Footer | None:
    """Refuse a file whose structure has changed since the footer was written.

    Returns
    -------
    Footer or None
        What its footer says, if there is one.

    Raises
    ------
    StoreError
        It is damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < _TAIL:
            return None
        file.seek(size - _TAIL)
        tail = file.read(_TAIL)
        if tail[8:] != _MAGIC:
            return None
        try:
            length = int.from_bytes(tail[:8], "little")
            if length > size - _TAIL:
                raise ValueError("its checksum footer is longer than the file")
            file.seek(size - _TAIL - length)
            record = json.loads(file.read(length))
            extents = [(int(start), int(count)) for start, count in record["extents"]]
            expected = int(record["size"])
            if expected != size - _TAIL - length:
                raise ValueError(
                    f"{expected} bytes are expected, {size - _TAIL - length} are there"
                )
            if any(start < 0 or count < 0 for start, count in extents) or (
                sum(count for _, count in extents) > expected
            ):
                raise ValueError("its checksum footer is damaged")
            shards = [ShardChecksum(*map(int, shard)) for shard in record.get("shards", ())]
            same = _checksum(file, extents) == record["sha256"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{path} is damaged: {error}; record it again") from error
    if not same:
        raise StoreError(f"{path} is damaged: its structure has changed; record it again")
    numbers = _beside(extents, expected)
    return Footer(not numbers, shards, numbers, record.get("stored"))


def stored_bytes_are_unchanged(path: Path, found: Footer) -> bool:
    """Tell whether the bytes of the numbers are unchanged, as far as that is known."""
    if found.stored is None:
        return True
    with path.open("rb") as file:
        return _checksum(file, found.numbers) == found.stored


def _beside(extents: Iterable[Extent], size: int) -> list[Extent]:
    """Return the parts of a file that lie between some, which are in order."""
    beside, end = [], 0
    for start, length in [*extents, (size, 0)]:
        if start > end:
            beside.append((end, start - end))
        end = max(end, start + length)
    return beside


def _checksum(file: BinaryIO, extents: Iterable[Extent]) -> str:
    digest = hashlib.sha256()
    for start, length in extents:
        digest.update(f"{start} {length} ".encode())
        file.seek(start)
        while length > 0:
            block = file.read(min(length, _BLOCK))
            if not block:
                raise ValueError("it is truncated")
            digest.update(block)
            length -= len(block)
    return digest.hexdigest()
