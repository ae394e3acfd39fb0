"""Ablate units of several layers together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unitprobe.ablation.checkpoint import Checkpoint, Counts
from unitprobe.ablation.classifier import Classifier, as_classifier
from unitprobe.ablation.forward_passes import (
    Batch,
    class_outputs,
    intact_logits,
    load,
    load_two,
    run,
)
from unitprobe.ablation.identity import kept_in
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.replacements import Replacement, make_replacement
from unitprobe.ablation.settings import SweepOptions
from unitprobe.ablation.targets import Targets, targets_of_weights
from unitprobe.batches import prepare
from unitprobe.layers import Layer, evaluating, list_layers, unit_indices
from unitprobe.memory import keeping_freed_memory
from unitprobe.models import Network
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray

_JOINT = "all layers"


def accuracy_without(
    model: Network | nn.Module,
    stimuli: Stimuli,
    sizes: Mapping[str, int],
    sets: Sequence[Sequence[int]],
    options: SweepOptions,
    *,
    device: str | torch.device | None = None,
    keep: str | os.PathLike[str] | None = None,
) -> tuple[float, FloatArray]:
    """Return the accuracy of the intact network, and without each set of units.

    The whole network runs for every set, whose units may belong to several layers.

    Parameters
    ----------
    model, stimuli, device
        As `unitprobe.ablate`.
    sizes : mapping of str to int
        The number of units of each layer, by name.
    sets : sequence of sequences of int
        Units that are ablated together, numbered through all layers in the order of `sizes`.
    options : SweepOptions
        How they are ablated; ``method`` and ``memory`` have no effect.
    keep : path, optional
        As `unitprobe.ablate`.

    Returns
    -------
    float, array (set,)
        Accuracies in 0..1.

    Raises
    ------
    LabelError, ModelError
        As `unitprobe.ablate`.
    """
    with prepare(model, stimuli, batch_size=options.batch_size, device=device) as (
        network,
        images,
    ):
        two = load_two(network, images).images
        classifier = as_classifier(network, two, options.output)
        listed = list_layers(network, example=two[:1])
        chosen = {layer.name: layer for layer in listed if layer.name in sizes}
        total = sum(sizes.values())
        sets = [unit_indices(units, total, "the layers together") for units in sets]
        joint, first = [], 0
        for name, size in sizes.items():
            groups = tuple(
                tuple(unit - first for unit in units if first <= unit < first + size)
                for units in sets
            )
            joint.append(Targets(chosen[name], groups))
            first += size
        if options.mode == "weights":
            joint = targets_of_weights(network, two, joint, listed)
        with kept_in(keep, classifier, images, joint, options, jointly=True) as checkpoint:
            intact, ablated = _sweep_jointly(classifier, images, joint, options, checkpoint)
    count = len(stimuli)
    accuracy: FloatArray = ablated.correct.sum(1) / np.float64(count)
    return float(intact.correct.sum() / count), accuracy


def _sweep_jointly(
    network: Classifier,
    stimuli: Stimuli,
    joint: Sequence[Targets],
    options: SweepOptions,
    checkpoint: Checkpoint | None,
) -> tuple[Outcomes, Outcomes]:
    """Ablate target i of all layers together, for every i; return the outcomes, intact first.

    Every layer has the same number of targets. A target may be empty.
    """
    classes, count = len(stimuli.class_names), len(joint[0])
    counts = Counts(Outcomes.empty(1, classes), {_JOINT: Outcomes.empty(count, classes)})
    if checkpoint is not None:
        checkpoint.restore(counts)
    with evaluating(network.module), torch.no_grad(), keeping_freed_memory():
        replacement = make_replacement(network, stimuli, joint, options)
        outputs: Tensor | None = None
        total = count * len(stimuli)
        with progress_bar(
            "ablating all layers", total, "stimuli x sets", enabled=options.progress
        ) as step:
            step(count * counts.stimuli)
            for batch in load(network, stimuli, options, counts.stimuli):
                logits = intact_logits(network, batch.images)
                if outputs is None:
                    outputs = class_outputs(network, stimuli, logits)
                answers = Answers.of(network, logits, batch.labels, outputs)
                counts.intact.add(0, logits[None], answers)
                for number, ablated in enumerate(_ablated(network, batch, joint, replacement)):
                    counts.ablated[_JOINT].add(number, ablated[None], answers)
                    step(len(batch.numbers))
                counts.stimuli += len(batch.numbers)
                if checkpoint is not None:
                    checkpoint.keep(counts)
    return counts.intact, counts.ablated[_JOINT]


def _ablated(
    network: Classifier, batch: Batch, joint: Sequence[Targets], replacement: Replacement
) -> Iterator[Tensor]:
    """Yield the logits (stimulus, output) with each target of all layers replaced."""
    by_name = {
        layer.name: targets.of_call(layer)
        for targets in joint
        for layer in (targets.layer, *targets.other_calls)
    }
    number = 0

    def change(layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> Tensor | None:
        targets = by_name[layer.name]
        group = targets.groups[number]
        if not group:
            return None
        # Not the intact values, if earlier layers are ablated too.
        present = targets.coordinates(activation, group)
        return targets.replace(activation, group, replacement(targets, group, present, batch))

    with watch_layers(
        network.module, [targets.layer for targets in by_name.values()], change
    ) as watcher:
        for number in range(len(joint[0])):  # noqa: B007 (`change` reads it)
            yield run(network, batch.images, watcher)
