"""The unfinished sweep: its counts in a file beside the result, so that it can go on.

All counts of a sweep are a few megabytes, so they are written whole: after a layer of a batch, and
at most every few seconds, to a temporary name that is then renamed. A kill at any moment leaves the
last such file, and the sweep goes on from there to the same numbers, bit by bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from unitprobe.ablation.outcome import Outcomes
from unitprobe.ablation.targets import Targets
from unitprobe.errors import ContentsMismatchError, StoreError, StoreExistsError
from unitprobe.store import writing
from unitprobe.store.files import write_atomically
from unitprobe.store.lock import RecordingLock
from unitprobe.store.shards import folder_of

#: Seconds between two writes, at least.
SECONDS = 5.0

_COUNTS = "ablation-counts"
_OURS = ("lock", _COUNTS, "logit-changes-", "merged.h5")


@dataclass
class Counts:
    """What a sweep has counted, and how far it is.

    Attributes
    ----------
    intact : Outcomes
        Of the intact network, its only target.
    ablated : dict of str to Outcomes
        By layer, of every target.
    stimuli : int
        Stimuli of the batches that are finished.
    layers : int
        Layers that are finished of the batch in hand; if any, it is counted in `intact` too.
    batch_size : int
        Stimuli in a batch, as the engine chose; 0 before the first.
    """

    intact: Outcomes
    ablated: dict[str, Outcomes]
    stimuli: int = 0
    layers: int = 0
    batch_size: int = 0

    @classmethod
    def empty(cls, swept: Sequence[Targets], classes: int) -> Counts:
        """Return the counts of a sweep that has not begun."""
        ablated = {targets.layer.name: Outcomes.empty(len(targets), classes) for targets in swept}
        return cls(Outcomes.empty(1, classes), ablated)

    def steps(self, swept: Sequence[Targets], stimuli: int) -> int:
        """Return how many pairs of stimulus and target are done, of `stimuli` stimuli in all."""
        in_hand = min(self.batch_size, stimuli - self.stimuli)
        return self.stimuli * sum(map(len, swept)) + in_hand * sum(
            len(targets) for targets in swept[: self.layers]
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays that are counted into, by name."""
        found = {f"intact {name}": array for name, array in self.intact.arrays().items()}
        for number, outcomes in enumerate(self.ablated.values()):
            found |= {f"{number} {name}": array for name, array in outcomes.arrays().items()}
        return found


class Checkpoint:
    """The file in which the counts of one sweep are kept until it is finished. A context manager.

    Parameters
    ----------
    path : Path
        Where the finished result will stand; the counts are in the folder ``PATH.partial``.
    contents : mapping of str to str
        What the counts depend on; two sweeps with the same contents are the same sweep.
    logits : array (output,)
        Of the intact network on the first stimulus. The contents cannot see everything: a lambda
        in the transform, an attribute that the network reads while it runs.
    resume : bool
        Go on with what is there; else begin anew.

    Raises
    ------
    StoreExistsError
        A folder of the same name holds something else, or another process sweeps there; raised on
        entering the context.
    """

    def __init__(
        self,
        path: Path,
        contents: Mapping[str, str],
        logits: npt.NDArray[np.float64],
        *,
        resume: bool,
    ) -> None:
        self.folder = folder_of(path)
        self._file = self.folder / _COUNTS
        self._contents = dict(contents)
        self._logits = logits
        self._written = time.monotonic()
        self._resume = resume
        self._lock = RecordingLock(self.folder / "lock")

    def __enter__(self) -> Checkpoint:
        with writing(self.folder):
            foreign = [name for name in self._names() if not name.startswith(_OURS)]
        if foreign:
            raise StoreExistsError(
                f"{self.folder} is in the way and no unfinished ablation: it holds "
                f"{foreign[0]}; choose another path"
            )
        with writing(self.folder):
            self._lock.acquire()
        if not self._resume:
            for name in self._names():
                if name != "lock":
                    (self.folder / name).unlink()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._names() == ["lock"]:  # it failed before anything was kept
            self.remove()
        self._lock.release()

    def restore(self, counts: Counts) -> None:
        """Bring counts to where the sweep stopped; leave them as they are if it has not begun.

        Raises
        ------
        ContentsMismatchError
            The folder holds another sweep.
        StoreError
            The file is damaged.
        """
        if not self._file.exists():
            return
        kept = self._read()
        before = json.loads(str(kept["contents"]))
        changed = [
            f"{key} {_short(before.get(key))} there, {_short(value)} now"
            for key, value in self._contents.items()
            if before.get(key) != value
        ]
        logits = kept["logits"]
        if not changed and (
            logits.shape != self._logits.shape
            or not np.allclose(logits, self._logits, rtol=1e-3, atol=1e-3 * np.abs(logits).max())
        ):
            changed = ["the network gives other logits for the first stimulus"]
        if changed:
            raise ContentsMismatchError(
                f"{self.folder} holds an unfinished ablation of something else "
                f"({', '.join(changed)}); choose another path, or give it up with resume=False "
                "(--no-resume)"
            )
        for name, array in counts.arrays().items():
            array[...] = kept[name]
        counts.stimuli, counts.layers, counts.batch_size = kept["progress"].tolist()

    def keep(self, counts: Counts) -> None:
        """Write the counts, unless that was done a moment ago."""
        if time.monotonic() - self._written < SECONDS:
            return
        image = io.BytesIO()
        arrays: dict[str, Any] = {
            "contents": np.array(json.dumps(self._contents)),
            "logits": self._logits,
            "progress": np.array([counts.stimuli, counts.layers, counts.batch_size]),
            **counts.arrays(),
        }
        np.savez(image, **arrays)
        self.write(_COUNTS, image.getvalue())
        self._written = time.monotonic()

    def write(self, name: str, contents: bytes) -> None:
        """Put a file into the folder, whole or not at all, behind its checksum."""
        with writing(self.folder):
            checksum = hashlib.sha256(contents).hexdigest().encode()
            write_atomically(self.folder / name, checksum + b"\n" + contents)

    def read(self, name: str) -> bytes:
        """Return what was written.

        Raises
        ------
        StoreError
            It is damaged or gone.
        """
        path = self.folder / name
        try:
            checksum, _, contents = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            checksum, contents = b"", b""
        if hashlib.sha256(contents).hexdigest().encode() != checksum:
            raise StoreError(f"{path} is damaged; begin anew with resume=False (--no-resume)")
        return contents

    def remove(self) -> None:
        """Delete the folder, once the result is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _names(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir()) if self.folder.exists() else []

    def _read(self) -> dict[str, npt.NDArray[np.generic]]:
        with np.load(io.BytesIO(self.read(_COUNTS)), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


@contextmanager
def keeping(path: Path, *, resume: bool) -> Iterator[Path]:
    """Yield the folder for the sweeps of one result, ``PATH.partial``; delete it at the end.

    After an error or a kill it stays, so that the same call goes on.

    Parameters
    ----------
    path : Path
        Where the finished result will stand.
    resume : bool
        Go on with what is there; else begin anew.

    Raises
    ------
    StoreExistsError
        A folder of the same name holds something else.
    """
    folder = folder_of(path)
    names = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in names if not name.startswith("sweep-")]
    if foreign:
        raise StoreExistsError(
            f"{folder} is in the way and no unfinished protocol: it holds {foreign[0]}; choose "
            "another path"
        )
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    except BaseException:
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def describe_targets(swept: Sequence[Targets]) -> str:
    """Return a hash of what is ablated, layer by layer."""
    digest = hashlib.sha256()
    for targets in swept:
        digest.update(f"{targets.layer.name} {targets.groups}".encode())
        if targets.directions is not None:
            digest.update(targets.directions.numpy().tobytes())
    return digest.hexdigest()


def _short(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
