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
from unitprobe.recording.blocks import Block
from unitprobe.recording.processes import Processes
from unitprobe.stimuli import Stimuli
from unitprobe.store import Range, Recording, Shards


class Eye:
    """A probe on a device, in the precision that is asked for.

    Parameters
    ----------
    probe : Probe
        What sees.
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
        """Count anew: what was shown so far was only to try."""
        self._probe.unreached.clear()
        self._probe.stimulus_count = 0


class Recorder:
    """One process of a recording.

    Parameters
    ----------
    run : Processes
        The processes that record together.
    see : Eye
        Gives the responses to a batch.
    stimuli : Stimuli
        All stimuli, ready for the network.
    recording : Recording
        What is recorded.
    shards : Shards
        Where to.
    size : sequence of int
        Channels, height and width that all stimuli must have.
    workers : int
        Processes that load images.
    """

    def __init__(
        self,
        run: Processes,
        see: Eye,
        stimuli: Stimuli,
        recording: Recording,
        shards: Shards,
        *,
        size: Sequence[int],
        workers: int,
    ) -> None:
        self._run = run
        self._see = see
        self._stimuli = stimuli
        self._recording = recording
        self._shards = shards
        self._size = size
        self._workers = workers

    def find_missing(self) -> Sequence[Range]:
        """Return the shards that are missing, after looking whether the others go on from here.

        Raises
        ------
        ContentsMismatchError
            The network gives other responses than are recorded.
        """
        ranges = self._shards.ranges()
        self._run.gather(lambda: None if self._run.first else self._shards.join())
        # To check what is there takes as long as to read it: each looks at its part.
        found = self._run.gather(lambda: self._shards.missing(self._run.share(ranges)))
        missing = [span for part in found for span in part]
        whole = sorted(set(ranges) - set(missing))
        if whole:
            self._run.first_alone(lambda: self._check_resumed(whole[0][0]))
        return missing

    def _check_resumed(self, stimulus: int) -> None:
        """Compare one stimulus of what is recorded with what the network gives now.

        The key of a recording cannot see everything: a lambda in the transform, an attribute that
        the network reads while it runs.
        """
        image, _ = next(load_batches(self._stimuli, [stimulus], batch_size=1))
        coarse = self._recording.dtype == "float16" or self._see.half
        for name, response in self._see(image).items():
            before = self._shards.read(stimulus, name).astype(np.float64)
            now = response[0].cpu().double().numpy()
            scale = float(np.nanmax(np.abs(before), initial=0))
            tolerance = 1e-2 if coarse else 1e-3
            if not np.allclose(before, now, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
                raise ContentsMismatchError(
                    f"{self._shards.folder} was recorded with something else: layer {name!r} gives "
                    f"other responses to stimulus {str(self._stimuli.ids[stimulus])!r} now; choose "
                    "another path, or give it up with resume=False (--no-resume)"
                )

    def rehearse(self, missing: Sequence[Range]) -> float:
        """Return the seconds that this process's part will take, by the time of one batch."""
        spans = self._run.share(missing)
        batches = self._batches(spans)
        if not batches:
            return 0.0
        for _ in range(2):  # the first call is slower than all that follow
            begun = time.perf_counter()
            images, _ = next(load_these_batches(self._stimuli, batches[:1]))
            responses = self._see(images)
            for response in responses.values():
                response[0].cpu()  # waits for a GPU
            taken = time.perf_counter() - begun
        return taken * sum(map(len, batches)) / len(batches[0])

    def fill(self, missing: Sequence[Range], *, progress: bool) -> None:
        """Record this process's part of what is missing.

        While the network computes a shard, a thread writes the one before. A failure to write
        stops the recording at the end of a shard.
        """
        spans = self._run.share(missing)
        if not spans:
            return
        blocks = [Block(self._recording, self._see.device) for _ in range(min(2, len(spans)))]
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
                block = blocks[number % len(blocks)]
                if number >= len(blocks):
                    written[number - len(blocks)].result()
                block.clear()
                done = span[0]
                while done < span[1]:
                    images = next(batches)
                    before = self._see.unreached()
                    responses = self._see(images, block.next_rows(len(images)))
                    missed = {
                        name: count - before.get(name, 0)
                        for name, count in self._see.unreached().items()
                    }
                    block.keep(responses, missed)
                    done += len(images)
                    advance(len(images))
                written.append(writer.submit(block.write, self._shards, span))
            for shard in written:
                shard.result()

    def _batches(self, spans: Sequence[Range]) -> list[range]:
        """Return the batches: always the same for a shard, whoever computes it."""
        size = self._recording.batch_size
        return [
            range(first, min(first + size, stop))
            for start, stop in spans
            for first in range(start, stop, size)
        ]

    def _load(self, spans: Sequence[Range]) -> Iterator[Tensor]:
        on_gpu = self._see.device.type == "cuda"
        for images, _ in load_these_batches(
            self._stimuli,
            self._batches(spans),
            workers=self._workers,
            size=self._size,
            pinned=on_gpu,
        ):
            yield images.to(self._see.device, non_blocking=True)
