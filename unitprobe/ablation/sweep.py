"""Ablate targets one after another, batch after batch, and count what the network gets right."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unitprobe.ablation.checkpoint import Checkpoint, Counts
from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.engine import Engine, FullEngine
from unitprobe.ablation.forward_passes import class_outputs, load, load_two
from unitprobe.ablation.logit_changes import LogitChanges
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.partial_forward.network_graph import capture_graph
from unitprobe.ablation.partial_forward.partial_engine import PartialForwardEngine
from unitprobe.ablation.replacements import make_replacement
from unitprobe.ablation.settings import SweepOptions
from unitprobe.ablation.targets import Targets
from unitprobe.errors import ModelError, UnitprobeWarning
from unitprobe.layers import evaluating
from unitprobe.memory import keeping_freed_memory
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli
from unitprobe.typing import IntArray

# Capturing a network as a graph takes about as long as this many passes.
_FEW_PASSES = 20


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes
    ----------
    intact : Outcomes
        Of the intact network, as one target.
    ablated : dict of str to Outcomes
        By layer, of every target.
    class_count : array (class_name,)
        Stimuli of each class.
    method : str
        The engine that ran.
    """

    intact: Outcomes
    ablated: dict[str, Outcomes]
    class_count: IntArray
    method: str


def run_sweep(
    network: Classifier,
    stimuli: Stimuli,
    swept: Sequence[Targets],
    options: SweepOptions,
    checkpoint: Checkpoint | None = None,
    changes: LogitChanges | None = None,
) -> Sweep:
    """Ablate every target and count the outcomes.

    Parameters
    ----------
    network : Network
        A classifier, on its device (see `unitprobe.batches.prepare`).
    stimuli : Stimuli
        Labelled images with their transform.
    swept : sequence of Targets
        What is ablated, one for each layer.
    options : SweepOptions
        How it is ablated.
    checkpoint : Checkpoint, optional
        Keeps the counts, and has those of an interrupted sweep.
    changes : LogitChanges, optional
        Takes the change of every logit.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    ModelError
        The network is not a classifier.
    """
    classes = len(stimuli.class_names)
    counts = Counts.empty(swept, classes)
    if checkpoint is not None:
        checkpoint.restore(counts)
    total = sum(map(len, swept)) * len(stimuli)
    with evaluating(network.module), torch.no_grad(), keeping_freed_memory():
        engine = choose_engine(network, stimuli, swept, options)
        if isinstance(engine, PartialForwardEngine):
            options = replace(options, batch_size=engine.fit(options.batch_size))
        if not counts.batch_size:
            counts.batch_size = options.batch_size
        # A resumed sweep may start within a batch, which must then have the same stimuli.
        options = replace(options, batch_size=counts.batch_size)
        replacement = make_replacement(network, stimuli, swept, options)
        outputs: Tensor | None = None
        with progress_bar("ablating", total, "stimuli x units", enabled=options.progress) as step:
            step(counts.steps(swept, len(stimuli)))
            for batch in load(network, stimuli, options, counts.stimuli):
                logits = engine.begin(batch)
                if outputs is None:
                    outputs = class_outputs(network, stimuli, logits)
                answers = Answers.of(network, logits, batch.labels, outputs)
                if counts.layers == 0:
                    counts.intact.add(0, logits[None], answers)
                for targets in swept[counts.layers :]:
                    first = 0
                    for some in engine.ablated(targets, replacement):
                        counts.ablated[targets.layer.name].add(first, some, answers)
                        if changes is not None:
                            changes.add(some - logits)
                        first += len(some)
                        step(len(some) * len(batch.numbers))
                    if changes is not None:
                        changes.write(targets, batch.numbers)
                    counts.layers += 1
                    if checkpoint is not None:
                        checkpoint.keep(counts)
                counts.stimuli, counts.layers = counts.stimuli + len(batch.numbers), 0
    count = torch.bincount(torch.from_numpy(stimuli.labels), minlength=classes).numpy()
    return Sweep(counts.intact, counts.ablated, count, engine.method)


def choose_engine(
    network: Classifier, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> Engine:
    """Return the engine that the options ask for, tried on two stimuli.

    Raises
    ------
    ModelError
        ``method="partial_forward"`` is asked for, and the network cannot be captured as a graph.
    """
    full = FullEngine(network)
    passes = sum(map(len, swept)) * -(-len(stimuli) // options.batch_size)
    if options.method == "full" or (options.method == "auto" and passes < _FEW_PASSES):
        return full
    shared = next((targets for targets in swept if targets.other_calls), None)
    if shared is not None:
        # Its units change at several layers at once, and the partial engine starts at one.
        if options.method == "partial_forward":
            raise ModelError(
                f"mode='weights': the weights of {shared.layer.name!r} are used in "
                f"{1 + len(shared.other_calls)} calls, which method='partial_forward' cannot "
                "silence together; give method='full'"
            )
        return full
    two = load_two(network, stimuli)
    try:
        graph = capture_graph(network, [targets.layer for targets in swept], two.images)
        engine = PartialForwardEngine(graph, swept, options.memory)
        engine.check(two, swept, full)
    except ModelError as error:
        if options.method == "partial_forward":
            raise
        warnings.warn(
            f"the whole network runs for every unit, which is slow: {error}",
            UnitprobeWarning,
            stacklevel=4,
        )
        return full
    return engine
