"""The accuracy of a network without sets of units from all of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from unitprobe.ablation.choice import targets_of_weights
from unitprobe.ablation.identity import kept_in
from unitprobe.ablation.jointly import sweep_jointly
from unitprobe.ablation.replacements import Mode
from unitprobe.ablation.sweep import SweepOptions, load_two
from unitprobe.ablation.targets import Targets
from unitprobe.batches import prepare
from unitprobe.layers import list_layers, select_layers
from unitprobe.models import Network
from unitprobe.protocols.options import RunOptions, exactly
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray


def accuracy_without(
    model: Network | nn.Module,
    stimuli: Stimuli,
    sizes: Mapping[str, int],
    sets: Sequence[Sequence[int]],
    *,
    mode: Mode,
    seed: int,
    run: RunOptions,
) -> tuple[float, FloatArray]:
    """Return the accuracy of the intact network, and without each set of units.

    Parameters
    ----------
    model, stimuli
        As `unitprobe.ablate`.
    sizes : mapping of str to int
        Layers, and how many units each has.
    sets : sequence of sequences of int
        What is ablated together: units, numbered through all layers in the order of `sizes`.
    mode : Mode
        What takes their place; see `unitprobe.ablate`.
    seed : int
        Of noise and of other stimuli.
    run : RunOptions
        How the network is run; ``method`` and ``memory`` do not matter here.

    Returns
    -------
    float, array (set,)
        Accuracies in 0..1.
    """
    options = SweepOptions(
        mode,
        seed=seed,
        batch_size=run.get("batch_size", 64),
        workers=run.get("workers", 0),
        progress=run.get("progress", True),
    )
    with prepare(model, stimuli, batch_size=options.batch_size, device=run.get("device")) as (
        network,
        images,
    ):
        two = load_two(network, images).images
        listed = list_layers(network, example=two[:1])
        chosen = {
            layer.name: layer for layer in select_layers(network.module, listed, exactly(sizes))
        }
        joint, first = [], 0
        for name, size in sizes.items():
            groups = tuple(
                tuple(unit - first for unit in units if first <= unit < first + size)
                for units in sets
            )
            joint.append(Targets(chosen[name], groups))
            first += size
        if mode == "weights":
            joint = targets_of_weights(network, two, joint, listed)
        with kept_in(run.get("keep"), network, images, joint, options, jointly=True) as checkpoint:
            intact, ablated = sweep_jointly(network, images, joint, options, checkpoint)
    count = len(stimuli)
    accuracy: FloatArray = ablated.correct.sum(1) / np.float64(count)
    return float(intact.correct.sum() / count), accuracy
