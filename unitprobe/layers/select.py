"""Choose layers: by name, glob, kind, a word such as ``"activations"``, or a function."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from unitprobe.errors import LayerError, LayerNotFoundError, UnitprobeWarning, nearest
from unitprobe.layers.blocks import repeated_blocks
from unitprobe.layers.layer import Layer
from unitprobe.layers.operations import KINDS, NONLINEARITIES

#: What ``layers=`` takes everywhere.
Selection = str | Sequence[str] | Callable[[Layer], bool]

_KIND_WORDS = NONLINEARITIES | set(KINDS.values())


def select_layers(module: nn.Module, layers: Sequence[Layer], selection: Selection) -> list[Layer]:
    """Return the layers that a selection matches, in execution order, each once.

    Parameters
    ----------
    module : nn.Module
        The network; its structure shows the repeated blocks.
    layers : sequence of Layer
        All its layers, from `list_layers`.
    selection : str, sequence of str or callable
        ``"activations"`` (every nonlinearity), ``"early"`` and ``"late"`` (their first and second
        half; a middle one is early), ``"blocks"`` (the output of every repeated block), a kind
        (``"relu"``, ``"conv"``), a name or a glob over names (``"layer4.*"``, ``"lstm[0]"``; a
        bracket also matches itself), a list of these, or a function that takes a `Layer` and
        returns whether to include it.

    Raises
    ------
    LayerNotFoundError
        One of the names, globs or kinds matches no layer; the nearest names are listed.
    LayerError
        No selected layer has a known unit axis.
    """
    if callable(selection):
        wanted = {layer.name for layer in layers if selection(layer)}
        if not wanted:
            raise LayerNotFoundError(
                f"the function selects none of the {len(layers)} layers of {type(module).__name__}"
            )
    else:
        words = [selection] if isinstance(selection, str) else list(selection or ())
        if not words:
            raise LayerNotFoundError(
                f"layers={selection!r} selects no layer; give names, globs, "
                '"activations" or "blocks"'
            )
        wanted = {name for word in words for name in _matching(module, layers, word)}
    return _usable([layer for layer in layers if layer.name in wanted])


def _usable(layers: list[Layer]) -> list[Layer]:
    unusable = [layer for layer in layers if layer.unit_axis is None]
    if not unusable:
        return layers
    first = unusable[0]
    message = (
        f"layer {first.name!r} of shape {first.shape} has no known unit axis, or no axis that "
        "separates its stimuli"
    )
    if first.kind in ("lstm", "gru", "rnn"):
        message += " (with batch_first=False its first axis is that of time steps)"
    if len(unusable) == len(layers):
        raise LayerError(f"{message}; choose another layer")
    warnings.warn(
        f"{message}; {len(unusable)} of {len(layers)} layers are left out",
        UnitprobeWarning,
        stacklevel=3,
    )
    return [layer for layer in layers if layer.unit_axis is not None]


def _matching(module: nn.Module, layers: Sequence[Layer], word: str) -> list[str]:
    if word in ("activations", "early", "late"):
        names = [layer.name for layer in layers if layer.kind in NONLINEARITIES]
        half = (len(names) + 1) // 2
        names = {"activations": names, "early": names[:half], "late": names[half:]}[word]
    elif word == "blocks":
        blocks = set(repeated_blocks(module))
        calls = {(la.owner, la.call): la.name for la in reversed(layers) if la.operation is None}
        # If a block returns several tensors, the first one.
        names = [name for (owner, _), name in calls.items() if owner in blocks]
    else:
        # A kind comes first: a functional ReLU of the root module is itself named "relu".
        names = [layer.name for layer in layers if layer.kind == word]
        names = names or [layer.name for layer in layers if _matches(layer.name, word)]
    if not names:
        raise LayerNotFoundError(_no_match(module, layers, word))
    return names


def _matches(name: str, glob: str) -> bool:
    # Brackets match themselves, as in ``lstm[0]``, or one of several characters.
    literal = glob.replace("[", "[[]")
    return name == glob or fnmatchcase(name, glob) or fnmatchcase(name, literal)


def _no_match(module: nn.Module, layers: Sequence[Layer], word: str) -> str:
    what = type(module).__name__
    if word == "blocks":
        return f"{what} has no repeated block; give names of layers, or 'activations'"
    if word in ("activations", "early", "late") or word in _KIND_WORDS:
        kinds = Counter(layer.kind for layer in layers)
        found = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(8))
        return f"{what} has no layer of kind {word!r}; its kinds are {found or 'none'}"
    names = ", ".join(nearest(word, [layer.name for layer in layers]))
    return f"no layer of {what} is named {word!r}; the nearest of {len(layers)} are {names}"
