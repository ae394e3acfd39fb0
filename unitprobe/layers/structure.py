"""A network's modules and their names, without wrappers and parametrizations.

``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` put a network inside another
module, and ``torch.nn.utils.parametrize`` puts modules that compute a weight inside the one that
uses it. They are not steps in the computation of the network, so names do not contain them.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils import parametrize


def inside(module: nn.Module) -> nn.Module:
    """Return the network inside the wrappers that run it.

    Examples
    --------
    >>> network = nn.Linear(4, 2)
    >>> inside(nn.DataParallel(network)) is network
    True
    """
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        wrapped: nn.Module | None = module.module
    else:
        wrapped = getattr(module, "_orig_mod", None)  # of torch.compile, without importing it
    return module if wrapped is None else inside(wrapped)


def named_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children of a module, without wrappers and without parametrizations."""
    module = inside(module)
    parametrized = parametrize.is_parametrized(module)
    for name, child in module.named_children():
        if not (parametrized and name == "parametrizations"):
            yield name, inside(child)


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once, the network itself first, as ``nn.Module.named_modules`` does.

    Examples
    --------
    >>> network = nn.Sequential(nn.DataParallel(nn.Sequential(nn.ReLU())))
    >>> [path for path, _ in named_modules(network)]
    ['', '0', '0.0']
    """
    yield from _below("", inside(module), set())


def _below(path: str, module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    if module in seen:
        return
    seen.add(module)
    yield path, module
    for name, child in named_children(module):
        yield from _below(f"{path}.{name}" if path else name, child, seen)


def class_name(module: nn.Module) -> str:
    """Return the name of a module's class, without parametrizations.

    Examples
    --------
    >>> class_name(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    'Linear'
    """
    kind = type(module)
    return kind.__bases__[0].__name__ if parametrize.is_parametrized(module) else kind.__name__
