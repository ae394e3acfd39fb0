"""The commands: each parses its options, calls a function and prints a summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from unitprobe import __version__
from unitprobe.cli.ablate import ablate_command, attribute_command
from unitprobe.cli.arguments import (
    BatchSize,
    Classes,
    ClassNames,
    Device,
    Layers,
    Limit,
    Model,
    Overwrite,
    Pretrained,
    Rectify,
    Scale,
    Seed,
    Signed,
    Split,
    StimuliSpec,
    Weights,
    Workers,
    device_of_process,
    load_images,
    load_network,
    parse_size,
    processes_of_torchrun,
    refuse_given,
)
from unitprobe.cli.compare import compare
from unitprobe.cli.metrics_help import MeasuresCommand
from unitprobe.cli.protocol import protocol_group
from unitprobe.errors import OptionError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unitprobe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Tell what the single units of a network do, and whether it matters."""


# The columns of the table by layer that `analyze` prints; the file has all.
_SUMMARY = (
    "layer",
    "units",
    "class_selectivity",
    "class_selectivity_corrected",
    "selective_share",
    "lifetime_sparseness",
    "dead_share",
    "participation_ratio",
)
# Options of `analyze` that describe stimuli and how a network is shown them, and its weights.
_OF_STIMULI = (
    "select",
    "pool",
    "rectify",
    "batch_size",
    "device",
    "split",
    "limit",
    "scale",
    "workers",
    "memory",
)
_OF_ANALYSES = ("n_permutations", "n_bootstrap", "signed", "seed")
_OF_MODEL = ("weights", "pretrained", "num_classes", "class_names")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Probe three small networks trained here on handwritten digits, and compare them."""
    from unitprobe.demo import run_demo

    for line in run_demo(out, seed=seed, overwrite=overwrite):
        typer.echo(line)


@app.command()
def layers(
    model: Model,
    select: Annotated[
        list[str] | None, typer.Option("--layers", help="Show only these layers.")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(help="Channels, height and width of a stimulus: 3,32,32.")
    ] = None,
    num_classes: Classes = None,
) -> None:
    """List the layers of a network: name, kind, shape, units."""
    from rich.console import Console
    from rich.table import Table

    from unitprobe.layers import list_layers, select_layers

    network = load_network(model, None, False, num_classes, None)
    listed = list_layers(network, input_size=parse_size(input_size))
    if select:
        listed = select_layers(network.module, listed, select)
    table = Table("layer", "kind", "shape", "units", "unit axis", title=network.name)
    for layer in listed:
        shape = " x ".join(map(str, layer.shape[1:]))
        axis, units = ("-", "-") if layer.unit_axis is None else (layer.unit_axis, layer.units)
        table.add_row(layer.name, layer.kind, shape, str(units), str(axis))
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


@app.command()
def record(
    model: Model,
    stimuli: StimuliSpec,
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    select: Layers = None,
    pool: Annotated[str, typer.Option(help="mean, max, center, cls or none.")] = "mean",
    rectify: Rectify = False,
    batch_size: BatchSize = 64,
    dtype: Annotated[str, typer.Option(help="float32, float64 or float16.")] = "float32",
    compression: Annotated[
        str | None, typer.Option(help='"zstd" compresses the finished file.')
    ] = None,
    device: Device = None,
    weights: Weights = None,
    pretrained: Pretrained = True,
    num_classes: Classes = None,
    class_names: ClassNames = None,
    split: Split = "test",
    limit: Limit = None,
    scale: Scale = None,
    seed: Seed = 0,
    workers: Workers = 0,
    resume: Annotated[
        bool, typer.Option(help="Continue an unfinished recording, or start again.")
    ] = True,
    autocast: Annotated[
        str | None, typer.Option(help="Compute in bfloat16 or float16 where that is safe.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Refuse to write a file larger than this, such as 10GB.")
    ] = None,
    shard_stimuli: Annotated[
        int | None, typer.Option(help="Flush the file after so many stimuli; 1024 by default.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Record what every unit does in one HDF5 file."""
    from unitprobe.recording import record
    from unitprobe.store import check_output, format_size

    check_output(out, overwrite=overwrite)
    with processes_of_torchrun() as writes:
        images = load_images(stimuli, split, limit, seed, scale)
        network = load_network(model, weights, pretrained, num_classes, class_names)
        tree = record(
            network,
            images,
            out,
            layers=select or "activations",
            pool=pool,
            rectify=rectify,
            batch_size=batch_size,
            dtype=dtype,
            compression=compression,
            device=device_of_process(device),
            workers=workers,
            resume=resume,
            autocast=autocast,
            max_size=max_size,
            shard_stimuli=shard_stimuli,
            overwrite=overwrite,
            announce=typer.echo,
        )
    if writes:
        size = format_size(out.stat().st_size)
        typer.echo(f"recorded {len(tree.children)} layers, {len(images)} stimuli: {out} ({size})")


@app.command()
def status(
    store: Annotated[Path, typer.Argument(help="The recording, finished or not.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all numbers with their checksums.")
    ] = False,
) -> None:
    """Show the progress of a recording, also while another process writes it."""
    from unitprobe.store import format_seconds, format_size, recording_status, verify_store

    found = recording_status(store)
    done, total = found.stimuli_done, found.stimuli
    state = "complete" if found.complete else "being recorded" if found.active else "interrupted"
    typer.echo(f"{store}: {state}, {done} of {total} stimuli ({done / max(1, total):.0%})")
    typer.echo(f"network: {found.network}")
    typer.echo(f"layers: {found.layers}")
    typer.echo(f"size: {format_size(found.file_bytes)}")
    if not found.complete:
        typer.echo(f"shards: {found.shards_done} of {found.shards}")
    if found.rate is not None:
        typer.echo(f"rate: {found.rate:.0f} stimuli/s")
    if found.seconds_left is not None:
        typer.echo(f"time left: about {format_seconds(found.seconds_left)}")
    if not found.complete and not found.active:
        typer.echo("no process records it; the same recording continues where it stopped")
    if verify:
        verify_store(store, progress=True)
        typer.echo("numbers: unchanged since they were recorded")


@app.command(cls=MeasuresCommand)
def analyze(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="STORE|MODEL", help="A recording; before STIMULI, a network.")
    ],
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    stimuli: Annotated[
        str | None,
        typer.Argument(
            metavar="[STIMULI]", help="Measure the network on these, without a recording."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="Only this statistic, of those below. May be repeated.")
    ] = None,
    n_permutations: Annotated[
        int, typer.Option(help="Permutations of the labels for the null.")
    ] = 0,
    n_bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 0,
    signed: Signed = "auto",
    csv: Annotated[Path | None, typer.Option(help="Also write the units to this CSV.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The network of the recording, for the norms of its weights.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    select: Layers = None,
    pool: Annotated[str, typer.Option(help="Of a network: mean, max, center or cls.")] = "mean",
    rectify: Rectify = False,
    batch_size: BatchSize = 64,
    device: Device = None,
    weights: Weights = None,
    pretrained: Pretrained = True,
    num_classes: Classes = None,
    class_names: ClassNames = None,
    split: Split = "test",
    limit: Limit = None,
    scale: Scale = None,
    workers: Workers = 0,
    memory: Annotated[
        str, typer.Option(help="Of a network: what its responses may occupy, such as 2GB.")
    ] = "2GB",
) -> None:
    """Measure selectivity, sparseness and dimensionality of a recording, or of a network."""
    from unitprobe.analysis import analyze, layer_table, unit_table
    from unitprobe.store import check_output, save_tree, writing

    if stimuli is not None and model is not None:
        raise OptionError(f"--model {model} is for a recording; {source} is the network already")
    if stimuli is None:
        refuse_given(context, "a recording, whose responses are there already", _OF_STIMULI)
        if model is None:
            refuse_given(context, "a recording without --model", _OF_MODEL)
    check_output(out, overwrite=overwrite)
    if csv is not None:
        check_output(csv, overwrite=overwrite)
    store = None if stimuli else Path(source)
    paths = [path.resolve() for path in (store, out, csv) if path is not None]
    if len(set(paths)) < len(paths):
        raise OptionError(f"{out}: the recording, --out and --csv must be different files")
    options = {
        "metrics": metrics,
        "n_permutations": n_permutations,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "signed": cast(Any, signed),
    }
    with processes_of_torchrun() as writes:
        if stimuli is None:
            recorded = None
            if model is not None:
                recorded = load_network(model, weights, pretrained, num_classes, class_names)
            result = analyze(source, model=recorded, **options)
        else:
            images = load_images(stimuli, split, limit, seed, scale)
            result = analyze(
                load_network(source, weights, pretrained, num_classes, class_names),
                images,
                memory=memory,
                layers=select or "activations",
                pool=pool,
                rectify=rectify,
                batch_size=batch_size,
                device=device_of_process(device),
                workers=workers,
                **options,
            )
        if not writes:
            return
        save_tree(result, out, overwrite=overwrite)
        if csv is not None:
            with writing(csv):
                unit_table(result).to_csv(csv, index=False)
    table = layer_table(result)
    shown = [name for name in _SUMMARY if name in table]
    typer.echo(table[shown].to_string(index=False, float_format="%.3f"))
    typer.echo(f"analyzed {len(result.children)} layers: {out}")


app.command("ablate")(ablate_command)
app.command("attribute")(attribute_command)
app.add_typer(protocol_group(), name="protocol")
app.command()(compare)


@app.command()
def report(
    context: typer.Context,
    store: Annotated[Path, typer.Argument(help="A recording, or its analysis.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    ablation: Annotated[Path | None, typer.Option(help="An ablation of the same network.")] = None,
    n_permutations: Annotated[
        int, typer.Option(help="Permutations of the labels, if a recording is given.")
    ] = 1000,
    n_bootstrap: Annotated[int, typer.Option(help="Resamples, if a recording is given.")] = 200,
    signed: Signed = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a report to browse: an index.html that opens from disk."""
    from unitprobe.analysis import analyze
    from unitprobe.report import write_report
    from unitprobe.store import content_of, open_store

    tree = open_store(store)
    if content_of(tree) != "recording":
        refuse_given(context, "an analysis, which is measured already", _OF_ANALYSES)
    else:
        tree = analyze(
            tree,
            n_permutations=n_permutations,
            n_bootstrap=n_bootstrap,
            seed=seed,
            signed=cast(Any, signed),
        )
    swept = None if ablation is None else open_store(ablation)
    page = write_report(tree, out, ablation=swept, overwrite=overwrite)
    typer.echo(f"open {page} in a browser")
