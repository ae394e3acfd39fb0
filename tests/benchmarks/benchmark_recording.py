"""Recording against the network alone, against other recorders, and against plain h5py.

The speed of a network on a CPU depends on whether malloc requests its activations from the system
each time: the same forward pass takes up to twice as long. So recording and forward pass are timed
twice: each in a process of its own, as whoever calls one of them has it, and in turns in one
process, where the forward pass profits from what the recording has told malloc.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import h5py
import networks
import numpy as np
import numpy.typing as npt
import timm
import torch
import xarray as xr
from timing import Row, alternate, row_of
from torch import Tensor, nn

import unitprobe as up
from unitprobe.store import LayerArray, Recording, Shards

#: Names of layers and their responses to a batch.
Extract: TypeAlias = Callable[[Tensor], Mapping[str, Tensor]]


def run(quick: bool) -> list[Row]:
    """Return our time over that of the reference, for recording, reading and opening."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, network, pixels, count in (
            ("ResNet-20", networks.ResNet20(), 32, 50_000),
            ("ResNet-18", timm.create_model("resnet18"), 224, 512),
        ):
            count = count // 16 if quick else count * (1 if device.type == "cpu" else 8)
            if device.type == "cpu":
                rows.append(_each_alone(what, pixels, count, folder, quick))
            rows += _against_forward(what, network.to(device), pixels, count, folder, quick)
        rows += _against_others(64 if quick else 512, folder, device, quick)
        rows += _against_writing(1024 if quick else 2048, folder, device, quick)
        rows += _reading(5_000 if quick else 50_000, folder)
        rows += _opening(150 if quick else 1_500, folder)
    return rows


def _values(count: int, pixels: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, pixels, pixels), np.float32)


def _images(count: int, pixels: int) -> up.Stimuli:
    return up.Stimuli(_values(count, pixels), np.arange(count) % 10)


def _batches(stimuli: up.Stimuli, size: int = 64) -> list[Tensor]:
    images = torch.stack([stimuli[index][0] for index in range(len(stimuli))])
    return list(images.split(size))


def _forward(network: nn.Module, batches: list[Tensor], autocast: str | None = None) -> None:
    device = next(network.parameters()).device
    dtype = None if autocast is None else getattr(torch, autocast)
    network.eval()
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for batch in batches:
            network(batch.to(device))


def _each_alone(what: str, pixels: int, count: int, folder: Path, quick: bool) -> Row:
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(1 if quick else 3):
        for ours, values in times.items():
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                arguments = (what, pixels, count, folder / "alone.h5", ours)
                values.append(pool.submit(_seconds_alone, *arguments).result())
    return row_of(
        f"record {what}, {pixels} px, {count} stimuli, mean, float32, cpu, against the forward "
        "pass, each in a process of its own",
        times[True],
        times[False],
    )


def _seconds_alone(what: str, pixels: int, count: int, path: Path, ours: bool) -> float:
    network = networks.ResNet20() if what == "ResNet-20" else timm.create_model("resnet18")
    values = _values(count, pixels)
    batches = torch.from_numpy(values).split(64)
    stimuli = up.Stimuli(values, np.arange(count) % 10)
    _forward(network, [batches[0][:10]])
    begun = time.perf_counter()
    if ours:
        up.record(network, stimuli, path, overwrite=True, progress=False)
    else:
        _forward(network, list(batches))
    return time.perf_counter() - begun


def _against_forward(
    what: str, network: nn.Module, pixels: int, count: int, folder: Path, quick: bool
) -> Iterator[Row]:
    stimuli = _images(count, pixels)
    batches = _batches(stimuli)
    device = next(network.parameters()).device.type
    path = folder / "pooled.h5"
    few = stimuli.select(range(10))
    yield alternate(
        f"start-up: record {what}, {pixels} px, 10 stimuli, {device}, against the forward pass",
        lambda: up.record(network, few, path, overwrite=True, progress=False),
        lambda: _forward(network, [batches[0][:10]]),
    )
    for autocast in (None, "bfloat16") if device == "cuda" else (None,):
        options = {"overwrite": True, "progress": False, "autocast": autocast}
        yield alternate(
            f"record {what}, {pixels} px, {count} stimuli, mean, {autocast or 'float32'}, "
            f"{device}, against the forward pass in the same process",
            lambda options=options: up.record(network, stimuli, path, **options),
            lambda autocast=autocast: _forward(network, batches, autocast),
            repeats=1 if quick else 2,
        )


def _against_others(count: int, folder: Path, device: torch.device, quick: bool) -> Iterator[Row]:
    network = timm.create_model("resnet18").to(device).eval()
    stimuli = _images(count, 128)
    batches = _batches(stimuli)
    names = [layer.name for layer in up.list_layers(network) if layer.kind == "relu"]
    for tool, make in _OTHERS.items():
        what = f"record ResNet-18, 128 px, {count} stimuli, mean, against {tool}"
        if importlib.util.find_spec(tool) is None:
            yield {"what": what, "skipped": "not installed"}
            continue
        try:
            extract = make(network, names)
            extract(batches[0][:2].to(device))
        except Exception as error:  # of another tool, which may not fit this torch
            yield {"what": what, "skipped": f"it fails here: {str(error)[:80]!r}"}
            continue
        yield alternate(
            what,
            lambda: up.record(network, stimuli, folder / "s.h5", overwrite=True, progress=False),
            lambda extract=extract: _record_with(extract, batches, device, folder / "other.h5"),
            repeats=1 if quick else 3,
        )


def _record_with(extract: Extract, batches: list[Tensor], device: torch.device, path: Path) -> None:
    """Do what `record` does with another tool: means over positions, into one file."""
    total = sum(map(len, batches))
    with h5py.File(path, "w") as file, torch.no_grad():
        done = 0
        for batch in batches:
            for name, activation in extract(batch.to(device)).items():
                means = activation.mean((2, 3)).cpu().numpy()
                if name not in file:
                    file.create_dataset(name, (total, means.shape[1]), "f4")
                file[name][done : done + len(means)] = means
            done += len(batch)


def _captum(network: nn.Module, names: list[str]) -> Extract:
    from captum.attr import LayerActivation

    probe = LayerActivation(network, [network.get_submodule(name) for name in names])
    return lambda batch: dict(zip(names, probe.attribute(batch), strict=True))


def _torchvision(network: nn.Module, names: list[str]) -> Extract:
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(network, return_nodes=names)


def _torchlens(network: nn.Module, names: list[str]) -> Extract:
    import torchlens

    def extract(batch: Tensor) -> dict[str, Tensor]:
        trace = torchlens.trace(network, batch)
        return {name: trace[name].out for name in names}

    return extract


def _thingsvision(network: nn.Module, names: list[str]) -> Extract:
    from thingsvision import get_extractor_from_model

    device = next(network.parameters()).device
    extractor = get_extractor_from_model(network, str(device), None, "pt")

    def extract(batch: Tensor) -> dict[str, Tensor]:
        return {name: extractor.extract_batch(batch, name, False) for name in names}

    return extract


_OTHERS: dict[str, Callable[[nn.Module, list[str]], Extract]] = {
    "captum": _captum,
    "torchvision": _torchvision,
    "torchlens": _torchlens,
    "thingsvision": _thingsvision,
}


def _against_writing(count: int, folder: Path, device: torch.device, quick: bool) -> Iterator[Row]:
    """Whole activations of a network that computes next to nothing, against h5py instead."""
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU()).to(device).eval()
    stimuli = _images(count, 32)
    batches = _batches(stimuli)
    up.record(network, stimuli, folder / "s.h5", pool="none", overwrite=True, progress=False)
    with h5py.File(folder / "s.h5") as file:
        shape, chunks = file["1/activation"].shape, file["1/activation"].chunks

    def plain() -> None:
        with h5py.File(folder / "plain.h5", "w") as file, torch.inference_mode():
            array = file.create_dataset("activation", shape, "f4", chunks=chunks)
            for index, batch in enumerate(batches):
                values = network(batch.to(device)).cpu().numpy()
                array[64 * index : 64 * index + len(values)] = values
        with (folder / "plain.h5").open("rb") as written:
            os.fsync(written.fileno())  # as the recording does

    yield alternate(
        f"record {4 * math.prod(shape) / 1e6:.0f} MB of whole activations, against the network and "
        "h5py",
        lambda: up.record(
            network, stimuli, folder / "s.h5", pool="none", overwrite=True, progress=False
        ),
        plain,
        repeats=3 if quick else 5,
    )


def _store(path: Path, layers: int, stimuli: int, units: int) -> None:
    arrays = [
        LayerArray(f"layer{index}.relu", "response", ("stimulus", "unit"), (units,))
        for index in range(layers)
    ]
    ids = np.asarray([f"image {index}" for index in range(stimuli)])
    labels = np.arange(stimuli) % 10
    names = [f"class {index}" for index in range(10)]
    recording = Recording(ids, labels, names, arrays, "float32", {"pool": "mean"}, {})
    shards = Shards(path, recording)
    shards.begin(resume=False)
    random = np.random.default_rng(0)
    for start, stop in shards.ranges():
        values = random.standard_normal((stop - start, units), np.float32)
        shards.write(start, {array.layer: values for array in arrays}, {})
    shards.finish()
    shards.close()


def _reading(stimuli: int, folder: Path) -> Iterator[Row]:
    path = folder / "tall.h5"
    _store(path, 1, stimuli, 2048)
    with h5py.File(path) as file:
        plain = file["layer0.relu/response"]
        with up.open_store(path) as tree:
            lazy = tree["layer0.relu"]["response"]
            yield alternate(
                f"read one unit over {stimuli} stimuli, against h5py",
                lambda: lazy.isel(unit=700).values,
                lambda: plain[:, 700],
            )
            yield alternate(
                "read 64 stimuli x 2048 units, against h5py",
                lambda: lazy.isel(stimulus=slice(640, 704)).values,
                lambda: plain[640:704],
            )


def _opening(layers: int, folder: Path) -> Iterator[Row]:
    path = folder / "deep.h5"
    _store(path, layers, 64, 16)
    yield alternate(
        f"open a store of {layers} layers, against xarray.open_datatree",
        lambda: up.open_store(path).close(),
        lambda: xr.open_datatree(path, engine="h5netcdf").close(),
        repeats=1,
    )
