"""A seal at the end of a file, so that damage is seen, and HDF5 never sees a damaged structure.

HDF5 believes what a file says: one wrong bit in its structure can crash it, hang it or make it ask
for all memory. So a finished file ends with a seal, bytes behind the end of HDF5's own, which no
other reader looks at: where the structure stands, the checksum of it, and the checksums that the
shards of a recording had when they were written. The structure is checked whenever a file is
opened, the numbers when somebody asks (`unitprobe.store.verify_store`). Whoever changes the file
with HDF5 removes the seal with it, and the file opens as one without.
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


class SealedShard(NamedTuple):
    """Some stimuli of a recording, and the checksum of all their numbers."""

    start: int
    stop: int
    crc32: int


class Seal(NamedTuple):
    """What the seal of a file says.

    Attributes
    ----------
    whole : bool
        The structure is the whole file: there are no numbers beside it.
    shards : sequence of SealedShard
        Checksums of the numbers; none if they are not known.
    numbers : sequence of (int, int)
        Start and length of what is no structure.
    stored : str or None
        Checksum of the bytes there, where it was taken.
    """

    whole: bool
    shards: Sequence[SealedShard]
    numbers: Sequence[Extent]
    stored: str | None


def seal(path: Path, shards: Iterable[SealedShard] = (), *, compressed: bool = False) -> None:
    """Append the seal to a finished HDF5 file and flush it to disk.

    Of `compressed` numbers the bytes get a checksum as well: what a decoder makes of damaged ones
    is whatever memory holds, which may be the right numbers when they are verified and others when
    they are read.
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


def check_seal(path: Path) -> Seal | None:
    """Refuse a file whose structure is not what it was when it was sealed.

    Returns
    -------
    Seal or None
        What its seal says, if there is one.

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
                raise ValueError("its seal is longer than the file")
            file.seek(size - _TAIL - length)
            record = json.loads(file.read(length))
            extents = [(int(start), int(count)) for start, count in record["extents"]]
            sealed = int(record["size"])
            if sealed != size - _TAIL - length:
                raise ValueError(f"{sealed} bytes were sealed, {size - _TAIL - length} are there")
            if any(start < 0 or count < 0 for start, count in extents) or (
                sum(count for _, count in extents) > sealed
            ):
                raise ValueError("its seal is damaged")
            shards = [SealedShard(*map(int, shard)) for shard in record.get("shards", ())]
            same = _checksum(file, extents) == record["sha256"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{path} is damaged: {error}; record it again") from error
    if not same:
        raise StoreError(f"{path} is damaged: its structure has changed; record it again")
    numbers = _beside(extents, sealed)
    return Seal(not numbers, shards, numbers, record.get("stored"))


def numbers_are_as_stored(path: Path, found: Seal) -> bool:
    """Tell whether the bytes of the numbers are as they were sealed, as far as that is known."""
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
