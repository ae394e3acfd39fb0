"""Which output of a network belongs to which class."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import nn

from unitprobe.errors import LabelError, UnitprobeWarning
from unitprobe.models.network import Network
from unitprobe.typing import IntArray


def output_indices(
    network: Network,
    class_names: Sequence[str],
    output_count: int,
    known_names: Sequence[str] | None = None,
) -> IntArray:
    """Return which output of the network belongs to each class of the stimuli.

    Classes are matched by name, with the network's own class names. Outputs of a timm or
    torchvision module that has as many of them as ImageNet has classes also match ImageNet's names
    and WordNet ids. If nothing is known about the outputs and there are as many as classes, they
    are assumed to be in the same order. Names that are integers with gaps are indices of
    outputs. A warning says so where another order or numbering is as likely.
    Everything else is an error.

    Parameters
    ----------
    network : Network
        The network.
    class_names : sequence of str, (class_name,)
        Class names of the stimuli.
    output_count : int
        Number of the network's outputs.
    known_names : sequence of str, optional
        Names of all classes, also of those without stimuli, in order. If nothing is known about the
        outputs and there are as many, classes have the same positions.

    Returns
    -------
    ndarray of int64, (class_name,)
        The output of each class.

    Raises
    ------
    LabelError
        The classes cannot be matched.

    Examples
    --------
    >>> import torch
    >>> network = Network(torch.nn.Linear(4, 3), class_names=["ant", "bee", "cat"])
    >>> output_indices(network, ["cat", "ant"], 3)
    array([2, 0])
    """
    if len(set(class_names)) != len(class_names):
        twice = Counter(class_names).most_common(1)[0][0]
        raise LabelError(f"the stimuli have more than one class named {twice!r}; names must differ")
    own = network.class_names
    if own is not None and len(own) != output_count:
        raise LabelError(
            f"network {network.name!r} has {output_count} outputs but {len(own)} class names; "
            f"give one name for each output"
        )
    vocabularies = [] if own is None else [own]
    if own is None or own == imagenet_names(network.module, output_count):
        vocabularies += _imagenet_vocabularies(network.module, output_count)
    for names in vocabularies:
        times = Counter(names)
        if all(times[name] == 1 for name in class_names):
            output_of = {name: index for index, name in enumerate(names)}
            return np.array([output_of[name] for name in class_names], dtype=np.int64)
    if not vocabularies and output_count == len(class_names):
        _warn_of_order(network, class_names)
        return np.arange(output_count, dtype=np.int64)
    if not vocabularies and known_names is not None and output_count == len(known_names):
        _warn_of_order(network, known_names)
        position = {name: index for index, name in enumerate(known_names)}
        return np.array([position[name] for name in class_names], dtype=np.int64)
    if all(name.isdecimal() and str(int(name)) == name for name in class_names):
        indices = np.array([int(name) for name in class_names], dtype=np.int64)
        # Names 0, 1, 2, ... may be those of another set of classes altogether.
        subset = len(indices) <= indices.max() < output_count
        if subset:
            first = f"output {indices[0]}" + (f", {own[indices[0]]!r}" if own else "")
            warnings.warn(
                f"the stimuli's class names are numbers, which are taken as indices of the outputs "
                f"of network {network.name!r}, counted from 0: class {class_names[0]!r} is {first}",
                UnitprobeWarning,
                stacklevel=2,
            )
            return indices
    if vocabularies:
        times = Counter(vocabularies[0])
        lost = [name for name in class_names if times[name] != 1]
        first = ", ".join(repr(name) for name in lost[:3]) + (", ..." if len(lost) > 3 else "")
        what = f"{len(lost)} of the stimuli's {len(class_names)} class names do not match exactly "
        what = f"{what}one of its outputs' names (first: {first})"
    else:
        first = ", ".join(repr(name) for name in class_names[:3])
        what = f"the stimuli have {len(class_names)} classes ({first}, ...)"
    raise LabelError(
        f"network {network.name!r} has {output_count} outputs and {what}; give class_names=FILE "
        f"with the stimuli's name of each output, or a network of num_classes={len(class_names)}"
    )


def _warn_of_order(network: Network, class_names: Sequence[str]) -> None:
    """Warn where names hold numbers, so that text and numbers sort them differently."""
    text = sorted(class_names)
    numeric = sorted(class_names, key=_natural_key)
    if text == numeric or list(class_names) not in (text, numeric):
        return
    used, other = ("text", numeric) if list(class_names) == text else ("numeric", text)
    warnings.warn(
        f"the outputs of network {network.name!r} have no names, so classes are taken in {used} "
        f"order ({', '.join(class_names[:3])}, ...); if the network was trained on another order "
        f"({', '.join(other[:3])}, ...), give it class_names",
        UnitprobeWarning,
        stacklevel=3,
    )


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts the numbers in names by value."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _imagenet_vocabularies(module: nn.Module, output_count: int) -> list[list[str]]:
    """Return the readable names and WordNet ids of outputs that are surely those of ImageNet."""
    if type(module).__module__.partition(".")[0] not in ("timm", "torchvision"):
        return []
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": output_count})
    if subset is None:
        return []
    synsets = list(ImageNetInfo(subset).label_names())
    if subset != "imagenet-1k":
        return [synsets]
    from torchvision.models import ResNet18_Weights

    return [list(ResNet18_Weights.DEFAULT.meta["categories"]), synsets]


def imagenet_names(module: nn.Module, output_count: int) -> list[str] | None:
    """Return the readable names of ImageNet outputs, None for other outputs."""
    vocabularies = _imagenet_vocabularies(module, output_count)
    return vocabularies[0] if vocabularies else None
