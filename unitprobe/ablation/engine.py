"""How ablated logits are computed: the interface, and the engine that runs the whole network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from unitprobe.ablation.forward_passes import Batch, intact_logits, run
from unitprobe.ablation.replacements import Replacement
from unitprobe.ablation.targets import Targets
from unitprobe.layers import Layer
from unitprobe.models import Network
from unitprobe.probe import watch_layers


class Engine(Protocol):
    """Computes the logits of a network with parts of one layer replaced."""

    #: The name of the engine in the result.
    method: str

    def begin(self, batch: Batch) -> Tensor:
        """Take the next batch of stimuli; return the intact logits (stimulus, output)."""
        ...

    def ablated(self, targets: Targets, replacement: Replacement) -> Iterator[Tensor]:
        """Yield the logits (target, stimulus, output) of some targets at a time, in order."""
        ...


class FullEngine:
    """Runs the whole network for every target: slow, and the reference for other engines.

    Parameters
    ----------
    network : Network
        A classifier in evaluation mode.
    """

    method = "full"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._batch: Batch | None = None

    def begin(self, batch: Batch) -> Tensor:
        """Take the next batch; return the intact logits (stimulus, output)."""
        self._batch = batch
        return intact_logits(self._network, batch.images)

    def ablated(self, targets: Targets, replacement: Replacement) -> Iterator[Tensor]:
        """Yield the logits (1, stimulus, output) of each target."""
        batch = self._batch
        assert batch is not None
        group: tuple[int, ...] = ()

        def change(layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> Tensor:
            here = targets.of_call(layer)
            intact = here.coordinates(activation, group)
            return here.replace(activation, group, replacement(here, group, intact, batch))

        calls = [targets.layer, *targets.other_calls]
        with watch_layers(self._network.module, calls, change) as watcher:
            for chosen in targets.groups:
                group = chosen
                yield run(self._network, batch.images, watcher)[None]
