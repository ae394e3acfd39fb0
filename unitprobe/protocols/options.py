"""What every protocol is told about how to run, and hands on to `unitprobe.ablate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypedDict

import torch

from unitprobe.ablation.sweep import Method
from unitprobe.errors import OptionError
from unitprobe.layers import Layer


class RunOptions(TypedDict, total=False):
    """How the network is run; each as in `unitprobe.ablate`."""

    batch_size: int
    device: str | torch.device | None
    method: Method
    memory: int
    workers: int
    progress: bool
    keep: str | os.PathLike[str] | None


def exactly(names: Iterable[str]) -> Callable[[Layer], bool]:
    """Select layers by their name alone: as a selection, "relu" would be every layer of that kind.

    Examples
    --------
    >>> selection = exactly(["relu"])
    """
    wanted = frozenset(names)
    return lambda layer: layer.name in wanted


def check_run(run: RunOptions) -> None:
    """Refuse a way to run that counts no answers.

    Examples
    --------
    >>> check_run({"method": "full"})
    """
    if run.get("method") == "attribution":
        raise OptionError(
            "method='attribution' estimates losses and counts no answers, which a protocol is made "
            "of; give method='auto'"
        )


def check_count(name: str, value: int, least: int) -> int:
    """Return a number of things to do, if it is large enough.

    Examples
    --------
    >>> check_count("n_orders", 3, 1)
    3
    """
    if value < least:
        raise OptionError(f"{name}={value} is too few; give {least} or more")
    return value
