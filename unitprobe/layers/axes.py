"""Follow the stimulus axis and the unit axis through a computation.

The unit axis is known where units are made: axis 1 of a convolution, the last axis of a linear
layer. From there it is followed, never guessed from the rank of a tensor: networks mix
(stimulus, unit, y, x), (stimulus, y, x, unit) and (stimulus, token, unit). Operations that only
move values about are followed exactly: the same operation is run once more on a tensor that holds,
at every place, the index along the axis, and the axis is where the indices end up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Axes(NamedTuple):
    """Where stimuli and units lie in one tensor, counted from the front; None if not known."""

    stimulus: int | None
    unit: int | None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS_FIRST = _words(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "batch_norm instance_norm group_norm"
)
_UNITS_LAST = _words("linear bilinear layer_norm rms_norm")
_PRODUCTS = _words("matmul bmm mm")
_MOVES = _words(
    "T chunk expand expand_as flatten flip getitem index_select mT moveaxis movedim narrow permute "
    "pixel_shuffle pixel_unshuffle repeat reshape roll select split squeeze swapaxes swapdims t "
    "tensor_split transpose unbind unflatten unsqueeze view view_as "
    "amax amin max mean min std sum var"
)
_CREATIONS = _words(
    "new_empty new_full new_ones new_tensor new_zeros empty_like full_like ones_like rand_like "
    "randint_like randn_like zeros_like"
)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a tensor, tuple, list or dictionary, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


class AxisFollower:
    """Knows the axes of every tensor that was computed from the stimuli."""

    def __init__(self) -> None:
        self._axes: WeakTensorKeyDictionary[Axes] = WeakTensorKeyDictionary()  # type: ignore[type-arg]

    def start(self, stimuli: Tensor) -> None:
        """Take a tensor (stimulus, unit, ...) as the input of the network."""
        self._axes[stimuli] = Axes(0, 1 if stimuli.ndim > 1 else None)

    def axes(self, tensor: Tensor) -> Axes | None:
        """Return the axes of a tensor, None if it does not depend on the stimuli."""
        found: Axes | None = self._axes.get(tensor)  # type: ignore[no-untyped-call]
        return found

    def follow(
        self,
        operation: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        """Work out the axes of what one operation returned."""
        sources = [t for t in tensors_in((args, kwargs)) if t in self._axes]
        if not sources or operation in _CREATIONS:
            return
        results = list(tensors_in(output))
        if operation in _MOVES:
            found = self._moved(function, args, kwargs, sources[0], len(results))
        elif operation == "stack":
            found = [self._stacked(args, kwargs, sources[0])]
        else:
            found = [self._computed(operation, args, kwargs, sources, t) for t in results]
        for tensor, axes in zip(results, found, strict=True):
            self._axes[tensor] = axes

    def _computed(
        self,
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sources: list[Tensor],
        result: Tensor,
    ) -> Axes:
        source = max(sources, key=lambda t: (t.ndim, t.numel()))
        axes: Axes = self._axes[source]
        last = result.ndim - 1
        if operation in _UNITS_FIRST:
            return Axes(axes.stimulus, 1)
        if operation in _UNITS_LAST:
            return Axes(axes.stimulus, last)
        if operation in _PRODUCTS:
            return Axes(axes.stimulus, last if self._right_factor_has_units(args, kwargs) else None)
        if operation == "scaled_dot_product_attention":
            value = args[2] if len(args) > 2 else kwargs["value"]
            return self.axes(value) or Axes(axes.stimulus, None)
        if result.ndim != source.ndim:
            return Axes(None, None)
        unit = axes.unit
        resized = unit is not None and result.shape[unit] != source.shape[unit]
        if resized and operation not in ("cat", "concat", "pad"):
            unit = None
        return Axes(axes.stimulus, unit)

    def _right_factor_has_units(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        right = list(tensors_in((args, kwargs)))[1]
        axes = self.axes(right)
        # A weight makes units of its columns; a product of two activations has units only where
        # the right one (the values of an attention) has them in its columns.
        return axes is None or axes.unit == right.ndim - 1

    def _stacked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], source: Tensor) -> Axes:
        place = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        place %= source.ndim + 1
        stimulus, unit = (
            None if axis is None else axis + (axis >= place) for axis in self._axes[source]
        )
        return Axes(stimulus, unit)

    def _moved(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        source: Tensor,
        count: int,
    ) -> list[Axes]:
        axes: Axes = self._axes[source]

        def moved(axis: int | None) -> list[Tensor | None]:
            if axis is None:
                return [None] * count
            places = _indices_along(source, axis)
            swapped = [places if a is source else a for a in args]
            named = {k: places if a is source else a for k, a in kwargs.items()}
            return list(tensors_in(function(*swapped, **named)))

        stimulus = [_only_varying_axis(t) for t in moved(axes.stimulus)]
        unit = [_last_varying_axis(t) for t in moved(axes.unit)]
        return [Axes(*pair) for pair in zip(stimulus, unit, strict=True)]


def _indices_along(tensor: Tensor, axis: int) -> Tensor:
    shape = [1] * tensor.ndim
    shape[axis] = -1
    indices = torch.arange(tensor.shape[axis], dtype=torch.float64, device=tensor.device)
    return indices.view(shape).expand(tensor.shape).clone()


def _varying_axes(indices: Tensor) -> list[int]:
    return [
        axis
        for axis, size in enumerate(indices.shape)
        if size > 1
        and bool((indices.narrow(axis, 1, size - 1) != indices.narrow(axis, 0, 1)).any())
    ]


def _only_varying_axis(indices: Tensor | None) -> int | None:
    if indices is None or indices.dtype != torch.float64:
        return None
    axes = _varying_axes(indices)
    return axes[0] if len(axes) == 1 else None


def _last_varying_axis(indices: Tensor | None) -> int | None:
    if indices is None or indices.dtype != torch.float64:
        return None
    # Units split over two axes (heads and their dimensions) lie along the last of them.
    return max(_varying_axes(indices), default=None)
