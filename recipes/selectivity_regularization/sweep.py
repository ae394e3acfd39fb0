"""Train alphas by seeds, on any number of machines that share a folder: parse, call, print."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Annotated

import typer

from recipes.selectivity_regularization import options
from recipes.selectivity_regularization.cells import Work, check_cells, make_cells, train_free_cells
from recipes.selectivity_regularization.processes import find_device
from unitprobe.errors import OptionError
from unitprobe.regularizer import alpha_schedule

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    model: options.Model,
    data: options.Data,
    alphas: Annotated[str, typer.Option(help="With commas between: -1,0,1.")],
    seeds: Annotated[str, typer.Option(help="With commas between: 0,1,2.")] = "0",
    jobs: Annotated[
        int,
        typer.Option(help="Networks trained at once: in processes, or in one on a GPU.", min=1),
    ] = 1,
    status: Annotated[
        bool, typer.Option("--status", help="Only tell what has become of each run.")
    ] = False,
    preset: options.PresetName = "full",
    out: options.Out = Path("runs"),
    layers: options.Layers = None,
    measure: options.Measure = "class_selectivity",
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    image_size: options.ImageSize = None,
    precision: options.Precision = "bfloat16",
    device: options.Device = None,
    compiled: options.Compile = None,
    graphs: options.Graphs = None,
    threads: options.Threads = None,
) -> int:
    """Train every network of a sweep that no other process has trained or trains."""
    request = options.Request(
        model=model,
        data=data,
        preset=preset,
        out=out,
        layers=tuple(layers or ["activations"]),
        measure=measure,
        image_size=image_size,
        precision=precision,
        instead=options.given(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        ),
    )
    words = [word.strip() for word in alphas.split(",")]
    for alpha in words:
        alpha_schedule(alpha)  # a mistake in it is told before the images are read
    cells = make_cells(request, words, _numbers(seeds))
    code = 0
    if not status:
        check_cells(request, request.load(), cells)
        place = find_device(device)
        shares = jobs > 1 and place.type != "cuda"
        shared = max(1, (os.cpu_count() or 1) // jobs) if shares else None
        work = Work(
            request=request,
            cells=cells,
            device=str(place),
            compiled=compiled,
            threads=threads or shared,
            graphs=graphs,
        )
        code = _work_together(work, jobs, shares)
    for cell in cells:
        typer.echo(f"{cell.name:24}  {cell.describe()}")
    return code or int(any(cell.state() == "diverged" for cell in cells))


def _work_together(work: Work, jobs: int, in_processes: bool) -> int:
    """Train so many networks at once; return the highest exit code of the processes."""
    if not in_processes:
        train_free_cells(work, typer.echo, at_once=jobs)
        return 0
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(work,), daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(abs(worker.exitcode or 0) for worker in workers)


def _work(work: Work) -> None:
    options.run(lambda: train_free_cells(work, typer.echo))


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(f"--seeds {text!r} are not whole numbers; give 0,1,2") from None


if __name__ == "__main__":
    options.run(lambda: app(standalone_mode=False))
