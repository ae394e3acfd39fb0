"""What nulls cost: shuffles of selectivity beside reading the responses, and the other measures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from timing import Row, alternate
from trees import make_recording

from unitprobe import inference, metrics
from unitprobe.metrics.registry import measures
from unitprobe.store import LayerArray, open_store

CLASSES = 10


def run(quick: bool) -> list[Row]:
    """Return the cost of nulls; a reference that is repeated is timed on few resamples."""
    stimuli, units, shuffles = (2_000, 512, 100) if quick else (10_000, 2_048, 1_000)
    repeats = 3 if quick else 5
    labels = np.arange(stimuli) % CLASSES
    noise = np.random.default_rng(0).standard_normal((stimuli, units), dtype=np.float32)
    responses = np.maximum(noise, 0)
    size = f"{stimuli} stimuli x {units} units x {CLASSES} classes"
    rows = [_beside_reading(responses, labels, shuffles, size, repeats)]
    few = 2 if quick else 5
    for name in measures("class"):
        what = f"{few} shuffles of {name}, {size}, beside the measure called {few} times"
        null, repeated = _null_and_repeated(name, responses, labels, few)
        rows.append(alternate(what, null, repeated, repeats=1 if quick else 2))
    return rows


def _beside_reading(
    responses: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    shuffles: int,
    size: str,
    repeats: int,
) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.h5"
        _write(path, responses)

        def read_ten_times() -> None:
            for _ in range(10):
                with open_store(path) as tree:
                    _ = tree["layer"]["response"].values

        def null() -> None:
            inference.class_selectivity_null(responses, labels, resamples=shuffles, seed=0)

        what = f"{shuffles} shuffles of class_selectivity, {size}, beside reading them 10 times"
        return alternate(what, null, read_ten_times, repeats=repeats)


def _write(path: Path, responses: np.ndarray[Any, Any]) -> None:
    stimuli, units = responses.shape
    names = [str(name) for name in range(CLASSES)]
    tree = make_recording({"layer": 2}, classes=names, stimuli=stimuli)
    dataset = xr.Dataset(
        {"response": (("stimulus", "unit"), responses)}, coords={"unit": np.arange(units)}
    )
    tree["layer"] = xr.DataTree(dataset)
    chunks = LayerArray("layer", "response", ("stimulus", "unit"), (units,)).chunks(stimuli, 4)
    encoding = {"/layer": {"response": {"chunksizes": chunks}}}
    tree.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def _null_and_repeated(
    name: str, responses: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], few: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    def null() -> object:
        return inference.class_measures_null(responses, labels, names=[name], resamples=few, seed=0)

    def repeated() -> object:
        rng = np.random.default_rng(0)
        return [getattr(metrics, name)(responses, rng.permutation(labels)) for _ in range(few)]

    return null, repeated
