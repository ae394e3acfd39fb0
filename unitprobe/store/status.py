"""Look at a recording from outside, also while another process writes it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from unitprobe.errors import StoreError, StoreNotFoundError
from unitprobe.store.files import reading
from unitprobe.store.layout import layer_groups
from unitprobe.store.lock import is_held
from unitprobe.store.partial import LOCK, folder_of
from unitprobe.store.shards import ShardMarker, read_manifest, read_markers


@dataclass(frozen=True)
class RecordingStatus:
    """How far a recording is.

    Attributes
    ----------
    path : Path
        Where the finished file stands, or will.
    complete : bool
        The file is finished.
    active : bool
        A process records now.
    network : str
        What is recorded.
    layers, stimuli, stimuli_done, shards, shards_done : int
        How much of it; a finished file has no shards.
    file_bytes : int
        Size of the file, which an unfinished recording occupies from its start.
    rate : float or None
        Stimuli per second since the process began, None if no shard was finished since.
    seconds_left : float or None
        At this rate, None if no process records or there is no rate.
    """

    path: Path
    complete: bool
    active: bool
    network: str
    layers: int
    stimuli: int
    stimuli_done: int
    shards: int
    shards_done: int
    file_bytes: int
    rate: float | None
    seconds_left: float | None


def recording_status(path: str | os.PathLike[str]) -> RecordingStatus:
    """Return how far the recording at a path is; changes nothing and may be called at any time.

    Raises
    ------
    StoreNotFoundError
        There is neither the file nor an unfinished recording of it.
    StoreError
        The file is damaged or not a recording.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = up.record(network, up.load_stimuli("digits", limit=20), f"{folder}/store.h5")
    ...     status = recording_status(f"{folder}/store.h5")
    >>> status.complete, status.layers, status.stimuli_done
    (True, 1, 20)
    """
    target = Path(path)
    folder = folder_of(target)
    # An unfinished recording may be about to replace a finished file.
    if folder.is_dir() and (folder / "manifest.json").exists():
        active = is_held(folder / LOCK)
        if active or not target.exists():
            return _unfinished(target, folder, active=active)
    if not target.exists():
        raise StoreNotFoundError(f"{target} does not exist, nor does an unfinished recording of it")
    return _finished(target)


def _finished(target: Path) -> RecordingStatus:
    with reading(target) as file:
        if file.attrs.get("unitprobe_content") != "recording":
            raise StoreError(f"{target} is not a recording; open_store tells what it is")
        stimuli = len(file["stimulus"])
        layers = len(layer_groups(file))
        network = str(file.attrs.get("network", ""))
    return RecordingStatus(
        path=target,
        complete=True,
        active=False,
        network=network,
        layers=layers,
        stimuli=stimuli,
        stimuli_done=stimuli,
        shards=0,
        shards_done=0,
        file_bytes=target.stat().st_size,
        rate=None,
        seconds_left=None,
    )


def _unfinished(target: Path, folder: Path, *, active: bool) -> RecordingStatus:
    manifest = read_manifest(folder)
    markers = read_markers(folder)
    stimuli = int(manifest["stimuli"])
    done = sum(marker.stop - marker.start for marker in markers.values())
    rate = _rate(folder, markers) if active else None
    data = folder / "data"
    return RecordingStatus(
        path=target,
        complete=False,
        active=active,
        network=str(manifest["network"]),
        layers=len(manifest["layers"]),
        stimuli=stimuli,
        stimuli_done=done,
        shards=-(-stimuli // int(manifest["shard_stimuli"])),
        shards_done=len(markers),
        file_bytes=data.stat().st_size if data.exists() else 0,
        rate=rate,
        seconds_left=(stimuli - done) / rate if rate else None,
    )


def _rate(folder: Path, markers: dict[int, ShardMarker]) -> float | None:
    """Return the stimuli per second since the lock was taken, by the times of the markers."""
    begun = (folder / LOCK).stat().st_mtime
    count = 0
    for start, marker in markers.items():
        path = folder / f"shard-{start:09d}.json"
        if path.exists() and path.stat().st_mtime > begun:
            count += marker.stop - marker.start
    return count / max(time.time() - begun, 1e-6) if count else None
