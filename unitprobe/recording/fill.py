"""One process of a recording: what is missing of its part goes through the network to the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from unitprobe.batches import load_batches, load_these_batches
from unitprobe.errors import ContentsMismatchError
from unitprobe.memory import keeping_freed_memory
from unitprobe.probe import Probe, Responses
from unitprobe.progress import progress_bar
from unitprobe.recording.in_memory import MemoryRecording
from unitprobe.recording.processes import Processes
from unitprobe.recording.shard_buffer import ShardBuffer
from unitprobe.recording.underflow import SmallCounts, UnderflowCounter
from unitprobe.stimuli import Stimuli
from unitprobe.store import Range, Recording, Shards


class AutocastProbe:
    """A probe on a device, in the precision that was chosen.

    Parameters
    ----------
    probe : Probe
        Gives the responses.
    device : torch.device
        Where its network runs.
    autocast : str, optional
        The type in which it computes where that is safe.
    """

    def __init__(self, probe: Probe[Responses], device: torch.device, autocast: str | None) -> None:
        self.device = device
        self._probe = probe
        self._dtype = None if autocast is None else getattr(torch, autocast)
        #: Whether it computes in half precision.
        self.half = autocast is not None

    def __call__(
        self, images: Tensor, into: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the responses to a batch; see `Probe` for `into`."""
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            return self._probe(images, into)

    def unreached(self) -> dict[str, int]:
        """Return how many stimuli did not reach each layer so far."""
        return dict(self._probe.unreached)

    def forget(self) -> None:
        """Reset the counts: the stimuli so far were only shown to look at the network."""
        self._probe.unreached.clear()
        self._probe.stimulus_count = 0


class Recorder:
    """One process of a recording.

    Parameters
    ----------
    run : Processes
        The processes that record together.
    probe : AutocastProbe
        Gives the responses to a batch.
    stimuli : Stimuli
        All stimuli, ready for the network.
    recording : Recording
        What is recorded.
    size : sequence of int
        Channels, height and width that all stimuli must have.
    workers : int
        Processes that load images.
    """

    def __init__(
        self,
        run: Processes,
        probe: AutocastProbe,
        stimuli: Stimuli,
        recording: Recording,
        *,
        size: Sequence[int],
        workers: int,
    ) -> None:
        self._run = run
        self._probe = probe
        self._stimuli = stimuli
        self._recording = recording
        self._size = size
        self._workers = workers

    def find_missing(self, shards: Shards) -> Sequence[Range]:
        """Return the shards that are missing, after checking one of those that are there.

        Raises
        ------
        ContentsMismatchError
            The network gives other responses than are recorded.
        """
        ranges = shards.ranges()
        self._run.gather(lambda: None if self._run.first else shards.join())
        # A check reads everything that is there, so each process checks its part.
        found = self._run.gather(lambda: shards.missing(self._run.share(ranges)))
        missing = [span for part in found for span in part]
        whole = sorted(set(ranges) - set(missing))
        if whole:
            self._run.first_alone(lambda: self._check_resumed(shards, whole[0][0]))
        return missing

    def _check_resumed(self, shards: Shards, stimulus: int) -> None:
        """Compare one stimulus of what is recorded with what the network gives now.

        The contents of a recording cannot cover everything: a lambda in the transform, an
        attribute that the network reads while it runs.
        """
        image, _ = next(load_batches(self._stimuli, [stimulus], batch_size=1))
        coarse = self._recording.dtype == "float16" or self._probe.half
        for name, response in self._probe(image).items():
            before = shards.read(stimulus, name).astype(np.float64)
            now = response[0].cpu().double().numpy()
            scale = float(np.nanmax(np.abs(before), initial=0))
            tolerance = 1e-2 if coarse else 1e-3
            if not np.allclose(before, now, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
                raise ContentsMismatchError(
                    f"{shards.folder} was recorded with something else: layer {name!r} gives "
                    f"other responses to stimulus {str(self._stimuli.ids[stimulus])!r} now; choose "
                    "another path, or give it up with resume=False (--no-resume)"
                )

    def estimate_seconds(self, missing: Sequence[Range]) -> float:
        """Return the seconds that this process's part will take, by the time of one batch."""
        spans = self._run.share(missing)
        batches = self._batches(spans)
        if not batches:
            return 0.0
        for _ in range(2):  # the first call is slower than all that follow
            begun = time.perf_counter()
            images, _ = next(load_these_batches(self._stimuli, batches[:1]))
            responses = self._probe(images)
            for response in responses.values():
                response[0].cpu()  # waits for a GPU
            taken = time.perf_counter() - begun
        return taken * sum(map(len, batches)) / len(batches[0])

    def fill(
        self, target: Shards | MemoryRecording, missing: Sequence[Range], *, progress: bool
    ) -> SmallCounts:
        """Record this process's part of what is missing into a file or into memory.

        Return how many responses are too small for float16, if they are rounded to it.

        While the network computes a shard, a thread writes the one before. A failure to write
        stops the recording at the end of a shard.
        """
        spans = self._run.share(missing)
        underflow = UnderflowCounter()
        if not spans:
            return underflow.counts()
        counter = underflow if self._recording.dtype == "float16" else None
        buffers = [
            ShardBuffer(self._recording, self._probe.device, counter)
            for _ in range(min(2, len(spans)))
        ]
        written: list[Future[None]] = []
        total = sum(stop - start for start, stop in spans)
        title = self._run.title("recording")
        with (
            keeping_freed_memory(),
            ThreadPoolExecutor(1, thread_name_prefix="shards") as writer,
            progress_bar(title, total, "stimuli", enabled=progress) as advance,
        ):
            batches = self._load(spans)
            for number, span in enumerate(spans):
                buffer = buffers[number % len(buffers)]
                if number >= len(buffers):
                    written[number - len(buffers)].result()
                buffer.clear()
                done = span[0]
                while done < span[1]:
                    images = next(batches)
                    before = self._probe.unreached()
                    responses = self._probe(images, buffer.next_rows(len(images)))
                    missed = {
                        name: count - before.get(name, 0)
                        for name, count in self._probe.unreached().items()
                    }
                    buffer.keep(responses, missed)
                    done += len(images)
                    advance(len(images))
                written.append(writer.submit(buffer.write, target, span))
            for shard in written:
                shard.result()
        return underflow.counts()

    def _batches(self, spans: Sequence[Range]) -> list[range]:
        """Return the batches: always the same for a shard, whoever computes it."""
        size = self._recording.batch_size
        return [
            range(first, min(first + size, stop))
            for start, stop in spans
            for first in range(start, stop, size)
        ]

    def _load(self, spans: Sequence[Range]) -> Iterator[Tensor]:
        on_gpu = self._probe.device.type == "cuda"
        for images, _ in load_these_batches(
            self._stimuli,
            self._batches(spans),
            workers=self._workers,
            size=self._size,
            pinned=on_gpu,
        ):
            yield images.to(self._probe.device, non_blocking=True)
