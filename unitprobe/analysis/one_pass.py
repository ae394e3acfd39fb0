"""One pass of stimuli through a network: responses by layer, some stimuli at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unitprobe.batches import load_batches
from unitprobe.errors import ResponseError
from unitprobe.memory import keeping_freed_memory
from unitprobe.online import rank_and_world, share_of_rank
from unitprobe.probe import Probe, Responses
from unitprobe.progress import progress_bar
from unitprobe.responses import check_finite
from unitprobe.stimuli import Stimuli
from unitprobe.store import check_layer_names
from unitprobe.typing import IntArray

# Statistics cost less for a thousand stimuli at once than one by one.
_CHUNK_STIMULI = 1024
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Some stimuli, and what their responses are in each layer.

    Attributes
    ----------
    indices : array
        (stimulus,), the indices of the stimuli.
    layers : dict
        By layer the indices of those that reached it, and their responses (stimulus, unit).
    """

    indices: IntArray
    layers: dict[str, tuple[IntArray, Tensor]]


class OnePass:
    """A pass of stimuli through a network that is probed; each stimulus is shown once.

    Under torchrun every process passes its contiguous share.

    Parameters
    ----------
    probe : Probe
        The entered probe.
    stimuli : Stimuli
        The stimuli as the network takes them.
    batch_size, workers
        As `unitprobe.record`.
    most_bytes : int
        Responses of several batches are joined up to this size.

    Attributes
    ----------
    example : Tensor
        The first batch.
    responses : dict
        The responses to the first stimulus, by layer.
    nbytes : int
        The size of the responses to all stimuli.
    """

    def __init__(
        self,
        probe: Probe[Responses],
        stimuli: Stimuli,
        *,
        batch_size: int,
        workers: int,
        most_bytes: int,
    ) -> None:
        self._probe = probe
        self._stimuli = stimuli
        self._batch_size = batch_size
        self._workers = workers
        few = range(min(batch_size, len(stimuli)))
        self.example, _ = next(load_batches(stimuli, few, batch_size=batch_size))
        check_layer_names(layer.name for layer in probe.resolve(self.example))
        self.responses = {
            layer: _widen(response) for layer, response in probe(self.example[:1]).items()
        }
        probe.unreached.clear()  # the example is not part of the pass
        probe.stimulus_count = 0
        each = sum(response.nbytes for response in self.responses.values())
        self.nbytes = each * len(stimuli)
        self._enough = min(_CHUNK_STIMULI, max(1, min(_CHUNK_BYTES, most_bytes) // each))

    def chunks(self, *, progress: bool) -> Iterator[Chunk]:
        """Yield the responses to the stimuli of this process.

        Raises
        ------
        ResponseError
            Responses are NaN or infinite, or stimuli give a layer different numbers of units.
        """
        share = share_of_rank(len(self._stimuli))
        batches = load_batches(
            self._stimuli,
            share,
            batch_size=self._batch_size,
            workers=self._workers,
            size=tuple(self.example.shape[1:]),
        )
        held: dict[str, list[Tensor]] = {}
        start, stop, missed = share.start, share.start, Counter(self._probe.unreached)
        shown = progress and rank_and_world()[0] == 0
        with (
            keeping_freed_memory(),
            progress_bar("analyzing", len(share), "stimuli", enabled=shown) as advance,
        ):
            for images, _ in batches:
                for layer, response in self._probe(images).items():
                    _check_units(layer, response, self.responses[layer])
                    held.setdefault(layer, []).append(_widen(response))
                stop += len(images)
                if stop - start >= self._enough or stop == share.stop:
                    unreached = self._probe.unreached - missed
                    yield self._chunk(np.arange(start, stop), held, unreached)
                    held, missed = {}, Counter(self._probe.unreached)
                    start = stop
                advance(len(images))

    def _chunk(
        self, indices: IntArray, held: dict[str, list[Tensor]], unreached: Counter[str]
    ) -> Chunk:
        layers = {}
        for layer, parts in held.items():
            responses, reached = torch.cat(parts), indices
            if unreached[layer]:
                rows = ~torch.isnan(responses).all(dim=1)
                responses, reached = responses[rows], indices[rows.cpu().numpy()]
            if not bool(torch.isfinite(responses).all()):
                check_finite(responses.cpu().numpy(), layer, self._stimuli.ids[reached])
            layers[layer] = reached, responses
        return Chunk(indices, layers)


def _widen(response: Tensor) -> Tensor:
    """Return half precision as single precision, which a recording holds."""
    return response.float() if response.dtype.itemsize < 4 else response


def _check_units(layer: str, response: Tensor, earlier: Tensor) -> None:
    if response.shape[1:] != earlier.shape[1:]:
        raise ResponseError(
            f"layer {layer!r} gave {response.shape[1]} units where earlier stimuli gave "
            f"{earlier.shape[1]}; stimuli of one size are needed"
        )
