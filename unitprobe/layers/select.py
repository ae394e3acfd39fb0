"""Choose layers: by name, glob, kind, module, class, `Layer`, word or function."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias, cast

from torch import nn

from unitprobe.errors import LayerError, LayerNotFoundError, UnitprobeWarning, nearest
from unitprobe.layers.blocks import repeated_blocks
from unitprobe.layers.layer import Layer
from unitprobe.layers.operations import NONLINEARITIES
from unitprobe.layers.structure import inside, named_modules

#: One thing that selects layers.
Selector: TypeAlias = str | Layer | nn.Module | type[nn.Module] | Callable[[Layer], bool]
#: What ``layers=`` takes everywhere.
Selection: TypeAlias = Selector | Iterable[Selector]

#: Begins a selection by kind.
_KIND = "kind:"
_WORDS = ("activations", "early", "late", "blocks")
_TAKES = (
    'give a name, a glob, "kind:relu", "activations", "blocks", a module, a module class, a Layer, '
    "a function of a Layer, or a list of these"
)


def select_layers(module: nn.Module, layers: Sequence[Layer], selection: Selection) -> list[Layer]:
    """Return the layers that a selection matches, in execution order, each once.

    Parameters
    ----------
    module : nn.Module
        The network; its structure shows the repeated blocks.
    layers : sequence of Layer
        All its layers, from `list_layers`.
    selection : str, Layer, nn.Module, module class, callable, or an iterable of these
        See Notes.

    Raises
    ------
    LayerNotFoundError
        A part of the selection matches no layer, and the nearest names are listed; or it is not of
        these types.
    LayerError
        No selected layer has a known unit axis, or the function that selects raises an error.

    Notes
    -----
    A string is the first of these that fits:

    - the exact name of a layer, ``"layer1.0.relu"`` or ``"lstm[0]"``;
    - ``"activations"`` (every nonlinearity), ``"early"`` and ``"late"`` (their first and second
      half; a middle one is early), or ``"blocks"`` (the output of every repeated block);
    - ``"kind:KIND"``, every layer with this `Layer.kind`: ``"kind:relu"``, ``"kind:conv"``. Before
      one of the four words it selects what the word means where a layer has that name:
      ``"kind:activations"``;
    - a glob over names, ``"layer4.*"``. A bracket also matches itself.

    ``"blocks"`` means the repeated blocks also where a layer of this name is the list that holds
    them, as in timm's vision transformers: its output is that of the last block.

    A module, ``network.layer1[0]``, selects its calls; an ``nn.ModuleList`` those of its modules. A
    class, ``nn.Conv2d``, selects the calls of all modules of this class or a subclass, but not
    functions such as ``F.conv2d``; a kind selects both. A `Layer` selects itself, by its name. A
    function takes a `Layer` and returns whether to include it.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> layers = up.list_layers(network, example=torch.ones(1, 2))
    >>> [layer.name for layer in select_layers(network, layers, "kind:linear")]
    ['0', '2']
    >>> [layer.name for layer in select_layers(network, layers, [network[2], torch.nn.ReLU])]
    ['1', '2']
    """
    selectors = _selectors(selection)
    if not selectors:
        raise LayerNotFoundError(f"layers={selection!r} selects no layer; {_TAKES}")
    module = inside(module)
    wanted = {name for each in selectors for name in _matching(module, layers, each)}
    return _usable([layer for layer in layers if layer.name in wanted])


def _selectors(selection: object) -> list[object]:
    """Return the parts of a selection that is an iterable of them, else itself as the only part."""
    one = str | Layer | nn.Module | type
    if isinstance(selection, nn.ModuleList):
        return list(selection)
    if isinstance(selection, one) or not isinstance(selection, Iterable):
        return [selection]
    return [
        part
        for each in selection
        for part in (_selectors(each) if isinstance(each, nn.ModuleList) else [each])
    ]


def _matching(module: nn.Module, layers: Sequence[Layer], selector: object) -> list[str]:
    """Return the names of the layers that one part of a selection matches, at least one."""
    if isinstance(selector, str):
        return _of_text(module, layers, selector)
    if isinstance(selector, Layer):
        return _of_text(module, layers, selector.name, exact=True)
    if isinstance(selector, nn.Module):
        return _of_module(module, layers, selector)
    if isinstance(selector, type) and issubclass(selector, nn.Module):
        return _of_class(module, layers, selector)
    if callable(selector) and not isinstance(selector, type):
        return _of_function(module, layers, cast(Callable[[Layer], bool], selector))
    raise LayerNotFoundError(f"layers={selector!r} is not a selection of layers; {_TAKES}")


def _of_text(
    module: nn.Module, layers: Sequence[Layer], text: str, *, exact: bool = False
) -> list[str]:
    named = [layer.name for layer in layers if layer.name == text]
    if named and not (text == "blocks" and _is_list_of_blocks(module, text)):
        return named
    kind = text.removeprefix(_KIND)
    if exact:
        names = []
    elif kind in _WORDS:
        names = _of_word(module, layers, kind)
    elif text.startswith(_KIND):
        names = [layer.name for layer in layers if layer.kind == kind]
    else:
        names = [layer.name for layer in layers if _matches(layer.name, text)]
    if not names:
        raise LayerNotFoundError(_no_match(module, layers, text))
    return names


def _of_word(module: nn.Module, layers: Sequence[Layer], word: str) -> list[str]:
    if word == "blocks":
        blocks = set(repeated_blocks(module))
        calls = {(la.owner, la.call): la.name for la in reversed(layers) if la.operation is None}
        # If a block returns several tensors, the first one.
        return [name for (owner, _), name in calls.items() if owner in blocks]
    names = [layer.name for layer in layers if layer.kind in NONLINEARITIES and not layer.part_of]
    half = (len(names) + 1) // 2
    return {"activations": names, "early": names[:half], "late": names[half:]}[word]


def _is_list_of_blocks(module: nn.Module, path: str) -> bool:
    blocks = repeated_blocks(module)
    return bool(blocks) and all(block.startswith(f"{path}.") for block in blocks)


def _of_module(module: nn.Module, layers: Sequence[Layer], selected: nn.Module) -> list[str]:
    what, own = type(selected).__name__, type(module).__name__
    path = next((path for path, each in named_modules(module) if each is inside(selected)), None)
    if path is None:
        raise LayerNotFoundError(
            f"layers: this {what} is not a module of {own}; take one of the network that runs"
        )
    names = [layer.name for layer in layers if layer.operation is None and layer.owner == path]
    if not names:
        why = "is the network itself" if not path else f"({path!r}) is never called, or gives none"
        near = ", ".join(nearest(path, [layer.name for layer in layers]))
        raise LayerNotFoundError(f"layers: this {what} {why}; the nearest layers are {near}")
    return names


def _of_class(module: nn.Module, layers: Sequence[Layer], cls: type[nn.Module]) -> list[str]:
    paths = {path for path, each in named_modules(module) if isinstance(each, cls)}
    names = [layer.name for layer in layers if layer.operation is None and layer.owner in paths]
    if not names:
        modules = dict(named_modules(module))
        called = dict.fromkeys(
            type(modules[layer.owner]).__name__
            for layer in layers
            if layer.operation is None and layer.owner in modules
        )
        near = ", ".join(nearest(cls.__name__, called)) or "none"
        raise LayerNotFoundError(
            f"no layer of {type(module).__name__} is a call of a {cls.__name__} module; the "
            f'nearest classes are {near}; "kind:relu" also selects functions such as F.relu'
        )
    return names


def _of_function(
    module: nn.Module, layers: Sequence[Layer], function: Callable[[Layer], bool]
) -> list[str]:
    names = []
    for layer in layers:
        try:
            if function(layer):
                names.append(layer.name)
        except Exception as error:
            reason = str(error).split("\n")[0]
            raise LayerError(
                f"the function given as layers= fails for layer {layer.name!r} with "
                f"{type(error).__name__}: {reason}; it takes a Layer and returns True or False"
            ) from error
    if not names:
        raise LayerNotFoundError(
            f"the function selects none of the {len(layers)} layers of {type(module).__name__}"
        )
    return names


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


def _matches(name: str, glob: str) -> bool:
    # Brackets match themselves, as in ``lstm[0]``, or one of several characters.
    return fnmatchcase(name, glob) or fnmatchcase(name, glob.replace("[", "[[]"))


def _no_match(module: nn.Module, layers: Sequence[Layer], text: str) -> str:
    what = type(module).__name__
    kinds = Counter(layer.kind for layer in layers)
    kind = text.removeprefix(_KIND)
    if kind == "blocks":
        return f"{what} has no repeated block; give names of layers, or 'activations'"
    if text.startswith(_KIND) or kind in _WORDS:
        found = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(8))
        return f"{what} has no layer of kind {kind!r}; its kinds are {found or 'none'}"
    names = ", ".join(nearest(text, [layer.name for layer in layers]))
    message = f"no layer of {what} is named {text!r}; the nearest of {len(layers)} are {names}"
    if kinds[text]:
        message += f"; for all {kinds[text]} of this kind give '{_KIND}{text}'"
    return message
