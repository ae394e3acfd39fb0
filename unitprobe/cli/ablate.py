"""The command that ablates: every unit alone, or a published protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import xarray as xr

from unitprobe.cli.options import (
    BatchSize,
    Classes,
    ClassNames,
    Device,
    Layers,
    Limit,
    Model,
    Overwrite,
    Pretrained,
    Seed,
    Split,
    StimuliSpec,
    Weights,
    Workers,
    load_images,
    load_network,
    parse_numbers,
    parse_units,
)
from unitprobe.errors import OptionError

#: What each protocol is told of: its own name of an option, by that of the command line.
_PROTOCOLS = {
    "zhou": {
        "mode": "mode",
        "directions": "n_directions",
        "resamples": "resamples",
        "null": "null",
        "signed": "signed",
    },
    "morcos": {
        "mode": "clamps",
        "noise-scale": "noise_scales",
        "orders": "n_orders",
        "points": "n_points",
        "across-layers": "across_layers",
        "resamples": "resamples",
        "signed": "signed",
    },
    "bau": {"mode": "mode", "sizes": "sizes", "class": "classes", "random-sets": "n_random"},
    "ranadive": {
        "mode": "mode",
        "checkpoint": "checkpoints",
        "share": "share",
        "matched": "matched",
        "random-sets": "n_random",
        "signed": "signed",
    },
}
#: What a sweep of single units is told of.
_SINGLE_UNITS = {
    "mode": "mode",
    "units": "units",
    "value": "value",
    "noise-scale": "noise_scale",
    "null": "null",
    "attribution-steps": "attribution_steps",
    "check-units": "check_units",
    "logit-changes": "logit_changes",
}


def ablate(
    model: Model,
    stimuli: StimuliSpec,
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    select: Layers = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="zhou, morcos, bau or ranadive; without, every unit alone."),
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="Only these units of each layer: 0,1,5-9.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="What takes a unit's place: zero (the default), mean, class_mean, resample, "
            "noise, value or weights."
        ),
    ] = None,
    value: Annotated[float | None, typer.Option(help="For --mode value.")] = None,
    noise_scale: Annotated[
        list[float] | None,
        typer.Option(help="Noise over a unit's standard deviation. morcos: may be repeated."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, partial_forward, full or attribution.")
    ] = "auto",
    null: Annotated[
        int | None, typer.Option(help="Draws for the chance level of the largest class drop.")
    ] = None,
    attribution_steps: Annotated[
        int | None, typer.Option(help="Gradients on the way to the ablated layer.")
    ] = None,
    check_units: Annotated[
        int | None, typer.Option(help="Units that are ablated to check an attribution.")
    ] = None,
    logit_changes: Annotated[
        bool | None, typer.Option("--logit-changes", help="Also write the change of every logit.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished sweep, or anew.")
    ] = True,
    directions: Annotated[
        int | None, typer.Option(help="zhou: random directions of each layer.")
    ] = None,
    orders: Annotated[int | None, typer.Option(help="morcos: random orders of each layer.")] = None,
    points: Annotated[int | None, typer.Option(help="morcos: points of each curve.")] = None,
    across_layers: Annotated[
        bool | None,
        typer.Option("--across-layers", help="morcos: also the units of all layers together."),
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(help="zhou, morcos: for intervals and p-values.")
    ] = None,
    random_sets: Annotated[
        int | None, typer.Option(help="bau, ranadive: sets of random units.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="bau: how many units are removed: 1,2,3,4,5,20.")
    ] = None,
    of_class: Annotated[
        list[str] | None,
        typer.Option("--class", help="bau: only the units of this class. May be repeated."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="ranadive: EPOCH=FILE of weights, or a glob. May be repeated."),
    ] = None,
    share: Annotated[float | None, typer.Option(help="ranadive: share of a layer's units.")] = None,
    matched: Annotated[
        bool | None, typer.Option("--matched", help="ranadive: random units of like activity.")
    ] = None,
    signed: Annotated[
        str | None, typer.Option(help="Negative responses: refuse, rectify or allow.")
    ] = None,
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
    """Silence every unit in turn, or run a protocol, and measure what the network loses."""
    from unitprobe.store import check_output, save_tree

    given = {
        "units": None if units is None else parse_units(units),
        "mode": mode,
        "value": value,
        "noise-scale": noise_scale,
        "null": null,
        "attribution-steps": attribution_steps,
        "check-units": check_units,
        "logit-changes": logit_changes,
        "directions": directions,
        "orders": orders,
        "points": points,
        "across-layers": across_layers,
        "resamples": resamples,
        "random-sets": random_sets,
        "sizes": None if sizes is None else parse_numbers("--sizes", sizes),
        "class": of_class,
        "checkpoint": checkpoint,
        "share": share,
        "matched": matched,
        "signed": signed,
    }
    options = choose_options(protocol, {name: v for name, v in given.items() if v is not None})
    check_output(out, overwrite=overwrite)
    images = load_images(stimuli, split, limit, seed)
    network = load_network(model, weights, pretrained, num_classes, class_names)
    shared: dict[str, Any] = {
        "layers": select or "activations",
        "method": method,
        "batch_size": batch_size,
        "device": device,
        "workers": workers,
        "seed": seed,
    }
    if protocol is None:
        from unitprobe.ablation import ablate

        tree = ablate(
            network, images, path=out, overwrite=overwrite, resume=resume, **shared, **options
        )
        for line in _single_unit_lines(tree, out):
            typer.echo(line)
        return
    from unitprobe.ablation.checkpoint import keeping

    with keeping(out, resume=resume) as folder:
        shared["keep"] = folder
        if protocol == "ranadive":
            tree = _protocol("ranadive")(
                options.pop("checkpoints"), images, model=network, **shared, **options
            )
        else:
            tree = _protocol(protocol)(network, images, **shared, **options)
        save_tree(tree, out, overwrite=overwrite)
    for line in _protocol_lines(tree, out):
        typer.echo(line)


def choose_options(protocol: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given under the names that the function takes it by.

    Raises
    ------
    OptionError
        There is no such protocol, or an option is not of it.

    Examples
    --------
    >>> choose_options("bau", {"random-sets": 3})
    {'n_random': 3}
    """
    if protocol is not None and protocol not in _PROTOCOLS:
        known = ", ".join(_PROTOCOLS)
        raise OptionError(f"--protocol {protocol!r} is not known; choose one of {known}")
    names = _SINGLE_UNITS if protocol is None else _PROTOCOLS[protocol]
    for name in given:
        if name not in names:
            owners = [each for each, of in _PROTOCOLS.items() if name in of]
            right = f"--protocol {' or '.join(owners)}" if owners else "a sweep without --protocol"
            raise OptionError(f"--{name} is an option of {right}")
    if protocol == "morcos" and "mode" in given:
        given = given | {"mode": [given["mode"]]}
    if protocol is None and len(given.get("noise-scale", [])) > 1:
        raise OptionError("--noise-scale is given more than once; only --protocol morcos takes it")
    if protocol is None and "noise-scale" in given:
        given = given | {"noise-scale": given["noise-scale"][0]}
    if protocol == "ranadive":
        given = given | {"checkpoint": find_checkpoints(given.get("checkpoint", []))}
    return {names[name]: value for name, value in given.items()}


def find_checkpoints(words: Sequence[str]) -> list[tuple[int | str, Path]]:
    """Return labels and files of weights from ``EPOCH=FILE`` and globs.

    The label of a file that a glob finds is the last number in its name, or its name without one;
    such files stand in the order of their labels.

    Raises
    ------
    OptionError
        None is given, or a glob finds no file.

    Examples
    --------
    >>> find_checkpoints(["5=run/a.safetensors"])[0][0], find_checkpoints(["end=b.pt"])[0][0]
    (5, 'end')
    """
    if not words:
        raise OptionError(
            "--protocol ranadive compares checkpoints; give --checkpoint EPOCH=FILE, or a glob"
        )
    found: list[tuple[int | str, Path]] = []
    for word in words:
        label, is_pair, place = word.partition("=")
        if is_pair and "/" not in label:
            found.append((int(label) if label.isdecimal() else label, Path(place)))
            continue
        start = Path(Path(word).anchor)
        files = list(start.glob(str(Path(word).relative_to(start))))
        if not files:
            raise OptionError(f"--checkpoint {word!r} is no EPOCH=FILE, and finds no file")
        found += sorted(
            ((_label_of(file), file) for file in files),
            key=lambda pair: (isinstance(pair[0], str), pair[0], str(pair[1])),
        )
    return found


def _label_of(file: Path) -> int | str:
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else file.stem


def _protocol(name: str) -> Callable[..., xr.DataTree]:
    from unitprobe import protocols

    return cast(Callable[..., xr.DataTree], getattr(protocols, f"{name}_protocol"))


def _single_unit_lines(tree: xr.DataTree, out: Path) -> list[str]:
    count = sum(node.sizes["unit"] for node in tree.children.values())
    lines = [f"accuracy of the intact network: {float(tree['accuracy']):.3f}"]
    if "rank_correlation" in tree:
        low, high = (float(tree[f"rank_correlation_{end}"]) for end in ("low", "high"))
        lines.append(
            "rank correlation of attribution and ablation: "
            f"{float(tree['rank_correlation']):.2f} [{low:.2f}, {high:.2f}]"
        )
    return [*lines, f"ablated {count} units of {len(tree.children)} layers: {out}"]


def _protocol_lines(tree: xr.DataTree, out: Path) -> list[str]:
    from unitprobe.protocols import summarize_protocol

    lines = [summarize_protocol(tree).to_string(index=False, float_format="%.3f")]
    if "checkpoint" not in tree.dims:
        lines.append(f"accuracy of the intact network: {float(tree['accuracy']):.3f}")
    name = tree.attrs["protocol"]
    return [*lines, f"ran protocol {name} on {len(tree.children)} layers: {out}"]
