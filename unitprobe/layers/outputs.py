"""Find a tensor in what a call returns, and replace it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

#: Indices into tuples or lists, keys and fields that lead to a tensor in an output; ``()`` if the
#: output is the tensor itself.
Path = tuple[str | int, ...]


def named_tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors in a tensor, tuple, list, dictionary or dataclass, in order.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1)
    >>> [path for path, _ in named_tensors({"hidden": (one, one), "cell": one})]
    [('hidden', 0), ('hidden', 1), ('cell',)]
    """
    if isinstance(value, Tensor):
        yield path, value
    else:
        for key, item in _items(value):
            yield from named_tensors(item, (*path, key))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a tensor, tuple, list, dictionary or dataclass, in order."""
    return (tensor for _, tensor in named_tensors(value))


def tensor_at(value: Any, path: Path) -> Tensor | None:
    """Return the tensor at a path of an output, None if there is none."""
    for key in path:
        value = dict(_items(value)).get(key)
    return value if isinstance(value, Tensor) else None


def with_tensor_at(value: Any, path: Path, tensor: Tensor) -> Any:
    """Return a copy of an output with another tensor at one path.

    Examples
    --------
    >>> import torch
    >>> with_tensor_at((torch.zeros(1), [torch.zeros(1)]), (1, 0), torch.ones(1))
    (tensor([0.]), [tensor([1.])])
    """
    if not path:
        return tensor
    item = with_tensor_at(dict(_items(value))[path[0]], path[1:], tensor)
    if isinstance(value, tuple):
        items = [item if index == path[0] else old for index, old in enumerate(value)]
        # A named tuple takes its fields one by one, a tuple and PyTorch's return types do not.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    other = copy.copy(value)
    if isinstance(value, list | Mapping):
        other[path[0]] = item
    else:
        object.__setattr__(other, str(path[0]), item)  # a dataclass may be frozen
    return other


def suffix(path: Path) -> str:
    """Return the end of the name of a layer that is one tensor of an output.

    Examples
    --------
    >>> suffix(("hidden", 0)), suffix(())
    ('[hidden][0]', '')
    """
    # As in the names of layers, no slash.
    return "".join(f"[{key}]" for key in path).replace("/", "_")


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
