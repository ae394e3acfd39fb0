"""Train networks of the recipe on a GPU until a given time; `gpu_check` starts this.

The images are read at once. Then a line of JSON on stdin says until when networks are trained, and
how many at once. They are those of this command, of which a sweep elsewhere skips what is finished:

    sweep.py --model resnet20 --data cifar10:DIR --preset short --epochs 30 \
        --alphas 0,-1,-2,-0.5,-3,0.3 --seeds 0,1,2
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import sys
import tarfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

#: The most informative first: with and without the regularizer, then where accuracy begins to fall.
ALPHAS = ("0", "-1", "-2", "-0.5", "-3", "0.3")
SEEDS = (0, 1, 2)
EPOCHS = 30
AT_ONCE = 6
#: A network less in a group does not save its whole share of the time.
MARGIN = 1.15


def main() -> None:
    """Read images, wait for the word, train group after group, and pack each finished network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    import torch

    from recipes.selectivity_regularization.cells import Work, make_cells
    from recipes.selectivity_regularization.options import Request

    for folder in (arguments.scratch, arguments.out):
        folder.mkdir(parents=True, exist_ok=True)
    dry = arguments.dry
    if not dry and arguments.cifar10 is None:
        print("no networks are trained: give --cifar10")
        return
    data = "digits" if dry else f"cifar10:{unpacked(arguments.cifar10, arguments.scratch)}"
    request = Request(
        model="resnet8" if dry else "resnet20",
        data=data,
        preset="short",
        out=arguments.scratch / "runs",
        layers=("activations",),
        measure="class_selectivity",
        image_size=None,
        precision="float32" if dry else "bfloat16",
        instead={"epochs": 1 if dry else EPOCHS},
    )
    begun = time.time()
    splits = request.load()
    print(f"read {len(splits.train)} images in {time.time() - begun:.1f} s", flush=True)
    cells = make_cells(request, list(ALPHAS[:2] if dry else ALPHAS), [0] if dry else list(SEEDS))
    told = json.loads(sys.stdin.readline())
    device = "cpu" if dry or not torch.cuda.is_available() else "cuda"
    work = Work(request, cells, device, compiled=False, threads=1)
    with make_executor(dry) as executor:
        train_groups(work, told["until"], told["at_once"] or AT_ONCE, executor, arguments.out)


def train_groups(work: Any, until: float, at_once: int, executor: Executor, out: Path) -> None:
    """Train as many cells at a time as the GPU likes, and no more than there is time for."""
    import dataclasses

    from recipes.selectivity_regularization.cells import train_free_cells

    packed = Packed(work, out)
    cells = list(work.cells)
    seconds_each = 0.0
    while cells:
        left = until - time.time()
        count = min(at_once, len(cells))
        if seconds_each:
            count = min(count, int(left / (MARGIN * seconds_each)))
        if count < 1:
            print(f"{len(cells)} networks are left, no time for another")
            break
        group, cells = cells[:count], cells[count:]
        begun = time.time()
        train_free_cells(
            dataclasses.replace(work, cells=group),
            lambda line: print(line, flush=True),
            at_once=count,
            executor=executor,
            goes_on=lambda: packed.look() and time.time() < until,
        )
        seconds_each = (time.time() - begun) / count
        packed.look(now=True)
        print(f"{count} networks in {time.time() - begun:.1f} s", flush=True)


class Packed:
    """The finished networks, packed again after each new one."""

    def __init__(self, work: Any, out: Path) -> None:
        self._work = work
        self._out = out
        self._begun = self._looked = time.time()
        self._finished: dict[str, dict[str, Any]] = {}

    def look(self, now: bool = False) -> bool:
        """Look for finished networks, not more than once a second; return True."""
        if now or time.time() > self._looked + 1:
            self._looked = time.time()
            new = [
                cell
                for cell in self._work.cells
                if cell.name not in self._finished and cell.state() == "finished"
            ]
            for cell in new:
                self._finished[cell.name] = self._describe(cell)
            if new:
                self._pack()
        return True

    def _describe(self, cell: Any) -> dict[str, Any]:
        import xarray as xr

        from recipes.selectivity_regularization.runs import RESULT

        with xr.open_dataset(cell.folder / RESULT, engine="h5netcdf") as run:
            return {
                "finished_after_s": round(time.time() - self._begun, 1),
                "test_accuracy": float(run["test_accuracy"]),
                "class_selectivity": float(run["class_selectivity"].mean()),
                "training_s": float(run["seconds"].sum()),
                "environment": json.loads(run.attrs["environment"]),
            }

    def _pack(self) -> None:
        import torch
        from safetensors.torch import load_file, save

        from recipes.selectivity_regularization.runs import CONFIG, RESULT, WEIGHTS

        results, weights = [], []
        for cell in self._work.cells:
            if cell.name in self._finished:
                place = f"{cell.folder.parent.name}/{cell.folder.name}"
                results += [
                    (f"{place}/{name}", (cell.folder / name).read_bytes())
                    for name in (CONFIG, RESULT)
                ]
                halved = {
                    name: value.half() if value.dtype == torch.float32 else value
                    for name, value in load_file(cell.folder / WEIGHTS).items()
                }
                weights.append((f"{place}/{WEIGHTS}", save(halved)))
        write_tar(self._out / "runs.tar", results)
        write_tar(self._out / "weights.tar", weights)
        path = self._out / "networks.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(self._finished, indent=1) + "\n")
        partial.replace(path)


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    """Write an archive, whole or not at all."""
    partial = path.with_suffix(".tmp")
    with tarfile.open(partial, "w") as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    partial.replace(path)


def unpacked(place: Path, scratch: Path) -> Path:
    """Return the folder of CIFAR-10, which may be in an archive that holds the one folder."""
    if place.is_dir():
        return place
    with tarfile.open(place) as archive:
        archive.extractall(scratch, filter="data")
    return scratch / "cifar10"


def make_executor(dry: bool) -> Executor:
    """Return where layers are measured while the GPU goes on."""
    if dry:
        return ThreadPoolExecutor(1)
    # Of the processes that it starts, which share the processor.
    os.environ["OMP_NUM_THREADS"] = "2"
    return ProcessPoolExecutor(
        max(1, (os.cpu_count() or 1) // 2), mp_context=multiprocessing.get_context("spawn")
    )


if __name__ == "__main__":
    main()
