"""Benchmark rows on a GPU: ``python tests/gpu_rows.py NAME``, which waits for a line on stdin.

Each row is printed as ``ROW`` and JSON the moment it is measured; `gpu_check` reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "benchmarks"), str(HERE.parent)]

#: Seconds that each may take, in the order in which they run.
LIMITS = {
    "training": 80,
    "recording": 80,
    "ablation": 80,
    "attribution": 40,
    "analysis": 25,
    "regularizer": 100,
    "training_compiled": 100,
}


def main() -> None:
    """Import what is needed, wait for the word, and print the rows of one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(LIMITS))
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    import timm  # noqa: F401  (it takes seconds)
    import torch

    import unitprobe  # noqa: F401

    sys.stdin.readline()
    with contextlib.ExitStack() as stack:
        if arguments.dry:
            from pretend_device import pretend_device

            torch.set_num_threads(1)
            device = stack.enter_context(pretend_device())
        else:
            device = torch.device("cuda")
        for row in globals()[f"{arguments.name}_rows"](device, arguments.dry):
            print(f"ROW {json.dumps(row)}", flush=True)


def recording_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """Recording to a file against the bare forward pass over images in pinned memory."""
    import torch

    import unitprobe as up

    network, pixels = _network("resnet50", dry)
    network.to(device)
    count, batch = (20, 4) if dry else (2048, 256)
    stimuli = _stimuli(count, pixels)
    pinned = torch.from_numpy(_noise_inputs(count, pixels)).pin_memory().split(batch)
    on_device = [images.to(device) for images in pinned]

    def forward(batches: Any) -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for images in batches:
                network(images.to(device, non_blocking=True))

    with tempfile.TemporaryDirectory() as folder:
        for layout in (torch.contiguous_format, torch.channels_last):
            network.to(memory_format=layout)
            for workers in (0,) if dry else (0, 8):

                def record(workers: int = workers) -> None:
                    up.record(
                        network,
                        stimuli,
                        Path(folder) / "recording.h5",
                        batch_size=batch,
                        autocast="bfloat16",
                        workers=workers,
                        overwrite=True,
                        progress=False,
                        announce=lambda _: None,
                    )

                seconds = _fastest(
                    {
                        "record": record,
                        "forward": lambda: forward(pinned),
                        "forward_on_device": lambda: forward(on_device),
                    },
                    1 if dry else 2,
                )
                yield {
                    "what": f"recording, {count} stimuli, {pixels} px, bfloat16, batch {batch}, "
                    f"{str(layout).removeprefix('torch.')}, {workers} workers: speed of the "
                    "forward pass from pinned memory; bar 0.90",
                    "value": seconds["forward"] / seconds["record"],
                    "of_forward_on_device": seconds["forward_on_device"] / seconds["record"],
                    "images_per_second": count / seconds["record"],
                    **seconds,
                }


def ablation_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """The sweep that computes what a unit reaches against the full one, which is scaled."""
    import unitprobe as up

    network, pixels = _network("resnet18", dry)
    network.to(device)
    count = 20 if dry else 256
    stimuli = _stimuli(count, pixels)
    layers = up.list_layers(network, input_size=(3, pixels, pixels))
    units = {layer.name: layer.units or 0 for layer in layers if layer.kind == "relu"}
    total = sum(units.values())
    every = 4
    some = {name: list(range(0, width, every)) for name, width in units.items()}
    few = {name: [0, every * (width // every // 2)] for name, width in units.items()}

    def sweep(method: str, chosen: dict[str, list[int]]) -> Any:
        return up.ablate(
            network,
            stimuli,
            layers=list(chosen),
            units=chosen,
            method=method,  # type: ignore[arg-type]
            batch_size=8 if dry else 128,
            memory=2**30 if dry else 2**34,
            n_permutations=0,
            progress=False,
        )

    sweep("full", dict(list(few.items())[-1:]))  # the first use of the device
    found, seconds = {}, {}
    for name, method, chosen in (("full", "full", few), ("ours", "auto", some)):
        begun = time.perf_counter()
        found[name] = sweep(method, chosen)
        seconds[name] = time.perf_counter() - begun
    swept = {
        name: sum(map(len, chosen.values())) for name, chosen in (("full", few), ("ours", some))
    }
    per_unit = {name: seconds[name] / swept[name] for name in seconds}
    difference = max(
        float(abs(found["ours"][layer]["loss_increase"].sel(unit=chosen).values
                  - found["full"][layer]["loss_increase"].values).max())
        for layer, chosen in few.items()
    )  # fmt: skip
    yield {
        "what": f"sweep of {swept['ours']} of {total} units, ResNet-18, {count} stimuli, {pixels} "
        f"px, TensorFloat-32, times as fast as the full sweep (from {swept['full']} units); bar 7",
        "value": per_unit["full"] / per_unit["ours"],
        "method": found["ours"].attrs["method"],
        "largest_difference_of_loss": difference,
        **{f"{name}_s": value for name, value in seconds.items()},
        "minutes_for_all_units_on_10000_images": per_unit["ours"] * total * 1e4 / count / 60,
    }


def attribution_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """Attribution of all units, in forward passes; see `benchmark_attribution`."""
    import benchmark_attribution

    if dry:
        network, pixels = _network("resnet18", dry)
        import unitprobe as up

        up.attribute(network.to(device), _stimuli(20, pixels), check_units=0, progress=False)
        return
    yield from benchmark_attribution.run(quick=False)


def regularizer_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """A regularized training step against the plain one; see `benchmark_regularizer`."""
    import benchmark_regularizer

    if not dry:
        yield from benchmark_regularizer.run(quick=False)


def analysis_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """Statistics, nulls and bootstraps of responses on the device against those on the CPU."""
    import torch

    from unitprobe import inference, metrics

    stimuli, units, draws = (40, 8, 3) if dry else (10_000, 2048, 100)
    torch.manual_seed(0)
    responses = torch.rand(stimuli, units)
    labels = torch.arange(stimuli) % 10
    there = responses.to(device), labels.to(device)
    here = responses.numpy(), labels.numpy()
    tasks: dict[str, Callable[[Any, Any], Any]] = {
        name: getattr(metrics, name)
        for name in ("class_selectivity", "d_prime", "roc_auc", "mutual_information")
    }
    for name in ("class_selectivity_null", "class_selectivity_bootstrap"):
        function = getattr(inference, name)
        tasks[name] = lambda r, la, f=function: f(r, la, resamples=draws, seed=0)
    for name, task in tasks.items():
        what = f"{name}, {stimuli} stimuli x {units} units: time on the device over the CPU's"
        try:
            seconds = _fastest({"gpu": lambda t=task: t(*there), "cpu": lambda t=task: t(*here)}, 1)
        except Exception as error:
            yield {"what": what, "skipped": f"not on the device: {str(error)[:200]}"}
            continue
        yield {"what": what, "value": seconds["gpu"] / seconds["cpu"], **seconds}


def training_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """Training images a second of the recipe's ResNet-20, alone and several in turns."""
    with contextlib.ExitStack() as stack:
        for graphs in (False, True):
            steps = [_training(stack, device, dry, "-1", graphs=graphs)]
            yield {
                "what": f"training of ResNet-20, batch 128, bfloat16, graphs={graphs}; images/s, "
                "bar 50,000",
                "value": _images_per_second(steps, dry),
            }
        plain = _training(stack, device, dry, None, graphs=True)
        pair = [
            (_images_per_second([plain], dry), _images_per_second(steps, dry)) for _ in range(5)
        ]
        yield {
            "what": "time of a regularized step over that of a plain one, both as graphs; bar 1.05",
            "value": float(np.median([before / after for before, after in pair])),
            "of_each_turn": [before / after for before, after in pair],
        }
        several = list(steps)
        for at_once in (1, 2) if dry else (1, 2, 3, 4, 6, 8):
            while len(several) < at_once:
                several.append(_training(stack, device, dry, "-1", graphs=True))
            rate = _images_per_second(several, dry)
            yield {
                "what": f"training of {at_once} ResNet-20 in turns; images/s of all together",
                "at_once": at_once,
                "images_per_second": rate,
            }


def training_compiled_rows(device: Any, dry: bool) -> Iterator[dict[str, Any]]:
    """The same, compiled."""
    if dry:
        return
    with contextlib.ExitStack() as stack:
        for graphs in (False, True):
            begun = time.perf_counter()
            steps = _training(stack, device, dry, "-1", graphs=graphs, compiled=True)
            prepared = time.perf_counter() - begun
            yield {
                "what": f"training of ResNet-20, batch 128, bfloat16, compiled, graphs={graphs}; "
                "images/s",
                "value": _images_per_second([steps], dry),
                "prepare_s": prepared,
            }


def _network(name: str, dry: bool) -> tuple[Any, int]:
    """Return a network of ImageNet's size and the pixels of its images; a small one if dry."""
    import torch

    torch.manual_seed(0)
    if dry:
        from recipes.selectivity_regularization.architectures import build_network  # type: ignore[import-not-found, unused-ignore]

        return build_network("resnet8", 10, 8), 8
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10).eval(), 224


def _noise_inputs(count: int, pixels: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 3, pixels, pixels), np.float32)


def _stimuli(count: int, pixels: int) -> Any:
    import unitprobe as up

    return up.Stimuli(_noise_inputs(count, pixels), np.arange(count) % 10)


def _fastest(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each task, which take turns, after one turn without a clock."""
    from timing import seconds

    for task in tasks.values():
        task()
    times = [{name: seconds(task) for name, task in tasks.items()} for _ in range(repeats)]
    return {name: min(turn[name] for turn in times) for name in tasks}


def _training(
    stack: contextlib.ExitStack,
    device: Any,
    dry: bool,
    alpha: str | None,
    *,
    graphs: bool,
    compiled: bool = False,
) -> Iterator[None]:
    """Return the steps of a training on noise that has gone through its first steps.

    Without an alpha the network is trained without the regularizer.
    """
    from recipes.selectivity_regularization import training
    from recipes.selectivity_regularization.settings import Preset, Settings

    splits = _noise(8, 400) if dry else _noise(32, 128_000)
    settings = Settings(
        model="resnet8" if dry else "resnet20",
        data="noise",
        preset="short",
        data_fingerprint=splits.fingerprint,
        image_size=splits.image_size,
        mean=splits.mean,
        std=splits.std,
        alpha=alpha or "0",
        training=Preset(epochs=30, batch_size=10 if dry else 128, learning_rate=0.01),
    )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
    steps = training.train_in_steps(
        settings,
        splits,
        folder,
        device=device,
        compiled=compiled,
        graphs=graphs,
    )
    if alpha is None:
        steps = _without_regularizer(steps)
    steps = training.in_stream(steps, device)
    for _ in range(3 if dry else 20):
        next(steps)
    return steps


@functools.cache
def _noise(size: int, count: int) -> Any:
    """Return the splits of a data set of random images."""
    from recipes.selectivity_regularization.images import ImageSet, Splits

    random = np.random.default_rng(0)

    def images(count: int) -> ImageSet:
        pixels = random.integers(0, 256, (count, size, size, 3), np.uint8)
        return ImageSet(pixels, np.arange(count) % 10)

    names = [str(index) for index in range(10)]
    parts = images(count), images(100), images(100)
    return Splits(*parts, names, (0.5,) * 3, (0.25,) * 3, "noise")


def _without_regularizer(steps: Iterator[None]) -> Iterator[None]:
    """Take the first step, which captures it, with a regularizer that neither sees nor adds."""
    from unittest import mock

    import torch

    import unitprobe as up

    class Nothing(up.SelectivityRegularizer):
        def attach(self) -> Any:
            return self

        def __call__(self, labels: Any) -> Any:
            self.selectivity = torch.zeros((), device=labels.device)
            return self.selectivity

    with mock.patch("recipes.selectivity_regularization.training.SelectivityRegularizer", Nothing):
        next(steps)
    yield
    yield from steps


def _images_per_second(several: list[Iterator[None]], dry: bool) -> float:
    """Return the images that all of these trainings see in a second, one step each in turn."""
    import torch

    batch, turns = (10, 1) if dry else (128, 60)
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(turns):
        for steps in several:
            next(steps)
    torch.cuda.synchronize()
    return batch * turns * len(several) / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
