"""Find nonlinearities that are made of several operations, such as ``x * sigmoid(1.702 * x)``.

Operations that treat every value separately are followed from the tensor that they begin with, the
*source*. If two results with the same source meet, and a nonlinear function made one of them, what
they give is a nonlinearity of the source. A power of a nonlinearity (``relu(x) ** 2``) is one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from unitprobe.layers import operations
from unitprobe.layers.outputs import tensors_in


class Value:
    """A tensor of one forward pass, and how it was computed from its source value by value."""

    def __init__(self, owner: str | None, shape: torch.Size) -> None:
        self.owner = owner  # path of the module that computed it
        self.shape = shape
        self.source = self
        self.parents: list[Value] = []
        self.children: list[Value] = []
        self.within: frozenset[str | None] = frozenset()  # owners from the source to here
        self.nonlinear = False
        self.plain = False  # the output of one nonlinear function
        self.composed = False
        self.used_elsewhere = False
        self.operation: tuple[Callable[..., Any], Any, Any] | None = None
        self.layer: int | None = None  # of the operation
        self.module_layer: int | None = None  # of a module that does nothing but compute this

    @property
    def whole(self) -> bool:
        """Whether this is the end of a composed nonlinearity."""
        return self.composed or self.module_layer is not None

    def made_by(self, path: str) -> bool:
        """Tell whether a module gets the source and does nothing but compute this value."""

        def inside(owner: str | None) -> bool:
            return owner is not None and (owner == path or owner.startswith(f"{path}."))

        return (
            bool(self.parents) and all(map(inside, self.within)) and not inside(self.source.owner)
        )


class ComposedNonlinearities:
    """Follows the values of one forward pass."""

    def __init__(self) -> None:
        self._values: WeakTensorKeyDictionary[Value] = WeakTensorKeyDictionary()  # type: ignore[type-arg]
        self._followed: list[Value] = []

    def start(self, stimuli: Tensor) -> None:
        """Set the input of the network."""
        self._values[stimuli] = Value(None, stimuli.shape)

    def of(self, tensor: Tensor) -> Value | None:
        """Return how a tensor was computed, None if it does not depend on the stimuli."""
        found: Value | None = self._values.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def follow(
        self,
        operation: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
        owner: str,
    ) -> None:
        """Follow one operation in the module at path `owner`."""
        parents = [self._values[t] for t in tensors_in((args, kwargs)) if t in self._values]
        results = list(tensors_in(output))
        if not parents or operation in operations.CREATIONS:
            return
        if operation in operations.COPIES | operations.DROPOUTS and len(results) == 1:
            self._values[results[0]] = parents[0]
            return
        if operation in ("max", "min") and len(results) == 1 and len(args) > 1:
            operation = f"{operation}imum" if isinstance(args[1], Tensor) else operation
        source = parents[0].source
        separate = operation in _SEPARATE and len(results) == 1
        same = all(parent.source is source for parent in parents)
        if not separate or not same or results[0].shape != source.shape:
            for parent in parents:
                parent.used_elsewhere = True
            for tensor in results:
                self._values[tensor] = Value(owner, tensor.shape)
            return
        value = Value(owner, source.shape)
        value.source = source
        value.parents = list(dict.fromkeys(parents))
        value.within = frozenset([owner]).union(*(parent.within for parent in parents))
        before = any(parent.nonlinear for parent in parents)
        value.nonlinear = before or operation in _NONLINEAR
        value.plain = operation in operations.NONLINEARITIES
        joined = len(parents) > 1 and (before or operation in _CHOICES)
        power = before and operation in ("pow", "square")
        scaled = operation in _AFFINE and _has_only_scalars(args, parents[0], self._values)
        after = scaled and parents[0].composed and parents[0].owner == owner
        value.composed = joined or power or (len(parents) == 1 and after)
        value.operation = (function, self._with_values(args), self._with_values(dict(kwargs)))
        for parent in value.parents:
            parent.children.append(value)
        self._followed.append(value)
        self._values[results[0]] = value

    def _with_values(self, given: Any) -> Any:
        """Return arguments with values instead of the tensors that depend on the stimuli."""
        if isinstance(given, Tensor):
            return self.of(given) or given
        if isinstance(given, dict):
            return {key: self._with_values(item) for key, item in given.items()}
        if type(given) in (list, tuple):
            return type(given)(map(self._with_values, given))
        return given

    def wholes(self) -> list[tuple[Value, list[Value]]]:
        """Return each composed nonlinearity that is not part of another, with its parts."""
        free: dict[Value, bool] = {}  # whether a value is used for more than a larger nonlinearity
        for value in reversed(self._followed):
            uses = [free[child] for child in value.children if not child.whole]
            free[value] = value.used_elsewhere or not value.children or any(uses)
        found = []
        for value in self._followed:
            if value.whole and free[value]:
                found.append((value, [v for v in _ancestors(value) if not free[v]]))
        return found


def _ancestors(value: Value) -> list[Value]:
    found: dict[Value, None] = {}
    waiting = list(value.parents)
    while waiting:
        each = waiting.pop()
        if each.parents and each not in found:
            found[each] = None
            waiting += each.parents
    return list(found)


def _has_only_scalars(args: tuple[Any, ...], parent: Value, values: Any) -> bool:
    others = [t for t in tensors_in(args) if values.get(t) is not parent]
    return all(tensor.numel() == 1 for tensor in others)


def kind_of_composed(value: Value) -> str:
    """Return the name of the known function that a composed nonlinearity is, or "nonlinearity".

    The operations run again, on numbers from -4 to 4.
    """
    grid = torch.linspace(-4, 4, 161)
    results = {value.source: grid}

    def result(each: Value) -> Tensor:
        if each not in results:
            assert each.operation is not None
            function, args, kwargs = each.operation
            results[each] = function(*_filled(args, result), **_filled(kwargs, result))
        return results[each].clone()

    try:
        with torch.no_grad():
            computed = result(value).cpu().float()
    except Exception:  # such as parameters for each unit, which do not fit the grid
        return operations.UNNAMED
    for name, function in _KNOWN:
        if computed.shape == grid.shape and torch.allclose(
            computed, function(grid), rtol=1e-3, atol=1e-3
        ):
            return name
    return operations.UNNAMED


def _filled(given: Any, result: Callable[[Value], Tensor]) -> Any:
    if isinstance(given, Value):
        return result(given)
    if isinstance(given, dict):
        return {key: _filled(item, result) for key, item in given.items()}
    if type(given) in (list, tuple):
        return type(given)(_filled(item, result) for item in given)
    return given.detach().cpu() if isinstance(given, Tensor) else given


_CHOICES = operations.words("maximum minimum fmax fmin where masked_fill")
_NONLINEAR = (
    operations.NONLINEARITIES
    | _CHOICES
    | operations.words(
        "erf erfc exp expm1 log1p abs sign sin cos atan clamp clamp_min clamp_max clip heaviside "
        "gt lt ge le greater less"
    )
) - {"glu"}
_AFFINE = operations.words("add sub rsub mul div neg multiply divide subtract true_divide")
_SEPARATE = (operations.POINTWISE | _NONLINEAR | _AFFINE) | operations.words(
    "log reciprocal addcmul lerp sinh cosh"
)
_KNOWN: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("relu", functional.relu),
    ("relu2", lambda x: functional.relu(x).square()),
    ("silu", functional.silu),
    ("gelu", functional.gelu),
    ("gelu", lambda x: functional.gelu(x, approximate="tanh")),
    ("gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    ("mish", functional.mish),
    ("hardswish", functional.hardswish),
    ("hardsigmoid", functional.hardsigmoid),
    ("sigmoid", torch.sigmoid),
    ("softsign", functional.softsign),
)
