"""What train.py and sweep.py are asked for on the command line."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes.selectivity_regularization.images import Splits, data_name, load_splits
from recipes.selectivity_regularization.runs import run_folder
from recipes.selectivity_regularization.settings import Settings, find_preset
from unitprobe.errors import UnitprobeError

Model = Annotated[
    str, typer.Option(help="resnet8, resnet20, vgg16_bn, resnet18, resnet50, or any timm network.")
]
Data = Annotated[
    str,
    typer.Option(help="digits, cifar10:DIR, cifar100:DIR, tinyimagenet:DIR or imagefolder:DIR."),
]
PresetName = Annotated[
    str, typer.Option("--preset", help="full: the published schedule; short: a few epochs.")
]
Out = Annotated[Path, typer.Option(help="Folder of all runs.")]
Layers = Annotated[
    list[str] | None,
    typer.Option("--layers", help="What is regularized and measured. May be repeated."),
]
Measure = Annotated[
    str,
    typer.Option(
        help="What is regularized: class_selectivity, class_selectivity_corrected or d_prime."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Instead of the preset's.")]
BatchSize = Annotated[int | None, typer.Option(help="Instead of the preset's.")]
LearningRate = Annotated[float | None, typer.Option(help="Instead of the preset's.")]
WeightDecay = Annotated[float | None, typer.Option(help="Instead of the preset's.")]
ImageSize = Annotated[int | None, typer.Option(help="Height and width to bring images to.")]
Precision = Annotated[str, typer.Option(help="Of training: bfloat16 or float32.")]
Device = Annotated[str | None, typer.Option(help='"cpu", "cuda", ...; a GPU if there is one.')]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="By default on a GPU.")
]
Graphs = Annotated[
    bool | None,
    typer.Option("--graphs/--no-graphs", help="Replay steps as a CUDA graph. By default on a GPU."),
]
Threads = Annotated[int | None, typer.Option(help="Processor threads of a process.", min=1)]


@dataclass(frozen=True)
class Request:
    """What is asked for, save for alpha and seed.

    Attributes
    ----------
    model, data, preset, measure, precision : str
    out : Path
    layers : tuple of str
    image_size : int, optional
    instead : dict of str to number
        Hyper-parameters that are not the preset's.
    """

    model: str
    data: str
    preset: str
    out: Path
    layers: tuple[str, ...]
    measure: str
    image_size: int | None
    precision: str
    instead: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Splits:
        """Return the images."""
        return load_splits(self.data, self.out / "cache", self.image_size)

    def folder(self, alpha: str, seed: int) -> Path:
        """Return the folder of one run."""
        return run_folder(self.out, self.model, data_name(self.data), self.preset, alpha, seed)

    def settings(self, splits: Splits, alpha: str, seed: int) -> Settings:
        """Return the settings of one run."""
        preset = find_preset(self.preset, self.model, data_name(self.data), splits.image_size)
        return Settings(
            model=self.model,
            data=self.data,
            preset=self.preset,
            data_fingerprint=splits.fingerprint,
            image_size=splits.image_size,
            mean=splits.mean,
            std=splits.std,
            alpha=alpha,
            layers=self.layers,
            measure=self.measure,
            seed=seed,
            precision=self.precision,
            training=dataclasses.replace(preset, **self.instead),
        )


def given(**values: Any) -> dict[str, Any]:
    """Return the values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def epoch_line(epoch: int, epochs: int, row: dict[str, Any]) -> str:
    """Return an epoch's row of the curves in one line."""
    layers = row["validation_class_selectivity"]
    return (
        f"epoch {epoch}/{epochs}  loss {row['train_loss']:.3f}  "
        f"accuracy {row['train_accuracy']:.1%} (validation {row['validation_accuracy']:.1%})  "
        f"SI {row['train_selectivity']:.3f} (validation {sum(layers) / len(layers):.3f})  "
        f"{row['images_per_second']:.0f} images/s"
    )


def run(call: Callable[[], Any]) -> None:
    """Call, and exit. A user's mistake is one line and exit code 2, never a traceback."""
    # A batch system's warning of the end: leave by the same way as an error, and free the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(call())
    except UnitprobeError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        # Typer's own errors about the words of the command line; it hides their class.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        typer.echo(f"error: {' '.join(describe().split()).rstrip('.')}; see --help", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on after the last finished epoch", err=True)
        sys.exit(130)
