"""The cells of a sweep, alphas by seeds: their states, and a worker that trains the free ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr

from recipes.selectivity_regularization.images import Splits
from recipes.selectivity_regularization.options import Request, epoch_line
from recipes.selectivity_regularization.runs import (
    CHECKPOINT,
    CONFIG,
    RESULT,
    describe_holder,
    is_finished,
    is_free,
    open_run,
)
from recipes.selectivity_regularization.settings import alpha_name
from recipes.selectivity_regularization.training import DivergedError, in_stream, train_in_steps
from unitprobe.errors import OptionError, StoreExistsError
from unitprobe.store.files import write_atomically

#: Where it stands beside a run's configuration that its training diverged, and how.
FAILURE = "diverged.txt"

State = Literal["finished", "running", "interrupted", "free", "diverged"]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    alpha: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Return what the run is called in lines of text."""
        return self.folder.name

    def state(self) -> State:
        """Return what has become of the run so far."""
        if is_finished(self.folder):
            return "finished"
        if (self.folder / FAILURE).exists():
            return "diverged"
        if not is_free(self.folder):
            return "running"
        return "interrupted" if (self.folder / CHECKPOINT).exists() else "free"

    def describe(self) -> str:
        """Return the state in words, with accuracy and selectivity on test if it is finished."""
        state = self.state()
        if state == "finished":
            return f"finished     {_outcome(self.folder)}"
        if state == "running":
            return f"running      {describe_holder(self.folder)}"
        if state == "diverged":
            return f"diverged     {(self.folder / FAILURE).read_text()}"
        return state


def make_cells(request: Request, alphas: list[str], seeds: list[int]) -> list[Cell]:
    """Return all cells, every alpha of the first seed first.

    Raises
    ------
    OptionError
        There is no alpha or no seed, or one of them is given twice.
    """
    for what, words in (("alpha", [alpha_name(alpha) for alpha in alphas]), ("seed", seeds)):
        if not words:
            raise OptionError(f"a sweep needs at least one {what}")
        if len({*words}) < len(words):
            raise OptionError(f"the same {what} is given twice: {' '.join(map(str, words))}")
    return [
        Cell(alpha, seed, request.folder(alpha, seed))
        for seed, alpha in itertools.product(seeds, alphas)
    ]


def check_cells(request: Request, splits: Splits, cells: list[Cell]) -> None:
    """Make sure that every cell that was begun is one of the present configuration.

    Raises
    ------
    ContentsMismatchError
        One is not.
    """
    for cell in cells:
        settings = request.settings(splits, cell.alpha, cell.seed)
        if (cell.folder / CONFIG).exists():
            open_run(cell.folder, settings)


@dataclass(frozen=True)
class Work:
    """What a worker needs to train cells.

    Attributes
    ----------
    request : Request
    cells : list of Cell
    device : str, optional
    compiled : bool, optional
        By default on a GPU.
    threads : int, optional
    graphs : bool, optional
        See `training.train`.
    """

    request: Request
    cells: list[Cell]
    device: str
    compiled: bool | None
    threads: int | None
    graphs: bool | None = None


def train_free_cells(
    work: Work,
    say: Callable[[str], Any] = print,
    *,
    at_once: int = 1,
    executor: Executor | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> None:
    """Train the free cells, until all others are finished or trained by another process.

    Parameters
    ----------
    work : Work
    say : callable
        Told in a line of text what happens.
    at_once : int
        Networks that are trained in turns, batch by batch. On a GPU each has a CUDA stream of its
        own, so that the GPU works for several of them at the same time.
    executor : Executor, optional
        See `training.train_in_steps`.
    goes_on : callable
        Asked before each batch; where it returns False, the training of all cells is interrupted.
    """
    if work.threads is not None:
        torch.set_num_threads(work.threads)
    splits = work.request.load()
    active: dict[Path, tuple[Cell, Iterator[None]]] = {}
    try:
        while goes_on():
            free = None if len(active) == at_once else _next_free(work, active)
            if free is not None:
                active[free.folder] = free, _steps(work, splits, free, say, executor)
            elif not active:
                return
            for cell, steps in list(active.values()):
                if _is_done(cell, steps, say):
                    del active[cell.folder]
    finally:
        for _, steps in active.values():
            steps.close()  # type: ignore[attr-defined]


def _steps(
    work: Work,
    splits: Splits,
    cell: Cell,
    say: Callable[[str], Any],
    executor: Executor | None,
) -> Iterator[None]:
    """Return the training of a cell, step by step."""
    device = torch.device(work.device)
    settings = work.request.settings(splits, cell.alpha, cell.seed)
    steps = train_in_steps(
        settings,
        splits,
        cell.folder,
        device=device,
        compiled=device.type == "cuda" if work.compiled is None else work.compiled,
        graphs=work.graphs,
        report=partial(_say_epoch, say, cell.name, settings.training.epochs),
        executor=executor,
    )
    return in_stream(steps, device) if device.type == "cuda" else steps


def _is_done(cell: Cell, steps: Iterator[None], say: Callable[[str], Any]) -> bool:
    """Do a step of the training of a cell, and tell whether it was the last."""
    try:
        next(steps)
    except (StopIteration, StoreExistsError):
        return True  # finished, or another process was quicker
    except DivergedError as error:
        write_atomically(cell.folder / FAILURE, str(error).encode())
        say(f"{cell.name}  {error}")
        return True
    return False


def _say_epoch(
    say: Callable[[str], Any], name: str, epochs: int, epoch: int, row: dict[str, Any]
) -> None:
    say(f"{name}  {epoch_line(epoch, epochs, row)}")


def _next_free(work: Work, active: Container[Path]) -> Cell | None:
    """Return the first cell that no process trains, here or elsewhere."""
    free = (
        cell
        for cell in work.cells
        if cell.folder not in active and cell.state() in ("interrupted", "free")
    )
    return next(free, None)


def _outcome(folder: Path) -> str:
    with xr.open_dataset(folder / RESULT, engine="h5netcdf") as run:
        accuracy, selectivity = float(run["test_accuracy"]), run["class_selectivity"]
        return f"test accuracy {accuracy:.1%}, SI {float(selectivity.mean()):.3f}"
