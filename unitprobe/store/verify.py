"""Compare the numbers of a finished file with their checksums."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py

from unitprobe.errors import StoreError
from unitprobe.progress import progress_bar
from unitprobe.store.checksum_footer import ShardChecksum, check_footer, stored_bytes_are_unchanged
from unitprobe.store.files import reading
from unitprobe.store.layout import ArrayLayout, layer_groups, layout_of
from unitprobe.store.open import check_store


def verify_store(path: str | os.PathLike[str], *, progress: bool = False) -> None:
    """Read every number of a file and refuse it if one has changed since it was written.

    `open_store` checks everything but the numbers of a recording, since that would read them all.

    Parameters
    ----------
    path : path
        A recording, or the saved result of an analysis or ablation.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Raises
    ------
    StoreError
        The file is damaged; where its numbers are, the message names the stimuli. Or it has no
        checksums, because another program has changed it or an older unitprobe has written it.
    StoreNotFoundError, OptionError
        As `open_store`.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = up.record(network, up.load_stimuli("digits", limit=20), f"{folder}/store.h5")
    ...     up.verify_store(f"{folder}/store.h5")
    """
    target = Path(path)
    check_store(target)
    footer = check_footer(target)
    if footer is None or not (footer.whole or footer.shards):
        raise StoreError(
            f"{target} has no checksums of its numbers: another program has changed it, or an "
            "older unitprobe has written it; it opens, but cannot be verified"
        )
    stimuli = sum(shard.stop - shard.start for shard in footer.shards)
    damaged = []
    with (
        reading(target) as file,
        progress_bar("verifying", stimuli, "stimuli", enabled=progress) as advance,
    ):
        arrays = [(array, layout_of(array)) for array in _arrays(file)] if footer.shards else []
        for shard in footer.shards:
            if _checksum(arrays, shard) != shard.crc32:
                damaged.append(f"{shard.start} to {shard.stop - 1}")
            advance(shard.stop - shard.start)
    if not (damaged or stored_bytes_are_unchanged(target, footer)):
        raise StoreError(
            f"{target} is damaged: the bytes of its compressed numbers have changed; record it "
            "again"
        )
    if damaged:
        more = f" and in {len(damaged) - 1} more ranges" if len(damaged) > 1 else ""
        raise StoreError(
            f"{target} is damaged: numbers of the stimuli {damaged[0]}{more} have changed; "
            "record it again"
        )


def _checksum(arrays: Iterable[tuple[h5py.Dataset, ArrayLayout]], shard: ShardChecksum) -> int:
    """Return the checksum of a shard as it was taken when the shard was written."""
    checksum = 0
    for array, layout in arrays:
        values = array[shard.start : shard.stop]
        for _, (rows, *others) in layout.pieces(shard.start, shard.stop):
            own = slice(rows.start - shard.start, rows.stop - shard.start)
            piece = layout.encode(values[(own, *others)])
            checksum = zlib.crc32(piece.data.cast("B"), checksum)
    return checksum


def _arrays(file: h5py.File) -> Iterator[h5py.Dataset]:
    """Yield the numbers of the layers, in the order in which they were recorded."""
    for item in layer_groups(file).values():
        yield item["response"] if "response" in item else item["activation"]
