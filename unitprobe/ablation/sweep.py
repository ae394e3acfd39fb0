"""Ablate targets one after another, batch after batch, and count what the network gets right."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unitprobe.ablation.checkpoint import Checkpoint, Counts
from unitprobe.ablation.engine import Engine, FullEngine, activation_of, run
from unitprobe.ablation.logit_changes import LogitChanges
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.partial_forward.network_graph import capture_graph
from unitprobe.ablation.partial_forward.partial_engine import PartialForwardEngine
from unitprobe.ablation.replacements import (
    Batch,
    ClassMean,
    Constant,
    Mean,
    Mode,
    Noise,
    Replacement,
    Resample,
    RunningStatistics,
    Statistics,
    random_partners,
)
from unitprobe.ablation.targets import Targets
from unitprobe.batches import batches_in_company, load_batches, load_these_batches
from unitprobe.errors import ModelError, OptionError, UnitprobeWarning
from unitprobe.layers import Layer, as_input, evaluating
from unitprobe.memory import keeping_freed_memory
from unitprobe.models import Network, output_indices
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli

# To capture a network takes about as long as so many passes.
_FEW_PASSES = 20

#: Which engine runs; see `unitprobe.ablate`.
Method = Literal["auto", "partial_forward", "full", "attribution"]


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is run; see `unitprobe.ablate`."""

    mode: Mode = "zero"
    value: float = 0.0
    noise_scale: float = 1.0
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    method: Method = "auto"
    memory: int = 2**30
    progress: bool = True

    def __post_init__(self) -> None:
        _check("mode", self.mode, get_args(Mode))
        _check("method", self.method, get_args(Method))


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes
    ----------
    intact : Outcomes
        Of the intact network, its only target.
    ablated : dict of str to Outcomes
        By layer, of every target.
    class_count : array (class_name,)
        Stimuli of each class.
    method : str
        The engine that ran.
    """

    intact: Outcomes
    ablated: dict[str, Outcomes]
    class_count: Any
    method: str


def run_sweep(
    network: Network,
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
        What is ablated, a layer each.
    options : SweepOptions
        How.
    checkpoint : Checkpoint, optional
        Where the counts are kept on the way, and what was counted before.
    changes : LogitChanges, optional
        Where the change of every logit goes.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    ModelError
        The network is no classifier.
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
        # Some layers may have seen a batch that others have not: it has to be the same again.
        options = replace(options, batch_size=counts.batch_size)
        replacement = make_replacement(network, stimuli, swept, options)
        output_of_class: Tensor | None = None
        with progress_bar("ablating", total, "stimuli x units", enabled=options.progress) as step:
            step(counts.steps(swept, len(stimuli)))
            for batch in load(network, stimuli, options, counts.stimuli):
                logits = engine.begin(batch)
                if output_of_class is None:
                    indices = output_indices(network, stimuli.class_names, logits.shape[1])
                    output_of_class = torch.from_numpy(indices)
                answers = Answers.of(logits, batch.labels, output_of_class)
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
    network: Network, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
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


def load_two(network: Network, stimuli: Stimuli) -> Batch:
    """Return the first two stimuli, or the only one twice, on the network's device."""
    images, labels = next(load_batches(stimuli, [0, min(1, len(stimuli) - 1)], batch_size=2))
    return Batch(as_input(network.module, images), labels, range(2))


def load(
    network: Network, stimuli: Stimuli, options: SweepOptions, first: int = 0
) -> Iterator[Batch]:
    """Yield the stimuli from `first` on in batches, on the network's device."""
    batches = batches_in_company(len(stimuli), options.batch_size, first)
    for images, labels in load_these_batches(stimuli, batches, workers=options.workers):
        images = as_input(network.module, images)
        yield Batch(images, labels, range(first, first + len(images)))
        first += len(images)


def make_replacement(
    network: Network, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> Replacement:
    """Return what takes the place of what is ablated, measured on the stimuli where need be."""
    if options.mode in ("zero", "weights"):
        return Constant()
    if options.mode == "value":
        return Constant(options.value)
    if options.mode == "resample":
        if len(stimuli) < 2:
            raise OptionError(f"mode='resample' needs two stimuli or more, not {len(stimuli)}")
        partners = random_partners(len(stimuli), options.seed)
        return Resample(_activations(network, stimuli), partners)
    statistics = measure_coordinates(network, stimuli, swept, options)
    if options.mode == "mean":
        return Mean(statistics)
    if options.mode == "class_mean":
        return ClassMean(statistics)
    return Noise(statistics, options.noise_scale, options.seed)


def measure_coordinates(
    network: Network, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> Mapping[str, Statistics]:
    """Return the means and deviations of each layer's coordinates over the stimuli."""
    classes = len(stimuli.class_names)
    sums = {targets.layer.name: RunningStatistics(classes) for targets in swept}
    by_name = {targets.layer.name: targets for targets in swept}
    labels = torch.empty(0)

    def add(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
        sums[layer.name].add(by_name[layer.name].coordinates(activation), labels)

    chosen = [targets.layer for targets in swept]
    with (
        progress_bar("unit means", len(stimuli), "stimuli", enabled=options.progress) as advance,
        watch_layers(network.module, chosen, add) as watcher,
    ):
        for batch in load(network, stimuli, options):
            labels = batch.labels
            run(network, batch.images, watcher)
            advance(len(batch.numbers))
    return {name: running.compute() for name, running in sums.items()}


def _activations(network: Network, stimuli: Stimuli) -> Any:
    def activations(targets: Targets, numbers: Sequence[int]) -> Tensor:
        images, _ = next(load_batches(stimuli, numbers, batch_size=len(numbers)))
        return activation_of(network, targets.layer, as_input(network.module, images))

    return activations


def _check(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")
