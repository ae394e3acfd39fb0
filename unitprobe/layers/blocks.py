"""Find the repeated blocks of a network in its modules."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from unitprobe.layers.structure import named_children, named_modules

_LISTS = nn.Sequential | nn.ModuleList | nn.ModuleDict


def repeated_blocks(module: nn.Module) -> list[str]:
    """Return the paths of a network's repeated blocks, in the order of its modules.

    A block is in a list: ``nn.Sequential``, ``nn.ModuleList``, ``nn.ModuleDict``, or numbered
    attributes such as ``inception3a``, ``inception3b``. At least two blocks of its class are in
    lists. It has at least two modules with weights of their own, so a convolution with its norm is
    not a block; if the network has no such block, one module is enough. A block of another class
    counts if it is in a row of numbered attributes with repeated ones (``Mixed_6a``). A stage,
    which contains a list of blocks of one class, is not a block, but its blocks are.

    Examples
    --------
    >>> block = lambda: nn.TransformerEncoderLayer(8, 2)
    >>> repeated_blocks(nn.Sequential(nn.Conv2d(3, 8, 4), nn.Sequential(block(), block())))
    ['1.0', '1.1']
    """
    return _repeated(module, 2) or _repeated(module, 1)


class _Row(NamedTuple):
    """Modules of one list that may be blocks."""

    modules: list[nn.Module]
    numbered: bool


def _repeated(module: nn.Module, weights: int) -> list[str]:
    rows = list(_rows_in(module, weights))
    counts = Counter(type(block) for row in rows for block in row.modules)
    kinds: set[type[nn.Module]] = set()
    for row in rows:
        found = {type(block) for block in row.modules}
        again = {kind for kind in found if counts[kind] > 1}
        kinds |= found if again and row.numbered else again
    paths: list[str] = []
    for path, child in named_modules(module):
        within = any(path.startswith(f"{block}.") for block in paths)
        if type(child) in kinds and not within:
            paths.append(path)
    return paths


def _rows_in(module: nn.Module, weights: int) -> Iterator[_Row]:
    rows: dict[str, list[nn.Module]] = defaultdict(list)
    names = _row_names(module, weights)
    for name, child in named_children(module):
        in_row = name in names and _may_be_block(child, weights)
        if in_row and not _is_stage(child, weights):
            rows[names[name]].append(child)
        else:
            yield from _rows_in(child, weights)
    yield from (_Row(modules, bool(name)) for name, modules in rows.items())


def _row_names(module: nn.Module, weights: int) -> dict[str, str]:
    """Return the name of the row that each child is in, if any."""
    children = dict(named_children(module))
    if _is_list(module, weights):
        return dict.fromkeys(children, "")
    numbered = {name: re.match(r"([A-Za-z_]+)\d", name) for name in children}
    rows = {name: match[1] for name, match in numbered.items() if match}
    # A stage with a single block looks like a block, but another stage of its class may not.
    stages = {type(child) for child in children.values() if _is_stage(child, weights)}
    blocks = {
        name: row
        for name, row in rows.items()
        if type(children[name]) not in stages and _may_be_block(children[name], weights)
    }
    kinds = Counter((row, type(children[name])) for name, row in blocks.items())
    repeated = {row for (row, _), count in kinds.items() if count > 1}
    return {name: row for name, row in blocks.items() if row in repeated}


def _is_list(module: nn.Module, weights: int) -> bool:
    if isinstance(module, _LISTS):
        return True
    children = _children(module)
    return len(children) > 1 and _are_blocks_of_one_class(children, weights)


def _may_be_block(module: nn.Module, weights: int) -> bool:
    norms = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm
    if isinstance(module, _LISTS | norms) or not _children(module):
        return False
    return sum(_has_weights(child) for _, child in named_modules(module)) >= weights


def _has_weights(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return parametrize.is_parametrized(module) or any(weight.ndim > 1 for weight in own)


def _are_blocks_of_one_class(modules: list[nn.Module], weights: int) -> bool:
    return (
        all(_may_be_block(module, weights) for module in modules)
        and len({type(module) for module in modules}) == 1
    )


def _is_stage(module: nn.Module, weights: int) -> bool:
    for child in _children(module):
        items = _children(child) if _is_list(child, weights) else []
        if items and _are_blocks_of_one_class(items, weights):
            return True
    return len(_children(module)) > 1 and _is_list(module, weights)


def _children(module: nn.Module) -> list[nn.Module]:
    return [child for _, child in named_children(module)]
