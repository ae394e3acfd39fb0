"""Choose layers: by name, glob, kind, a word such as ``"activations"``, or a function."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from unitprobe.errors import LayerError, LayerNotFoundError, UnitprobeWarning, nearest
from unitprobe.layers.layer import NONLINEARITIES, Layer

#: What ``layers=`` takes everywhere.
Selection = str | Sequence[str] | Callable[[Layer], bool]

_KIND_WORDS = NONLINEARITIES | {"conv", "linear", "norm", "pool"}


def select_layers(module: nn.Module, layers: Sequence[Layer], selection: Selection) -> list[Layer]:
    """Return the layers that a selection names, in execution order, each once.

    Parameters
    ----------
    module : nn.Module
        The network, whose structure tells the repeated blocks.
    layers : sequence of Layer
        All its layers, from `list_layers`.
    selection : str, sequence of str or callable
        ``"activations"`` (every nonlinearity), ``"early"`` and ``"late"`` (their first and second
        half, the one in the middle early), ``"blocks"`` (the output of every repeated block), a
        kind (``"relu"``, ``"conv"``), a name or a glob over names (``"layer4.*"``), several of
        them, or a function that takes a `Layer` and says whether it is wanted.

    Raises
    ------
    LayerNotFoundError
        One of the names, globs or kinds matches no layer; the nearest names are listed.
    LayerError
        A layer asked for has no axis that could be told to be its units'.
    """
    if callable(selection):
        wanted = {layer.name for layer in layers if selection(layer)}
        if not wanted:
            raise LayerNotFoundError(
                f"the selecting function takes none of the {len(layers)} layers of "
                f"{type(module).__name__}"
            )
    else:
        words = [selection] if isinstance(selection, str) else list(selection)
        if not words:
            raise LayerNotFoundError(
                'no layer is asked for: layers=[]; give names, globs, "activations" or "blocks"'
            )
        wanted = {name for word in words for name in _matching(module, layers, word)}
    return _usable([layer for layer in layers if layer.name in wanted])


def _usable(layers: list[Layer]) -> list[Layer]:
    unusable = [layer for layer in layers if layer.unit_axis is None]
    if not unusable:
        return layers
    first = unusable[0]
    message = (
        f"layer {first.name!r} of shape {first.shape} has no axis that is known to hold its units, "
        "or its first axis is not the stimuli"
    )
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
        names = [la.name for la in layers if la.operation is None and la.owner in blocks]
    else:
        # A kind comes first: a functional ReLU of the root module is itself named "relu".
        names = [layer.name for layer in layers if layer.kind == word]
        names = names or [la.name for la in layers if la.name == word or fnmatchcase(la.name, word)]
    if not names:
        raise LayerNotFoundError(_no_match(module, layers, word))
    return names


def _no_match(module: nn.Module, layers: Sequence[Layer], word: str) -> str:
    what = type(module).__name__
    if word == "blocks":
        return f"{what} has no repeated block; name its layers, or take 'activations'"
    if word in ("activations", "early", "late") or word in _KIND_WORDS:
        kinds = Counter(layer.kind for layer in layers)
        found = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(8))
        return f"{what} has no layer of kind {word!r}; its kinds are {found or 'none'}"
    names = ", ".join(nearest(word, [layer.name for layer in layers]))
    return f"no layer of {what} is named {word!r}; the nearest of {len(layers)} are {names}"


def repeated_blocks(module: nn.Module) -> list[str]:
    """Return the paths of a network's repeated blocks, in the order of its modules.

    A block is a module with children of its own that stands in a list (``nn.Sequential``,
    ``nn.ModuleList``, ``nn.ModuleDict``) and whose class does so at least twice. A stage, which
    holds a list of blocks of one class, is not a block; its blocks are.
    """
    counts = Counter(map(type, _blocks_in(module)))
    repeated = {kind for kind, count in counts.items() if count > 1}
    paths: list[str] = []
    for path, child in module.named_modules():
        inside = any(path.startswith(f"{block}.") for block in paths)
        if type(child) in repeated and not inside:
            paths.append(path)
    return paths


def _blocks_in(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _is_list(module) and _is_composite(child) and not _is_stage(child):
            yield child
        else:
            yield from _blocks_in(child)


def _is_list(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return True
    children = list(module.children())
    return len(children) > 1 and _all_blocks_of_one_class(children)


def _is_composite(module: nn.Module) -> bool:
    lists = nn.Sequential | nn.ModuleList | nn.ModuleDict
    norms = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm
    return not isinstance(module, lists | norms) and any(True for _ in module.children())


def _all_blocks_of_one_class(modules: list[nn.Module]) -> bool:
    return all(map(_is_composite, modules)) and len({type(module) for module in modules}) == 1


def _is_stage(module: nn.Module) -> bool:
    for child in module.children():
        items = list(child.children()) if _is_list(child) else []
        if items and _all_blocks_of_one_class(items):
            return True
    return len(list(module.children())) > 1 and _is_list(module)
