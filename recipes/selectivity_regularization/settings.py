"""What a run does: every setting, and the presets that they come from."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, get_args

from unitprobe.errors import OptionError
from unitprobe.regularizer import RegularizedMeasure

PRESETS = ("full", "short")
SCHEDULES = ("steps", "one_cycle")
PRECISIONS = ("bfloat16", "float32")


def _check(right: bool, message: str) -> None:
    if not right:
        raise OptionError(message)


@dataclass(frozen=True)
class Preset:
    """Hyper-parameters of training with stochastic gradient descent.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        At first in "steps"; at its highest in "one_cycle".
    momentum, weight_decay : float
    nesterov : bool
    schedule : {"steps", "one_cycle"}
        A tenth from each of `milestones` on; or a linear rise over a quarter of the steps and a
        linear fall to 0.
    milestones : tuple of int
        Epochs done before each step.
    padding : int
        Pixels around each training image before it is cropped at random.
    flip : bool
        Whether training images are mirrored at random.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: str = "steps"
    milestones: tuple[int, ...] = ()
    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs={self.epochs}; train for 1 epoch or more")
        _check(
            self.batch_size >= 2,
            f"batch_size={self.batch_size}: a batch needs images of at least two classes to have "
            "a selectivity",
        )
        _check(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate={self.learning_rate} is not a positive number",
        )
        _check(
            math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            f"weight_decay={self.weight_decay} is not 0 or a positive number",
        )


# Where each number comes from is said in README.md.
_RESNET20 = Preset(epochs=200, weight_decay=1e-4, milestones=(100, 150))
_VGG16 = Preset(epochs=200, learning_rate=0.05, milestones=(100, 150))
_TINY_IMAGENET = Preset(epochs=90, milestones=(35, 50, 65, 80), padding=8)
_DIGITS = Preset(
    epochs=20, nesterov=True, schedule="one_cycle", learning_rate=0.2, padding=1, flip=False
)
_SHORT = Preset(epochs=6, nesterov=True, schedule="one_cycle", learning_rate=0.4)


def find_preset(name: str, model: str, data: str, image_size: int) -> Preset:
    """Return the hyper-parameters of a preset for a network and data.

    Parameters
    ----------
    name : {"full", "short"}
        The published hyper-parameters where there are any; or a schedule of a few epochs.
    model, data : str
        Names of the network and of the data, such as "resnet20" and "cifar10".
    image_size : int
        Height and width of the images.

    Raises
    ------
    OptionError
        There is no such preset.
    """
    if name not in PRESETS:
        raise OptionError(f"preset {name!r} is not known; choose one of {', '.join(PRESETS)}")
    if data == "digits":
        return _DIGITS if name == "full" else dataclasses.replace(_DIGITS, epochs=8)
    if name == "short":
        return dataclasses.replace(_SHORT, padding=image_size // 8)
    if model == "vgg16_bn":
        return _VGG16
    if image_size < 48:
        return _RESNET20
    return dataclasses.replace(_TINY_IMAGENET, padding=image_size // 8)


@dataclass(frozen=True)
class Settings:
    """Every setting that the result of a run depends on.

    Attributes
    ----------
    model, data, preset : str
        As the command line has them.
    data_fingerprint : str
        Hash of all pixels and labels, which is the same for the same data in another folder.
    image_size : int
    mean, std : tuple of float
        What the images are normalised with.
    alpha : str
        Weight of the regularizer, or its schedule over epochs.
    layers : tuple of str
        Selection of the layers that are regularized and measured.
    measure : {"class_selectivity", "class_selectivity_corrected", "d_prime"}
        What is regularized; see `unitprobe.SelectivityRegularizer`.
    seed : int
    precision : {"bfloat16", "float32"}
        Of the forward pass in training, through autocast. Measurements are in float32.
    training : Preset
    """

    model: str
    data: str
    preset: str
    data_fingerprint: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    alpha: str
    layers: tuple[str, ...] = ("activations",)
    measure: str = "class_selectivity"
    seed: int = 0
    precision: str = "bfloat16"
    training: Preset = field(default_factory=lambda: _SHORT)

    def __post_init__(self) -> None:
        _check(self.seed >= 0, f"seed={self.seed} is negative; give 0 or more")
        _check(
            self.precision in PRECISIONS,
            f"precision {self.precision!r} is not known; choose one of {', '.join(PRECISIONS)}",
        )
        measures = get_args(RegularizedMeasure)
        _check(
            self.measure in measures,
            f"measure {self.measure!r} is not known; choose one of {', '.join(measures)}",
        )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as they are kept in ``config.json``, flat."""
        flat = dataclasses.asdict(self)
        flat |= flat.pop("training")
        return json.loads(json.dumps(flat))  # type: ignore[no-any-return]


def learning_rate_at(training: Preset, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    training : Preset
    step : int
        From 0, over all epochs.
    steps : int
        In all epochs.

    Examples
    --------
    >>> steps = Preset(epochs=4, milestones=(2, 3))
    >>> [round(learning_rate_at(steps, step, 4), 4) for step in range(4)]
    [0.1, 0.1, 0.01, 0.001]
    >>> cycle = Preset(epochs=8, learning_rate=0.4, schedule="one_cycle")
    >>> [round(learning_rate_at(cycle, step, 8), 4) for step in range(8)]
    [0.1, 0.3, 0.3667, 0.3, 0.2333, 0.1667, 0.1, 0.0333]
    """
    if training.schedule == "steps":
        epoch = step * training.epochs // steps
        passed = sum(epoch >= milestone for milestone in training.milestones)
        return float(training.learning_rate * 0.1**passed)
    # In the middle of the step, so that neither end is a step of no size.
    share = (step + 0.5) / steps
    return training.learning_rate * min(share / 0.25, (1 - share) / 0.75)


def alpha_name(alpha: str) -> str:
    """Return the text of an alpha as it stands in the name of a run's folder.

    Examples
    --------
    >>> alpha_name("-1.0"), alpha_name("0.3"), alpha_name("0"), alpha_name("0*5 -20*85")
    ('-1', '+0.3', '+0', '0x5_-20x85')
    """
    try:
        number = float(alpha)
    except ValueError:
        return re.sub(r"[^0-9a-zA-Z.+-]", "_", " ".join(alpha.split()).replace("*", "x"))
    return f"{number + 0.0:+g}"
