"""Train one network with the selectivity regularizer: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from recipes.selectivity_regularization import options
from recipes.selectivity_regularization.processes import joined
from recipes.selectivity_regularization.runs import is_finished
from recipes.selectivity_regularization.training import train
from unitprobe.regularizer import alpha_schedule

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    model: options.Model,
    data: options.Data,
    alpha: Annotated[
        str, typer.Option(help='Below 0 suppresses selectivity; or a schedule, "0*5 -1*15".')
    ] = "0",
    seed: Annotated[int, typer.Option(help="Of weights and of the order of the images.")] = 0,
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
) -> None:
    """Train one network, or go on where a killed run stopped."""
    alpha_schedule(alpha)  # a mistake in it is told before the images are read
    if threads is not None:
        torch.set_num_threads(threads)
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
    folder = request.folder(alpha, seed)
    before = is_finished(folder)
    with joined(device) as (processes, place):
        if not processes.is_first:
            processes.wait()  # the images are decoded once
        splits = request.load()
        if processes.is_first:
            processes.wait()
        settings = request.settings(splits, alpha, seed)
        epoch_count = settings.training.epochs
        train(
            settings,
            splits,
            folder,
            device=place,
            processes=processes,
            compiled=place.type == "cuda" if compiled is None else compiled,
            graphs=graphs,
            report=lambda epoch, row: typer.echo(options.epoch_line(epoch, epoch_count, row)),
        )
    if processes.is_first:
        typer.echo(f"{'finished before' if before else 'finished'}: {folder}")


if __name__ == "__main__":
    options.run(lambda: app(standalone_mode=False))
