"""How ablated logits are computed: the contract, and the engine that runs the whole network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from unitprobe.ablation.replacements import Batch, Replacement
from unitprobe.ablation.targets import Targets
from unitprobe.errors import ModelError, ResponseError
from unitprobe.layers import CallWatcher, Layer
from unitprobe.models import Network
from unitprobe.probe import explained, watch_layers


class Engine(Protocol):
    """Computes the logits of a network with parts of one layer replaced."""

    #: What the result says ran.
    method: str

    def begin(self, batch: Batch) -> Tensor:
        """Take the next batch of stimuli; return the intact logits (stimulus, output)."""
        ...

    def ablated(self, targets: Targets, replacement: Replacement) -> Iterator[Tensor]:
        """Yield the logits (target, stimulus, output) of some targets at a time, in order."""
        ...


class FullEngine:
    """Runs the whole network for every target: slow, and obviously right.

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

        def change(_layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> Tensor:
            intact = targets.coordinates(activation, group)
            return targets.replace(activation, group, replacement(targets, group, intact, batch))

        with watch_layers(self._network.module, [targets.layer], change) as watcher:
            for chosen in targets.groups:
                group = chosen
                yield run(self._network, batch.images, watcher)[None]


def run(network: Network, images: Tensor, watcher: CallWatcher | None = None) -> Tensor:
    """Run a network on a copy of the images: it may work in place on what it is given.

    No watcher but the one that is given hears of it.

    Raises
    ------
    ModelError
        The network does not run on them.
    """
    alone = watcher or CallWatcher(network.module, lambda *_: None)
    with alone.alone(), explained(network, images):
        logits: Tensor = network.module(images.clone())
    return logits


def intact_logits(network: Network, images: Tensor) -> Tensor:
    """Return the logits of the intact network.

    Raises
    ------
    ModelError
        It is no classifier.
    ResponseError
        Logits are NaN or infinite.
    """
    return check_logits(network, run(network, images))


def check_logits(network: Network, logits: Tensor) -> Tensor:
    """Return what a network gave if it is finite logits; raise as `intact_logits` if not."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{network.name} gives {what}, not logits (stimulus, output); "
            "ablation needs a classifier"
        )
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise ResponseError(
            f"{network.name} gives {bad} NaN or infinite logits among {logits.numel()}"
        )
    return logits


def activation_of(network: Network, layer: Layer, images: Tensor) -> Tensor:
    """Return one layer's activation on some images."""
    found: list[Tensor] = []

    def keep(_layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> None:
        found.append(activation.clone())

    with watch_layers(network.module, [layer], keep) as watcher:
        run(network, images, watcher)
    return found[0]
