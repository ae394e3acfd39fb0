"""Batches of stimuli and forward passes of a classifier, for every way to ablate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.settings import SweepOptions
from unitprobe.batches import batches_of_two_or_more, load_batches, load_these_batches
from unitprobe.errors import LabelError, ModelError, ResponseError
from unitprobe.layers import CallWatcher, Layer, as_input
from unitprobe.models import Network, output_indices
from unitprobe.probe import explained, watch_layers
from unitprobe.stimuli import Stimuli


@dataclass(frozen=True)
class Batch:
    """Some stimuli on the network's device.

    Attributes
    ----------
    images : Tensor
        (stimulus, channel, y, x), as the network takes them.
    labels : Tensor
        (stimulus,), their classes.
    numbers : sequence of int
        Their indices among all stimuli.
    """

    images: Tensor
    labels: Tensor
    numbers: Sequence[int]


def load(
    network: Network, stimuli: Stimuli, options: SweepOptions, first: int = 0
) -> Iterator[Batch]:
    """Yield the stimuli from index `first` on in batches, on the network's device."""
    batches = batches_of_two_or_more(len(stimuli), options.batch_size, first)
    for images, labels in load_these_batches(stimuli, batches, workers=options.workers):
        images = as_input(network.module, images)
        yield Batch(images, labels, range(first, first + len(images)))
        first += len(images)


def load_two(network: Network, stimuli: Stimuli) -> Batch:
    """Return the first two stimuli, or the only one twice, on the network's device."""
    images, labels = next(load_batches(stimuli, [0, min(1, len(stimuli) - 1)], batch_size=2))
    return Batch(as_input(network.module, images), labels, range(2))


def run(network: Network, images: Tensor, watcher: CallWatcher | None = None) -> Any:
    """Run a network on a copy of the images, because it may change its input in place.

    Of a classifier the logits are returned.

    All other watchers are suspended.

    Raises
    ------
    ModelError
        The network does not run on them.
    """
    alone = watcher or CallWatcher(network.module, lambda *_: None)
    with alone.suspending_others(), explained(network, images):
        returned = network.module(images.clone())
        return network.logits(returned) if isinstance(network, Classifier) else returned


def intact_logits(network: Network, images: Tensor) -> Tensor:
    """Return the logits of the intact network.

    Raises
    ------
    ModelError
        The network is not a classifier.
    ResponseError
        Logits are NaN or infinite.
    """
    return check_logits(network, run(network, images))


def check_logits(network: Network, logits: Any) -> Tensor:
    """Return the output of a network if it is finite logits; raise as `intact_logits` if not."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"{network.name} gives {what}, not logits (stimulus, output); "
            "ablation needs a classifier; if another of its outputs holds logits, name it with "
            "output="
        )
    if not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).sum())
        raise ResponseError(
            f"{network.name} gives {bad} NaN or infinite logits among {logits.numel()}"
        )
    return logits


def class_outputs(network: Network, stimuli: Stimuli, logits: Tensor) -> Tensor:
    """Return the output that stands for each class, (class_name,).

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    """
    if isinstance(network, Classifier) and network.kind.startswith("one "):
        count = len(stimuli.class_names)
        if count != 2:
            raise LabelError(
                f"network {network.name!r} has one output, which tells two classes apart, but the "
                f"stimuli have {count}; give stimuli of two classes, or a network of "
                f"num_classes={count}"
            )
    return torch.from_numpy(
        output_indices(network, stimuli.class_names, logits.shape[1], stimuli.known_class_names)
    )


def activation_of(network: Network, layer: Layer, images: Tensor) -> Tensor:
    """Return one layer's activation on some images."""
    found: list[Tensor] = []

    def keep(_layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> None:
        found.append(activation.clone())

    with watch_layers(network.module, [layer], keep) as watcher:
        run(network, images, watcher)
    return found[0]
