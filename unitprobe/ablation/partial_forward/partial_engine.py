"""The engine that computes only what an ablated unit reaches.

The network runs as a graph (`network_graph`). Operations that depend on an ablated layer are
downstream of it; the intact values that they read are kept. Many ablations of one layer run through
these operations together (`downstream`): as long as units are treated apart, only the ablated ones
(`unit_change`), and convolutions with fewer multiplications (`winograd`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from unitprobe.ablation.engine import FullEngine
from unitprobe.ablation.forward_passes import Batch
from unitprobe.ablation.partial_forward.downstream import (
    Downstream,
    VariantRun,
    winograd_convolutions,
)
from unitprobe.ablation.partial_forward.network_graph import (
    Batched,
    NetworkGraph,
    Node,
    is_layer_output,
)
from unitprobe.ablation.partial_forward.unit_change import UnitChange, split
from unitprobe.ablation.replacements import Replacement
from unitprobe.ablation.targets import Targets
from unitprobe.compiled import single_threads
from unitprobe.errors import ModelError, OptionError

#: Computes the logits (target, stimulus, output) of some targets.
Job: TypeAlias = Callable[[], Tensor]

# What a run holds at a time should stay in the cache of a processor.
_CACHE_BYTES = 16 * 2**20
_FEWEST_STIMULI = 16


class PartialForwardEngine:
    """Computes ablated logits from what the ablated layer reaches.

    On a processor, each of PyTorch's threads runs ablations of its own.

    Parameters
    ----------
    graph : NetworkGraph
        A classifier.
    swept : sequence of Targets
        What will be ablated.
    memory : int
        Bytes for what is kept and computed at a time, beside the weights.
    """

    method = "partial_forward"

    def __init__(self, graph: NetworkGraph, swept: Sequence[Targets], memory: int) -> None:
        self._graph = graph
        self._memory = memory
        self._downstream = {
            targets.layer.name: Downstream.of(graph, graph.layer_outputs[targets.layer.name])
            for targets in swept
        }
        self._constants = {node: _channels_last(value) for node, value in graph.constants.items()}
        numbers = [value for value in graph.constants.values() if value.is_floating_point()]
        # A half-precision result depends on the way it is computed: keep to the network's own.
        self._exact = all(value.dtype in (torch.float32, torch.float64) for value in numbers)
        reached = {node: None for one in self._downstream.values() for node in one.nodes}
        self._convolutions = winograd_convolutions(graph, reached, memory // 4)
        on_processor = all(value.device.type == "cpu" for value in numbers)
        self._workers = torch.get_num_threads() if on_processor else 1
        self._run_bytes = min(_CACHE_BYTES, memory // 8) if on_processor else memory // 4
        #: By layer, the intact values that the operations downstream of it read.
        self._read: dict[str, set[Node]] = {}
        self._keeps_all = True
        self._learns = False
        self._intact: Mapping[Node, Any] = {}
        self._batch: Batch | None = None

    def check(self, batch: Batch, swept: Sequence[Targets], full: FullEngine) -> None:
        """Compare with the full engine on a few stimuli, and learn which values are read.

        Raises
        ------
        ModelError
            The logits differ.
        """
        expected = full.begin(batch)
        self._batch, self._learns = batch, True
        self._intact = self._run_intact(batch.images, None)
        self._compare("the intact network", self._intact[self._graph.output], expected)
        for targets in swept:
            few = Targets(targets.layer, targets.groups[:2], targets.directions)
            reader = _Reader(self._intact)
            found = torch.cat(list(self._ablated(few, _another, reader, workers=1)))
            self._read[targets.layer.name] = reader.read
            expected = torch.cat(list(full.ablated(few, _another)))
            self._compare(f"layer {targets.layer.name!r}", found, expected)
        self._intact, self._learns = {}, False

    def _compare(self, what: str, found: Tensor, expected: Tensor) -> None:
        difference = float((found - expected).abs().max())
        bound = (1e-4 if self._exact else 3e-2) * max(1.0, float(expected.abs().max()))
        if not difference <= bound:
            raise ModelError(
                f"its graph gives other logits for {what}: they differ by {difference:.2g}"
            )

    def fit(self, batch_size: int) -> int:
        """Return how many stimuli of a batch are best taken, and choose what is kept.

        No more than fit the memory, and than one variant may have in the cache of a processor.

        Raises
        ------
        OptionError
            Not even two do.
        """
        batch_size = max(2, batch_size)  # as `batches_of_two_or_more` has it
        held = {name: self._bytes(read) for name, read in self._read.items()}
        run = (
            max(downstream.bytes_of_stimulus for downstream in self._downstream.values())
            * self._workers
        )
        everything = self._bytes(set().union(*self._read.values()))
        free = self._memory - sum(one.bytes for one in self._convolutions.values())
        self._keeps_all = (everything + run) * batch_size <= free
        needed = everything if self._keeps_all else max(held.values())
        most = free // (needed + run)
        if most < 2:
            raise OptionError(
                f"memory={self._memory / 1e6:.0f} MB does not hold two stimuli, which take "
                f"{2 * (needed + run) / 1e6:.0f} MB; give more, or method='full'"
            )
        largest = max(downstream.bytes_of_stimulus for downstream in self._downstream.values())
        return int(min(batch_size, most, max(_FEWEST_STIMULI, self._run_bytes // largest)))

    def _bytes(self, nodes: set[Node]) -> int:
        return sum(map(self._graph.bytes_of_stimulus, nodes))

    def begin(self, batch: Batch) -> Tensor:
        """Take the next batch; return the intact logits (stimulus, output)."""
        self._batch = batch
        kept = set().union(*self._read.values()) if self._keeps_all else set()
        self._intact = self._run_intact(batch.images, kept)
        logits: Tensor = self._intact[self._graph.output]
        return logits

    def ablated(self, targets: Targets, replacement: Replacement) -> Iterator[Tensor]:
        """Yield the logits (target, stimulus, output) of some targets at a time, in order."""
        assert self._batch is not None
        intact = self._intact
        if not self._keeps_all:
            intact = self._run_intact(self._batch.images, self._read[targets.layer.name])
        yield from self._ablated(targets, replacement, intact, self._workers)

    def _run_intact(self, images: Tensor, kept: set[Node] | None) -> dict[Node, Any]:
        graph = self._graph
        values: dict[Node, Any] = {graph.images: _channels_last(images), **self._constants}
        for node in graph.nodes:
            if node in graph.sizes:
                values[node] = graph.sizes[node] * len(images)
            elif is_layer_output(node):
                values[node] = values[node.args[0]]
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
            for source in graph.last_use.get(node, ()):
                if kept is not None and source not in kept and source not in self._constants:
                    del values[source]
        return values

    def _ablated(
        self,
        targets: Targets,
        replacement: Replacement,
        intact: Mapping[Node, Any],
        workers: int,
    ) -> Iterator[Tensor]:
        assert self._batch is not None
        downstream = self._downstream[targets.layer.name]
        fitting = max(1, self._run_bytes // downstream.bytes_of_stimulus)
        count = max(1, min(fitting // len(self._batch.images), -(-len(targets) // workers)))
        parts = [
            Targets(targets.layer, targets.groups[first : first + count], targets.directions)
            for first in range(0, len(targets), count)
        ]
        plain = self._graph.batched[downstream.source] == Batched(0, 1)
        if self._exact and plain and targets.single_units is not None:
            jobs = self._unit_jobs(parts, targets, replacement, downstream, intact)
        else:
            jobs = self._whole_jobs(parts, replacement, downstream, intact)
        yield from _run_in_order(jobs, workers)

    def _unit_jobs(
        self,
        parts: Sequence[Targets],
        targets: Targets,
        replacement: Replacement,
        downstream: Downstream,
        intact: Mapping[Node, Any],
    ) -> Iterator[Job]:
        """Find what replaces single units; leave out units that are not changed at all."""
        batch, units = self._batch, targets.single_units
        assert batch is not None
        assert units is not None
        assert targets.layer.unit_axis is not None
        activation = intact[downstream.source]
        axis = targets.layer.unit_axis % activation.ndim
        old = targets.coordinates(activation, units)
        new = replacement(targets, units, old, batch).expand_as(old)
        # (target, stimulus); a reader of all values has to see every stimulus
        changes = (new != old).reshape(*old.shape[:2], -1).any(2).T | self._learns
        first = 0
        for part in parts:
            rows = slice(first, first + len(part))
            first += len(part)
            which = changes[rows].any(1).nonzero().flatten() + rows.start
            some = torch.as_tensor(units, device=activation.device)[which]
            values = new[:, which].movedim(1, axis)
            narrow = UnitChange(values, axis, some, activation)
            yield partial(self._unit_logits, downstream, narrow, changes[rows], intact)

    def _unit_logits(
        self,
        downstream: Downstream,
        narrow: UnitChange,
        changes: Tensor,
        intact: Mapping[Node, Any],
    ) -> Tensor:
        """Return the logits (target, stimulus, output); where nothing changes, the intact ones."""
        logits: Tensor = intact[self._graph.output].expand(len(changes), -1, -1)
        count = len(narrow.units)
        if count == 0:
            return logits
        logits, some = logits.clone(), changes.any(1)
        ablated = self._logits(downstream, narrow, count, intact)
        # Rounding depends on the batch: where nothing changes, keep the intact logits exactly.
        logits[some] = torch.where(changes[some, :, None], ablated, logits[some])
        return logits

    def _whole_jobs(
        self,
        parts: Sequence[Targets],
        replacement: Replacement,
        downstream: Downstream,
        intact: Mapping[Node, Any],
    ) -> Iterator[Job]:
        """Replace groups of units, or directions, in whole activations, one after another."""
        batch = self._batch
        assert batch is not None
        activation = intact[downstream.source]
        for part in parts:
            variants = [
                part.replace(
                    activation,
                    group,
                    replacement(part, group, part.coordinates(activation, group), batch),
                )
                for group in part.groups
            ]
            start = torch.cat(variants, self._graph.batched[downstream.source].axis)
            yield partial(self._logits, downstream, start, len(part), intact)

    def _logits(
        self,
        downstream: Downstream,
        start: Tensor | UnitChange,
        variants: int,
        intact: Mapping[Node, Any],
    ) -> Tensor:
        assert self._batch is not None
        stimuli = len(self._batch.images)
        run = VariantRun(self._graph, downstream, intact, self._convolutions, variants, stimuli)
        with torch.no_grad():  # which each thread sets for itself
            return split(run.logits(start), variants)


def _run_in_order(jobs: Iterable[Job], workers: int) -> Iterator[Tensor]:
    """Yield what jobs return, in their order; each of several workers computes in one thread."""
    if workers == 1:
        for job in jobs:
            yield job()
        return
    waiting: deque[Future[Tensor]] = deque()
    with single_threads(workers) as pool:
        torch.set_num_threads(1)
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _another(targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch) -> Tensor:
    """Replace values by others."""
    return 1.25 * intact + 1


class _Reader(Mapping[Node, Any]):
    """The intact values; remembers which were read."""

    def __init__(self, values: Mapping[Node, Any]) -> None:
        self._values = values
        self.read: set[Node] = set()

    def __getitem__(self, node: Node) -> Any:
        self.read.add(node)
        return self._values[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
