"""Ablate targets of several layers together: the whole network runs for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unitprobe.ablation.checkpoint import Checkpoint, Counts
from unitprobe.ablation.engine import intact_logits, run
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.replacements import Batch, Replacement
from unitprobe.ablation.sweep import SweepOptions, load, make_replacement
from unitprobe.ablation.targets import Targets
from unitprobe.layers import Layer, evaluating
from unitprobe.memory import keeping_freed_memory
from unitprobe.models import Network, output_indices
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli

_JOINT = "all layers"


def sweep_jointly(
    network: Network,
    stimuli: Stimuli,
    joint: Sequence[Targets],
    options: SweepOptions,
    checkpoint: Checkpoint | None = None,
) -> tuple[Outcomes, Outcomes]:
    """Ablate the first target of every layer together, then the second of every layer, and so on.

    Parameters
    ----------
    network, stimuli, options, checkpoint
        As `unitprobe.ablation.sweep.run_sweep`.
    joint : sequence of Targets
        A layer each, with as many targets in all; a target may be empty.

    Returns
    -------
    Outcomes, Outcomes
        Of the intact network, its only target, and of every target.

    Raises
    ------
    LabelError, ModelError
        As `unitprobe.ablation.sweep.run_sweep`.
    """
    classes, count = len(stimuli.class_names), len(joint[0])
    counts = Counts(Outcomes.empty(1, classes), {_JOINT: Outcomes.empty(count, classes)})
    if checkpoint is not None:
        checkpoint.restore(counts)
    with evaluating(network.module), torch.no_grad(), keeping_freed_memory():
        replacement = make_replacement(network, stimuli, joint, options)
        output_of_class: Tensor | None = None
        total = count * len(stimuli)
        with progress_bar(
            "ablating all layers", total, "stimuli x sets", enabled=options.progress
        ) as step:
            step(count * counts.stimuli)
            for batch in load(network, stimuli, options, counts.stimuli):
                logits = intact_logits(network, batch.images)
                if output_of_class is None:
                    indices = output_indices(network, stimuli.class_names, logits.shape[1])
                    output_of_class = torch.from_numpy(indices)
                answers = Answers.of(logits, batch.labels, output_of_class)
                counts.intact.add(0, logits[None], answers)
                for number, ablated in enumerate(_ablated(network, batch, joint, replacement)):
                    counts.ablated[_JOINT].add(number, ablated[None], answers)
                    step(len(batch.numbers))
                counts.stimuli += len(batch.numbers)
                if checkpoint is not None:
                    checkpoint.keep(counts)
    return counts.intact, counts.ablated[_JOINT]


def _ablated(
    network: Network, batch: Batch, joint: Sequence[Targets], replacement: Replacement
) -> Iterator[Tensor]:
    """Yield the logits (stimulus, output) with each target of all layers replaced."""
    by_name = {targets.layer.name: targets for targets in joint}
    number = 0

    def change(layer: Layer, activation: Tensor, _args: tuple[Any, ...]) -> Tensor | None:
        targets = by_name[layer.name]
        group = targets.groups[number]
        if not group:
            return None
        # What reaches the layer is not intact where earlier layers are ablated too.
        present = targets.coordinates(activation, group)
        return targets.replace(activation, group, replacement(targets, group, present, batch))

    with watch_layers(network.module, [targets.layer for targets in joint], change) as watcher:
        for number in range(len(joint[0])):  # noqa: B007 (`change` reads it)
            yield run(network, batch.images, watcher)
