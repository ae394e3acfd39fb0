"""The command line: parse, call, print."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unitprobe.errors import OptionError, UnitprobeError, UnitprobeWarning

if TYPE_CHECKING:
    from unitprobe.models import Network
    from unitprobe.stimuli import Stimuli

app = typer.Typer(
    help="What do the single units of an image network do, and does it matter?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# What `analyze` prints of its table by layer; the file has all.
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

Model = Annotated[
    str,
    typer.Argument(
        help="timm:NAME (or a bare timm name), torchvision:NAME, or package.module:callable."
    ),
]
StimuliSpec = Annotated[
    str,
    typer.Argument(
        metavar="STIMULI",
        help="digits, imagefolder:DIR, cifar10:DIR, cifar100:DIR or array:FILE.npz.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Local weights, .safetensors or .pt; nothing is downloaded.")
]
Pretrained = Annotated[
    bool, typer.Option(help="Pretrained weights from the hub, or random ones with --no-pretrained.")
]
Classes = Annotated[int | None, typer.Option(help="Number of outputs of the network.")]
ClassNames = Annotated[
    Path | None, typer.Option(help="Text file with the name of each output, one a line.")
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        help='Name, glob, kind, "activations" (the default) or "blocks". May be repeated.',
    ),
]
BatchSize = Annotated[int, typer.Option(help="Stimuli in one forward pass.")]
Device = Annotated[str | None, typer.Option(help='"cpu", "cuda", ...; the CPU by default.')]
Workers = Annotated[int, typer.Option(help="Processes that load images.")]
Split = Annotated[str, typer.Option(help="Part of the stimuli: train, test, ...")]
Limit = Annotated[int | None, typer.Option(help="Take a class-balanced subset of this size.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there.")]


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

    network = _load_model(model, None, False, num_classes, None)
    listed = list_layers(network, input_size=_parse_size(input_size))
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
    seed: Seed = 0,
    workers: Workers = 0,
    resume: Annotated[
        bool, typer.Option(help="Go on with an unfinished recording, or begin anew.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Record what every unit does in one HDF5 file."""
    from unitprobe.record import record
    from unitprobe.store import check_output

    check_output(out, overwrite=overwrite)
    images = _load_stimuli(stimuli, split, limit, seed)
    network = _load_model(model, weights, pretrained, num_classes, class_names)
    tree = record(
        network,
        images,
        out,
        layers=select or "activations",
        pool=pool,
        batch_size=batch_size,
        dtype=dtype,
        compression=compression,
        device=device,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
    )
    size = out.stat().st_size / 1e6
    typer.echo(
        f"recorded {len(tree.children)} layers, {len(images)} stimuli: {out} ({size:.1f} MB)"
    )


@app.command()
def analyze(
    store: Annotated[Path, typer.Argument(help="A recording.")],
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    metrics: Annotated[
        list[str] | None, typer.Option(help="Only this statistic. May be repeated.")
    ] = None,
    null: Annotated[int, typer.Option(help="Label shuffles for the null.")] = 0,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals.")] = 0,
    signed: Annotated[
        str, typer.Option(help="Negative responses: allow, rectify, shift or refuse.")
    ] = "allow",
    csv: Annotated[Path | None, typer.Option(help="Also write the units to this CSV.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Measure selectivity, sparseness and dimensionality of a recording."""
    from unitprobe.analysis import analyze, layer_table, unit_table
    from unitprobe.store import check_output, open_store, save_tree, writing

    check_output(out, overwrite=overwrite)
    if csv is not None:
        check_output(csv, overwrite=overwrite)
    paths = [path.resolve() for path in (store, out, csv) if path is not None]
    if len(set(paths)) < len(paths):
        raise OptionError(f"{out}: the recording, --out and --csv must be different files")
    result = analyze(
        open_store(store),
        metrics=metrics,
        null=null,
        bootstrap=bootstrap,
        seed=seed,
        signed=cast(Any, signed),
    )
    save_tree(result, out, overwrite=overwrite)
    if csv is not None:
        with writing(csv):
            unit_table(result).to_csv(csv, index=False)
    table = layer_table(result)
    shown = [name for name in _SUMMARY if name in table]
    typer.echo(table[shown].to_string(index=False, float_format="%.3f"))
    typer.echo(f"analyzed {len(result.children)} layers: {out}")


@app.command()
def ablate(
    model: Model,
    stimuli: StimuliSpec,
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    select: Layers = None,
    units: Annotated[
        str | None, typer.Option(help="Only these units of each layer: 0,1,5-9.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Clamp to zero, or to the unit's mean.")] = "zero",
    method: Annotated[str, typer.Option(help="auto or full.")] = "auto",
    batch_size: BatchSize = 64,
    device: Device = None,
    weights: Weights = None,
    pretrained: Pretrained = True,
    num_classes: Classes = None,
    class_names: ClassNames = None,
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Silence every unit in turn and measure what the network loses."""
    from unitprobe.ablation import ablate
    from unitprobe.store import check_output, save_tree

    check_output(out, overwrite=overwrite)
    images = _load_stimuli(stimuli, split, limit, seed)
    network = _load_model(model, weights, pretrained, num_classes, class_names)
    result = ablate(
        network,
        images,
        layers=select or "activations",
        units=None if units is None else _parse_units(units),
        mode=cast(Any, mode),
        method=cast(Any, method),
        batch_size=batch_size,
        device=device,
        workers=workers,
    )
    save_tree(result, out, overwrite=overwrite)
    count = sum(node.sizes["unit"] for node in result.children.values())
    typer.echo(f"accuracy of the intact network: {float(result['accuracy']):.3f}")
    typer.echo(f"ablated {count} units of {len(result.children)} layers: {out}")


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="A recording, or its analysis.")],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    ablation: Annotated[Path | None, typer.Option(help="An ablation of the same network.")] = None,
    null: Annotated[int, typer.Option(help="Label shuffles, if a recording is given.")] = 1000,
    bootstrap: Annotated[int, typer.Option(help="Resamples, if a recording is given.")] = 200,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a report to browse: an index.html that opens from disk."""
    from unitprobe.analysis import analyze
    from unitprobe.report import write_report
    from unitprobe.store import content_of, open_store

    tree = open_store(store)
    if content_of(tree) == "recording":
        tree = analyze(tree, null=null, bootstrap=bootstrap, seed=seed)
    swept = None if ablation is None else open_store(ablation)
    page = write_report(tree, out, ablation=swept, overwrite=overwrite)
    typer.echo(f"open {page} in a browser")


def main() -> None:
    """Run the command line. A user's mistake is one line and exit code 2, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        sys.exit(app(standalone_mode=False))
    except UnitprobeError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # Typer's own errors about the words of the command line; it hides their class.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        typer.echo(_usage(describe()), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same recording goes on where it stopped", err=True)
        sys.exit(130)


def _usage(message: str) -> str:
    """Return what typer says as one line, or the help as it is."""
    if message.startswith("Usage:"):
        return message
    return f"error: {' '.join(message.split()).rstrip('.')}; see unitprobe --help"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, UnitprobeWarning):
        typer.echo(f"warning: {message}", err=True)


def _load_model(
    name: str,
    weights: Path | None,
    pretrained: bool,
    num_classes: int | None,
    class_names: Path | None,
) -> Network:
    from unitprobe.models import load_model

    return load_model(
        name,
        pretrained=pretrained,
        weights=weights,
        num_classes=num_classes,
        class_names=class_names,
    )


def _load_stimuli(spec: str, split: str, limit: int | None, seed: int) -> Stimuli:
    from unitprobe.stimuli import load_stimuli

    return load_stimuli(spec, split=split, limit=limit, seed=seed)


def _parse_size(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"--input-size {text!r} is not three numbers; give channels, height, width: 3,32,32"
        ) from None
    return channels, height, width


def _parse_units(text: str) -> list[int]:
    units: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            units += range(int(first), int(last or first) + 1)
    except ValueError:
        raise OptionError(
            f"--units {text!r} is not a list of numbers and ranges; give 0,1,5-9"
        ) from None
    return units
