"""Finished runs as one table: everything that was measured, over alpha and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unitprobe.errors import ContentsMismatchError, StoreError, StoreNotFoundError

SCHEMA_VERSION = 1
RESULT = "run.nc"
#: Settings in which the runs of one experiment may differ.
_VARIED = {"alpha", "seed", "data"}
#: A network fell apart in training if its loss rose to this multiple of that of the first epoch.
FELL_APART = 1.5
#: Measures of a layer of which the page shows the mean over layers.
LAYER_MEASURES = (
    "class_selectivity",
    "class_selectivity_null_mean",
    "class_selectivity_corrected",
    "d_prime",
    "mutual_information",
    "dead_share",
)


def gather_runs(folder: Path) -> xr.Dataset:
    """Read every finished run of an experiment.

    Parameters
    ----------
    folder : Path
        Holds one folder for each run, with its ``run.nc`` if it is finished.

    Returns
    -------
    xarray.Dataset
        What the runs hold, each variable with dimensions ``alpha`` and ``seed`` before its own, NaN
        where there is no finished run; ``units`` (layer) but once. Coordinates (alpha, seed):
        ``finished``, and ``place``, the name of the run's folder.
        For each of `LAYER_MEASURES` also ``mean_`` and its name, (alpha, seed): the mean over
        layers, NaN where a layer has none because all its units are dead. Attributes: ``config``,
        the settings that all runs share; ``environments``, each that occurred; ``test_stimuli``;
        ``null_shuffles``; ``unfinished``, folders without results; ``schedules``, finished runs
        whose alpha is not constant and which are therefore left out; ``last_finished``.

    Raises
    ------
    StoreNotFoundError
        The folder is not there.
    StoreError
        It holds no finished run of constant alpha, or a file is damaged.
    ContentsMismatchError
        Two runs differ in more than alpha and seed, or are of the same.
    """
    if not folder.is_dir():
        raise StoreNotFoundError(f"{folder} is not a folder; give the folder that holds the runs")
    places = sorted(path for path in folder.iterdir() if (path / "config.json").exists())
    done = [place for place in places if (place / RESULT).exists()]
    runs: list[xr.Dataset] = []
    cells: dict[tuple[float, int], Path] = {}
    schedules = []
    for place in done:
        run = _read(place)
        config = run.attrs["config"]
        alpha = _constant(config["alpha"])
        if alpha is None:
            schedules.append(place.name)
            continue
        cell = (alpha, int(config["seed"]))
        if cell in cells:
            raise ContentsMismatchError(
                f"{place} and {cells[cell]} are both of alpha {alpha:g} and seed {cell[1]}; "
                "move one away"
            )
        cells[cell] = place
        if runs:
            _check_same(run, runs[0], place, next(iter(cells.values())))
        runs.append(run)
    if not runs:
        raise StoreError(
            f"{folder} holds no finished run of a constant alpha ({len(places)} runs in all); "
            "train some first"
        )
    return _joined(runs, cells).assign_attrs(
        unfinished=[place.name for place in places if place not in done], schedules=schedules
    )


def over_cells(parts: list[xr.Dataset], cells: list[tuple[float, int]]) -> xr.Dataset:
    """Join data sets of the same shape, one for each (alpha, seed), NaN for a pair without one."""
    alphas, seeds = zip(*cells, strict=True)
    stacked = xr.concat(parts, dim="run", join="exact", coords="minimal", data_vars="all")
    stacked = stacked.assign_coords(alpha=("run", list(alphas)), seed=("run", list(seeds)))
    table = stacked.set_index(run=["alpha", "seed"]).unstack("run")
    return table.sortby(["alpha", "seed"]).transpose("alpha", "seed", ...)


def fell_apart(runs: xr.Dataset) -> xr.DataArray:
    """Tell of which networks the training loss rose to more than `FELL_APART` of its first epoch.

    Returns
    -------
    xarray.DataArray
        (alpha, seed); False where there is no finished network.
    """
    losses = runs["train_loss"]
    return (losses > FELL_APART * losses.isel(epoch=0)).any("epoch")


def is_sound(runs: xr.Dataset) -> xr.DataArray:
    """Tell which networks, (alpha, seed), are finished and did not fall apart in training."""
    return runs["finished"] & ~fell_apart(runs)


def final(runs: xr.Dataset, name: str) -> xr.DataArray:
    """Return a curve after the last epoch, (alpha, seed), as a mean over layers if it has these."""
    last = runs[name].isel(epoch=-1)
    return last.mean("layer", skipna=False) if "layer" in last.dims else last


def at(values: xr.DataArray, alpha: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the values of the finished networks of one alpha, (network,)."""
    of_alpha = values.sel(alpha=alpha)
    return np.asarray(of_alpha.where(values["finished"].sel(alpha=alpha), drop=True), np.float64)


def _read(place: Path) -> xr.Dataset:
    path = place / RESULT
    try:
        run = xr.load_dataset(path, engine="h5netcdf")
        for name in ("config", "environment"):
            run.attrs[name] = json.loads(run.attrs[name])
        version, missing = run.attrs["schema_version"], {"alpha", "seed"} - set(run.attrs["config"])
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged or no result of a run: {error}") from error
    needed = {*LAYER_MEASURES, "test_accuracy", "validation_accuracy"}
    missing |= needed - set(run.variables)
    missing |= {"validation_class_selectivity", "seconds", "units", "alpha"} - set(run.variables)
    missing |= {"test_stimuli", "null_shuffles", "finished"} - set(run.attrs)
    if missing:
        raise StoreError(f"{path} lacks {', '.join(sorted(missing))}: it is no result of a run")
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema version {version}; {SCHEMA_VERSION} is understood")
    return run


def _constant(alpha: str) -> float | None:
    try:
        return float(alpha) + 0.0
    except ValueError:
        return None


def _check_same(run: xr.Dataset, first: xr.Dataset, place: Path, first_place: Path) -> None:
    config, other = (_shared(each.attrs["config"]) for each in (run, first))
    differing = [key for key in {**config, **other} if config.get(key) != other.get(key)]
    differing += [
        name for name in ("layer", "class_name", "epoch") if not run[name].equals(first[name])
    ]
    if differing:
        what = ", ".join(
            f"{key} {config[key]!r} and {other.get(key)!r}" if key in config else key
            for key in sorted(differing)
        )
        raise ContentsMismatchError(
            f"{place} and {first_place} are not runs of one experiment, they differ in {what}"
        )


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _VARIED}


def _joined(runs: list[xr.Dataset], cells: dict[tuple[float, int], Path]) -> xr.Dataset:
    first = runs[0]
    environments: list[dict[str, Any]] = []
    for run in runs:
        if run.attrs["environment"] not in environments:
            environments.append(run.attrs["environment"])
    # The curve of alpha is constant here and would clash with the coordinate.
    parts = [
        run.drop_vars(["alpha", "units"], errors="ignore").drop_attrs(deep=False) for run in runs
    ]
    table = over_cells(parts, list(cells))
    places = [
        [cells[alpha, seed].name if (alpha, seed) in cells else "" for seed in table["seed"].data]
        for alpha in table["alpha"].data
    ]
    table = table.assign_coords(
        place=(("alpha", "seed"), places), finished=(("alpha", "seed"), np.array(places) != "")
    )
    for name in LAYER_MEASURES:
        table[f"mean_{name}"] = table[name].mean("layer", skipna=False)
    table["units"] = first["units"]
    return table.assign_attrs(
        config=first.attrs["config"],
        environments=environments,
        test_stimuli=int(first.attrs["test_stimuli"]),
        null_shuffles=int(first.attrs["null_shuffles"]),
        last_finished=max(str(run.attrs["finished"]) for run in runs),
    )
