"""What an ablation is asked to do: what replaces a unit, which engine runs, and how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from torch import Tensor

from unitprobe.errors import OptionError

#: Where the outputs for the classes are: a key, a field or an index of what the network returns, or
#: a function from that to the tensor (stimulus, output).
Output: TypeAlias = str | int | Callable[[Any], Tensor]
#: Which engine computes the ablated logits; see `unitprobe.ablate`.
Method = Literal["auto", "partial_forward", "full"]
ModeName = Literal["zero", "mean", "class_mean", "resample", "noise", "weights"]


@dataclass(frozen=True)
class Noise:
    """The ablation mode that adds Gaussian noise to the values of a unit.

    Parameters
    ----------
    scale : float
        Standard deviation of the noise divided by that of the unit over stimuli and positions;
        0 or more.

    Examples
    --------
    >>> import unitprobe as up
    >>> up.Noise(0.5)
    Noise(scale=0.5)
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"Noise({self.scale}): the scale must be a finite number, 0 or more")


@dataclass(frozen=True)
class Value:
    """The ablation mode that sets a unit to one number everywhere.

    Parameters
    ----------
    value : float
        A finite number.

    Examples
    --------
    >>> import unitprobe as up
    >>> up.Value(0.3)
    Value(value=0.3)
    """

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise OptionError(f"Value({self.value}): the value must be a finite number")


#: What replaces the values of an ablated unit; see `unitprobe.ablate`. "noise" is `Noise(1.0)`.
Mode: TypeAlias = ModeName | Noise | Value


def check_mode(mode: object) -> Mode:
    """Return a valid mode, ``"noise"`` as `Noise`.

    Raises
    ------
    OptionError
        The mode is unknown, or is a name that needs a number.
    """
    if mode == "noise":
        return Noise()
    if isinstance(mode, Noise | Value):
        return mode
    if mode in get_args(ModeName):
        return cast(ModeName, mode)
    if mode == "value":
        raise OptionError("mode='value' needs a number; give Value(0.3) (--mode value:0.3)")
    known = ", ".join(get_args(ModeName))
    raise OptionError(
        f"mode={mode!r} is not known; choose one of {known}, or Noise(0.5) or Value(0.3)"
    )


def mode_name(mode: Mode) -> str:
    """Return the name of a mode without its number.

    Examples
    --------
    >>> mode_name("zero"), mode_name(Noise(0.5))
    ('zero', 'noise')
    """
    return mode if isinstance(mode, str) else type(mode).__name__.lower()


def format_mode(mode: Mode) -> str:
    """Return a mode as the command line writes it.

    Examples
    --------
    >>> format_mode("zero"), format_mode(Noise(0.5)), format_mode(Value(0.3))
    ('zero', 'noise:0.5', 'value:0.3')
    """
    if isinstance(mode, Noise):
        return f"noise:{mode.scale:g}"
    return f"value:{mode.value:g}" if isinstance(mode, Value) else mode


def parse_mode(text: str) -> Mode:
    """Return the mode that the command line names.

    Raises
    ------
    OptionError
        The mode is unknown or its number is invalid.

    Examples
    --------
    >>> parse_mode("mean"), parse_mode("noise:0.5")
    ('mean', Noise(scale=0.5))
    """
    name, colon, number = text.partition(":")
    if not colon:
        return check_mode(text)
    if name not in ("noise", "value"):
        raise OptionError(f"mode {text!r} is not known; only noise and value take a number")
    try:
        found = float(number)
    except ValueError:
        raise OptionError(f"mode {text!r} needs a number; give {name}:0.5") from None
    return Noise(found) if name == "noise" else Value(found)


@dataclass(frozen=True)
class SweepOptions:
    """How units are ablated; each field as in `unitprobe.ablate`."""

    mode: Mode = "zero"
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    method: Method = "auto"
    memory: int = 2**30
    progress: bool = True
    output: Output | None = None

    def __post_init__(self) -> None:
        check_output_option(self.output)
        object.__setattr__(self, "mode", check_mode(self.mode))
        if self.method not in get_args(Method):
            known = ", ".join(get_args(Method))
            raise OptionError(f"method={self.method!r} is not known; choose one of {known}")


def check_output_option(output: object) -> None:
    """Refuse an `output` that is not a key, a field, an index or a function.

    Raises
    ------
    OptionError
        It is not.
    """
    if output is not None and not isinstance(output, str | int) and not callable(output):
        raise OptionError(
            f"output={output!r} is not the name or index of an output, or a function that returns "
            "it"
        )
