"""The single-unit zero sweep of every activation layer, against other ways to the same numbers.

The full sweep of a whole network takes minutes to hours, so it is timed on some units of every
layer and scaled by the number of units, each layer by itself; ours runs in full, and keeps freed
memory as `unitprobe.ablate` does. The speed of a forward pass depends on whether malloc requests
its activations from the system each time. So ours and the full sweep are timed twice: each in a
process of its own, as whoever writes one of them has it, and in turns in one process, where the
others profit from what ours has told malloc.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from timing import Row, row_of
from torch import Tensor, nn

from unitprobe.ablation.engine import FullEngine
from unitprobe.ablation.forward_passes import Batch
from unitprobe.ablation.partial_forward.network_graph import capture_graph
from unitprobe.ablation.partial_forward.partial_engine import PartialForwardEngine
from unitprobe.ablation.replacements import Constant
from unitprobe.ablation.targets import Targets
from unitprobe.layers import list_layers, select_layers
from unitprobe.memory import keeping_freed_memory
from unitprobe.models import as_network

STIMULI = 64


#: Networks and the pixels of their images.
CASES = {"ResNet-20 at 32 px": 32, "ResNet-18 at 64 px": 64}


def run(quick: bool) -> list[Row]:
    """Time ResNet-20 at 32 pixels and ResNet-18 at 64, in float32."""
    rows: list[Row] = []
    for name in CASES:
        rows.append(_each_alone(name, quick))
        rows += _compare(_case(name, quick), quick)
    return rows


class _Case(NamedTuple):
    name: str
    module: nn.Module
    batch: Batch
    swept: list[Targets]


def _case(name: str, quick: bool) -> _Case:
    from recipes.selectivity_regularization.architectures import build_network  # type: ignore[import-not-found, unused-ignore]

    torch.manual_seed(0)
    size = CASES[name]
    module: nn.Module = (
        build_network("resnet20", 10, size)
        if name.startswith("ResNet-20")
        else timm.create_model("resnet18", num_classes=10)
    )
    images = torch.randn(STIMULI, 3, size, size)
    listed = list_layers(as_network(module.eval()), example=images[:2])
    share = 8 if quick else 1
    swept = [
        Targets(layer, tuple((unit,) for unit in range(0, layer.units or 0, share)))
        for layer in select_layers(module, listed, "activations")
    ]
    batch = Batch(images, torch.zeros(len(images), dtype=torch.long), range(len(images)))
    return _Case(name, module, batch, swept)


def _each_alone(name: str, quick: bool) -> Row:
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 if quick else 3):
        for ours, values in times.items():
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                values.append(pool.submit(_seconds_alone, name, quick, ours).result())
    what = f"{name}: sweep against full sweep, each in a process of its own"
    return row_of(what, times[True], times[False])


def _seconds_alone(name: str, quick: bool, ours: bool) -> float:
    case = _case(name, quick)
    with torch.no_grad():
        full = FullEngine(as_network(case.module))
        if ours:
            engine = _partial_engine(case, full)
            return _seconds(lambda: _sweep(engine, case.batch, case.swept))
        return _scaled(_references(full, case.module, case.batch)["full sweep"], case.swept)


def _partial_engine(case: _Case, full: FullEngine) -> PartialForwardEngine:
    images, labels = case.batch.images, case.batch.labels
    chosen = [targets.layer for targets in case.swept]
    graph = capture_graph(as_network(case.module), chosen, images[:2])
    engine = PartialForwardEngine(graph, case.swept, 2**30)
    engine.check(Batch(images[:2], labels[:2], range(2)), case.swept, full)
    engine.fit(len(images))
    return engine


def _compare(case: _Case, quick: bool) -> list[Row]:
    name, module, batch, swept = case
    with torch.no_grad():
        full = FullEngine(as_network(module))
        start = time.perf_counter()
        engine = _partial_engine(case, full)
        prepared = time.perf_counter() - start
        ours: list[float] = []
        others: dict[str, list[float]] = {"full sweep": [], "AblationCAM-style": [], "captum": []}
        for _ in range(1 if quick else 3):
            ours.append(_seconds(lambda: _sweep(engine, batch, swept)))
            for what, function in _references(full, module, batch).items():
                others[what].append(_scaled(function, swept))
        differences = _largest_difference(engine, full, batch, swept)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows: list[Row] = []
    for what, times in others.items():
        if not times:
            rows.append({"what": f"{name}: sweep against {what}", "skipped": "not installed"})
            continue
        row = row_of(f"{name}: sweep against {what}, in one process", ours, times)
        rows.append(
            {
                **row,
                "times_faster": 1 / row["ratio_of_medians"],
                "capture_s": prepared,
                "largest_logit_difference": differences,
                "peak_memory_gb": peak,
            }
        )
    return rows


def _sweep(engine: Any, batch: Batch, swept: list[Targets]) -> None:
    """Sweep as `unitprobe.ablate` does, which keeps freed memory for as long as it runs."""
    with keeping_freed_memory():
        engine.begin(batch)
        for targets in swept:
            for _ in engine.ablated(targets, Constant()):
                pass


def _references(
    full: FullEngine, module: nn.Module, batch: Batch
) -> dict[str, Callable[[Targets], None]]:
    """Return ways to ablate some units of a layer."""
    full.begin(batch)

    def sweep(targets: Targets) -> None:
        for _ in full.ablated(targets, Constant()):
            pass

    def batched(targets: Targets) -> None:
        # As grad-cam's AblationCAM: one image, repeated, each copy with another unit set to zero.
        count = len(targets)

        def silence(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            for place, (unit,) in enumerate(targets.groups):
                changed[place, unit] = 0
            return changed

        handle = module.get_submodule(targets.layer.owner).register_forward_hook(silence)
        try:
            for image in batch.images:
                module(image.expand(count, -1, -1, -1))
        finally:
            handle.remove()

    found = {"full sweep": sweep, "AblationCAM-style": batched}
    try:
        from captum.attr import LayerFeatureAblation  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return found

    def captum(targets: Targets) -> None:
        ablation = LayerFeatureAblation(module, module.get_submodule(targets.layer.owner))
        shape = (1, targets.layer.units, *targets.layer.position_shape)
        # One feature a unit; those that are not timed share one feature with the first.
        mask = torch.zeros(shape, dtype=torch.long)
        for place, (unit,) in enumerate(targets.groups):
            mask[:, unit] = place
        ablation.attribute(batch.images, target=0, layer_mask=mask)

    return {**found, "captum": captum}


def _scaled(function: Callable[[Targets], None], swept: list[Targets]) -> float:
    """Return the seconds for all units from those of a few, layer by layer."""
    total = 0.0
    for targets in swept:
        few = Targets(targets.layer, targets.groups[:4])
        seconds = _seconds(lambda few=few: function(few))  # type: ignore[misc]
        total += seconds / len(few) * len(targets)
    return total


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _largest_difference(
    engine: PartialForwardEngine, full: FullEngine, batch: Batch, swept: list[Targets]
) -> float:
    engine.begin(batch)
    full.begin(batch)
    largest = 0.0
    for targets in swept:
        few = Targets(targets.layer, targets.groups[:2])
        ours, expected = (
            torch.cat(list(one.ablated(few, Constant()))).numpy() for one in (engine, full)
        )
        largest = max(largest, float(np.abs(ours - expected).max()))
    return largest
