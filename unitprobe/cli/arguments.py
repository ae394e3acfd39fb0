"""Arguments and options that several commands share, and how they are parsed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unitprobe.errors import OptionError

if TYPE_CHECKING:
    from unitprobe.models import Network
    from unitprobe.stimuli import Stimuli

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
        help="digits, imagefolder:DIR, cifar10:DIR, cifar100:DIR, table:FILE, imagenet:DIR or "
        "array:FILE.npz.",
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
        help='Name, glob, "kind:relu", "activations" (the default) or "blocks". May be repeated.',
    ),
]
BatchSize = Annotated[int, typer.Option(help="Stimuli in one forward pass.")]
Device = Annotated[str | None, typer.Option(help='"cpu", "cuda", ...; the CPU by default.')]
Workers = Annotated[int, typer.Option(help="Processes that load images.")]
Split = Annotated[str, typer.Option(help="Part of the stimuli: train, test, ...")]
Limit = Annotated[int | None, typer.Option(help="Take a class-balanced subset of this size.")]
Scale = Annotated[
    float | None,
    typer.Option(help="The value of white in images of 16 bits or of floats, such as 65535."),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Signed = Annotated[
    str, typer.Option(help="Negative responses: auto (leave out), rectify, shift, allow or refuse.")
]
Rectify = Annotated[
    bool, typer.Option("--rectify", help="Set negative values to 0 before pooling.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file or folder.")]


def refuse_given(context: typer.Context, source: str, names: Sequence[str]) -> None:
    """Refuse options of the running command that were given but have no effect on a source.

    Raises
    ------
    OptionError
        One was given.
    """
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise OptionError(f"{options[name]} has no effect on {source}; leave it out")


@contextmanager
def processes_of_torchrun() -> Iterator[bool]:
    """Join the processes that torchrun started, if it did; yield whether this one writes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    try:
        yield distributed.get_rank() == 0
        distributed.barrier()  # or the others would leave while the first writes
    finally:
        distributed.destroy_process_group()


def device_of_process(device: str | None) -> str | None:
    """Return the device, and of several GPUs the one of this process of torchrun."""
    return (
        f"cuda:{os.environ['LOCAL_RANK']}"
        if device == "cuda" and "LOCAL_RANK" in os.environ
        else device
    )


def load_network(
    name: str,
    weights: Path | None,
    pretrained: bool,
    num_classes: int | None,
    class_names: Path | None,
) -> Network:
    """Return the network that the command line names."""
    from unitprobe.models import load_model

    return load_model(
        name,
        pretrained=pretrained,
        weights=weights,
        num_classes=num_classes,
        class_names=class_names,
    )


def load_images(
    spec: str, split: str, limit: int | None, seed: int, scale: float | None = None
) -> Stimuli:
    """Return the stimuli that the command line names."""
    from unitprobe.stimuli import load_stimuli

    return load_stimuli(spec, split=split, limit=limit, seed=seed, scale=scale)


def parse_size(text: str | None) -> tuple[int, int, int] | None:
    """Return ``3,32,32`` as numbers."""
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"--input-size {text!r} is not three numbers; give channels, height, width: 3,32,32"
        ) from None
    return channels, height, width


def parse_units(text: str) -> list[int]:
    """Return ``0,1,5-9`` as numbers."""
    units: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            units += range(int(first), int(last or first) + 1)
    except ValueError:
        raise OptionError(f"{text!r} is not a list of numbers and ranges; give 0,1,5-9") from None
    return units


def parse_numbers(kind: type[int] | type[float], text: str) -> list[int] | list[float]:
    """Return ``1,2,20`` as numbers.

    Examples
    --------
    >>> parse_numbers(int, "1,2,20")
    [1, 2, 20]
    """
    try:
        return [kind(part) for part in text.split(",") if text]
    except ValueError:
        raise OptionError(f"{text!r} is not a list of numbers; give 1,2,20") from None


def parse_checkpoints(words: Sequence[str]) -> list[tuple[int | str, Path]]:
    """Return labels and files of weights from ``EPOCH=FILE`` and globs.

    The label of a file that a glob finds is the last number in its name, or its name without the
    suffix if it has no number. The files of a glob are sorted by label.

    Raises
    ------
    OptionError
        A glob finds no file.

    Examples
    --------
    >>> parse_checkpoints(["5=run/a.safetensors"])[0][0], parse_checkpoints(["end=b.pt"])[0][0]
    (5, 'end')
    """
    found: list[tuple[int | str, Path]] = []
    for word in words:
        label, equals, file = word.partition("=")
        if equals and "/" not in label:
            found.append((int(label) if label.isdecimal() else label, Path(file)))
            continue
        start = Path(Path(word).anchor)
        files = list(start.glob(str(Path(word).relative_to(start))))
        if not files:
            raise OptionError(f"{word!r} is not EPOCH=FILE and matches no file")
        found += sorted(
            ((_checkpoint_label(file), file) for file in files),
            key=lambda pair: (isinstance(pair[0], str), pair[0], str(pair[1])),
        )
    return found


def _checkpoint_label(file: Path) -> int | str:
    numbers = re.findall(r"\d+", file.stem)
    return int(numbers[-1]) if numbers else file.stem
