"""The folder of a run: its configuration, its checkpoint and its results."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from recipes.selectivity_regularization.settings import Settings, alpha_name
from unitprobe.errors import ContentsMismatchError, StoreError
from unitprobe.store import writing
from unitprobe.store.files import put_in_place, write_atomically
from unitprobe.store.lock import FolderLock, holder_of, is_held
from unitprobe.store.partial import differences

CONFIG, CHECKPOINT, WEIGHTS, RESULT = (
    "config.json",
    "checkpoint.pt",
    "weights.safetensors",
    "run.nc",
)
LOCK = ".lock"
#: Settings that may differ between two starts of one run.
_MAY_DIFFER = {"data"}


def run_folder(out: Path, model: str, data: str, preset: str, alpha: str, seed: int) -> Path:
    """Return the folder of a run.

    Examples
    --------
    >>> run_folder(Path("runs"), "resnet20", "cifar10", "short", "-1", 0).as_posix()
    'runs/resnet20-cifar10-short/alpha-1-seed0'
    """
    group = f"{model}-{data}-{preset}".replace("/", "_").replace(":", "_")
    return out / group / f"alpha{alpha_name(alpha)}-seed{seed}"


def open_run(folder: Path, settings: Settings) -> None:
    """Make the folder of a run, or make sure that it is a run of the same settings.

    Raises
    ------
    ContentsMismatchError
        It is a run of other settings.
    StoreError
        The folder holds something else, or its configuration is damaged.
    """
    path = folder / CONFIG
    config = settings.as_json()
    if path.exists():
        held = read_config(folder)
        names = sorted({*held, *config} - _MAY_DIFFER)
        different = differences(held, {name: config.get(name) for name in names})
        if different:
            raise ContentsMismatchError(
                f"{folder} is a run of another configuration: {', '.join(different)}; choose "
                "another --out, or remove the folder"
            )
        return
    if folder.exists() and any(not item.name.startswith(".") for item in folder.iterdir()):
        raise StoreError(
            f"{folder} holds files but no {CONFIG}: it is not a run; choose another --out"
        )
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(config, indent=1).encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a run.

    Raises
    ------
    StoreError
        They are missing or damaged.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is missing or damaged: remove {folder} to start again") from error
    if not isinstance(config, dict):
        raise StoreError(f"{path} is not a configuration: remove {folder} to start again")
    return config


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run while the body trains it.

    The lock ends with the process that holds it, also on another machine that shares the folder,
    if the file system has locks.

    Raises
    ------
    StoreExistsError
        Another process trains it.
    """
    lock = FolderLock(folder / LOCK, "trained")
    with writing(folder / LOCK):
        lock.acquire()
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()


def is_free(folder: Path) -> bool:
    """Tell whether no process trains a run now."""
    return not is_held(folder / LOCK)


def describe_holder(folder: Path) -> str:
    """Return in words which process trains a run."""
    return f"by {holder_of(folder / LOCK) or 'another process'}"


def is_finished(folder: Path) -> bool:
    """Tell whether a run has all its results."""
    return (folder / RESULT).exists()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state after an epoch, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with writing(folder / CHECKPOINT, "trained"):
        write_atomically(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the state after the last finished epoch, on the CPU, or None if there is none.

    Raises
    ------
    StoreError
        The file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if {"epoch", "curves", "module", "optimizer"} <= state.keys():
            return dict(state)
    except (OSError, RuntimeError, EOFError, ValueError, AttributeError, pickle.PickleError):
        pass  # whatever is wrong with it, it cannot be used
    raise StoreError(
        f"{path} is cut short or damaged; remove it to train this run again from its first epoch"
    )


def finish(folder: Path, weights: dict[str, torch.Tensor], result: xr.Dataset) -> None:
    """Write weights and results, the results last, and remove the checkpoint."""
    from safetensors.torch import save

    with writing(folder / RESULT, "trained"):
        contiguous = {name: value.cpu().contiguous() for name, value in weights.items()}
        write_atomically(folder / WEIGHTS, save(contiguous))
        partial = folder / f"{RESULT}.tmp"
        result.to_netcdf(partial, engine="h5netcdf")
        put_in_place(partial, folder / RESULT)
    (folder / CHECKPOINT).unlink(missing_ok=True)
