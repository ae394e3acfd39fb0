"""The unfinished sweep: its counts in a file beside the result, so that it can go on.

All counts of a sweep are a few megabytes, so they are written whole: after a layer of a batch, and
at most every few seconds, to a temporary name that is then renamed. A kill at any moment leaves the
last such file, and the sweep goes on from there to the same numbers, bit by bit.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unitprobe.ablation.outcome import Outcomes
from unitprobe.ablation.targets import Targets
from unitprobe.store.partial import PartialFolder, Work, differences

#: Seconds between two writes, at least.
SECONDS = 5.0

_COUNTS = "ablation-counts"
ABLATION = Work("ablation", "ablated", rf"{_COUNTS}.*|logit-changes-.*|merged\.h5.*")
#: The folder of a protocol holds one folder for each of its sweeps.
PROTOCOL = Work("protocol", "computed", r"sweep-.*")


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
        Finished layers of the current batch; if any, the batch is counted in `intact` too.
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


class Checkpoint(PartialFolder):
    """The folder in which the counts of one sweep are kept until it is finished.

    Parameters
    ----------
    path : Path
        The target, where the finished result will be.
    contents : mapping of str to str
        What the counts depend on; two sweeps with the same contents are the same sweep.
    logits : array (output,)
        Of the intact network on the first stimulus. The contents cannot cover everything: a lambda
        in the transform, an attribute that the network reads while it runs.
    resume : bool
        Go on with what is there; if False, start again.
    """

    def __init__(
        self,
        path: Path,
        contents: Mapping[str, str],
        logits: npt.NDArray[np.float64],
        *,
        resume: bool,
    ) -> None:
        super().__init__(path, ABLATION)
        self._contents = dict(contents)
        self._logits = logits
        self._written = time.monotonic()
        self._resume = resume

    def __enter__(self) -> Checkpoint:
        self.acquire()
        if not self._resume:
            self.clear()
        return self

    def restore(self, counts: Counts) -> None:
        """Bring counts to where the sweep stopped; leave them as they are if it has not begun.

        Raises
        ------
        ContentsMismatchError
            The folder holds another sweep.
        StoreError
            The file is damaged.
        """
        if _COUNTS not in self.names():
            return
        with np.load(io.BytesIO(self.read(_COUNTS)), allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        different = differences(json.loads(str(kept["contents"])), self._contents)
        logits = kept["logits"]
        if not different and (
            logits.shape != self._logits.shape
            or not np.allclose(logits, self._logits, rtol=1e-3, atol=1e-3 * np.abs(logits).max())
        ):
            different = ["the network gives other logits for the first stimulus"]
        self.refuse(different)
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


@contextmanager
def keeping(path: Path, *, resume: bool) -> Iterator[Path]:
    """Yield the folder for the sweeps of one result, ``PATH.partial``; delete it at the end.

    After an error or a kill it stays, so that the same call goes on.

    Parameters
    ----------
    path : Path
        The target, where the finished result will be.
    resume : bool
        Go on with what is there; if False, start again.

    Raises
    ------
    StoreExistsError
        A folder of the same name holds something else, or another process works in it.
    """
    with PartialFolder(path, PROTOCOL) as kept:
        if not resume:
            kept.clear()
        yield kept.folder
        kept.remove()


def describe_targets(swept: Sequence[Targets]) -> str:
    """Return a hash of what is ablated, layer by layer."""
    digest = hashlib.sha256()
    for targets in swept:
        digest.update(f"{targets.layer.name} {targets.groups}".encode())
        if targets.directions is not None:
            digest.update(targets.directions.numpy().tobytes())
    return digest.hexdigest()
