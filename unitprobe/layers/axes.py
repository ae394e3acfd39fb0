"""Follow the stimulus axis and the unit axis through a computation.

The unit axis is known where units are made: axis 1 of a convolution, the last axis of a linear
layer. From there it is followed, never guessed from the rank of a tensor: networks mix
(stimulus, unit, y, x), (stimulus, y, x, unit) and (stimulus, token, unit). Operations that only
move values are followed exactly: the same operation runs a second time on a tensor that holds at
every position its index along the axis. The axis is where these indices end up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from unitprobe.layers import operations
from unitprobe.layers.outputs import tensors_in


class Axis(NamedTuple):
    """One axis of a tensor, and the stimulus (or unit) at each of its positions.

    The indices are usually 0, 1, 2, ... If a network merges axes, such as windows into the stimuli,
    an index occurs at several positions, and is found again when the axes are separated.
    """

    number: int
    indices: Tensor

    @classmethod
    def new(cls, number: int, tensor: Tensor) -> Axis:
        """Return an axis of a tensor with units or stimuli that begin here."""
        return cls(number, torch.arange(tensor.shape[number], dtype=torch.float64))


class Axes(NamedTuple):
    """The axes of the stimuli and units in one tensor; None if unknown."""

    stimulus: Axis | None
    unit: Axis | None


class AxisFollower:
    """Finds the axes of every tensor that is computed from the stimuli."""

    def __init__(self) -> None:
        self._axes: WeakTensorKeyDictionary[Axes] = WeakTensorKeyDictionary()  # type: ignore[type-arg]

    def start(self, stimuli: Tensor) -> None:
        """Set the input of the network, (stimulus, unit, ...)."""
        self._axes[stimuli] = Axes(
            Axis.new(0, stimuli), Axis.new(1, stimuli) if stimuli.ndim > 1 else None
        )

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
        """Find the axes of what one operation returned."""
        sources = [t for t in tensors_in((args, kwargs)) if t in self._axes]
        if not sources or operation in operations.CREATIONS | operations.COMPOSITES:
            return
        if operation == "setitem":
            self._filled(args[0], args[2])
            return
        results = list(tensors_in(output))
        operands = [value for value in args if isinstance(value, Tensor)]
        picks = operation in operations.PICKS and sources[0] is args[0]
        if picks or (operation in operations.MOVES and len(operands) == 1):
            found = self._moved(function, args, kwargs, sources[0], len(results))
            if operation == "pixel_shuffle":  # the other axes hold units too, where a map is small
                found = [Axes(found[0].stimulus, Axis.new(results[0].ndim - 3, results[0]))]
        elif operation in operations.RECURRENT:
            found = self._recurrent(args, results)
        elif operation == "stack":
            found = [self._stacked(args, kwargs, sources[0])]
        else:
            found = [self._computed(operation, function, args, kwargs, sources, t) for t in results]
        for tensor, axes in zip(results, found, strict=True):
            self._axes[tensor] = axes

    def _computed(
        self,
        operation: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        sources: list[Tensor],
        result: Tensor,
    ) -> Axes:
        source = max(sources, key=lambda t: (t.ndim, t.numel()))
        stimulus, unit = self._axes[source]
        last = result.ndim - 1
        if operation in operations.CONVOLUTIONS | operations.NORMS_OF_MAPS:
            if stimulus is not None and stimulus.number == 1 and operation.startswith("conv"):
                stimulus = _through_groups(stimulus, args, kwargs, result)
            return Axes(stimulus, Axis.new(1, result))
        if operation in operations.LINEAR | operations.RECURRENT_CELLS:
            return Axes(stimulus, Axis.new(last, result))
        if operation in operations.NORMS_OF_LAST and unit is None:
            return Axes(stimulus, Axis.new(last, result))
        if operation in ("fold", "unfold") and {source.ndim, result.ndim} == {3, 4}:
            return _patched(self._axes[source], source, result)
        if operation in operations.CONTRACTIONS:
            axes = self._influenced(function, args, kwargs, source, result)
            if operation == "einsum" and axes.unit is None:
                return Axes(axes.stimulus, self._unit_of_einsum(args, result))
            return axes
        if operation in operations.PRODUCTS:
            return Axes(_if_kept(stimulus, result), self._unit_of_product(args, kwargs, result))
        if operation == "scaled_dot_product_attention":
            value = args[2] if len(args) > 2 else kwargs["value"]
            return self.axes(value) or Axes(stimulus, None)
        if result.ndim != source.ndim:
            return Axes(None, None)
        if operation in operations.CHANGES_OF_COUNT and unit is not None:
            return Axes(stimulus, Axis.new(unit.number, result))
        return Axes(_if_kept(stimulus, result), _if_kept(unit, result))

    def _filled(self, target: Tensor, value: Any) -> None:
        # An empty tensor is filled with values that were computed from the stimuli.
        if isinstance(value, Tensor) and value in self._axes and target not in self._axes:
            known = self._axes[value] if value.shape == target.shape else Axes(None, None)
            self._axes[target] = known

    def _recurrent(self, args: tuple[Any, ...], results: list[Tensor]) -> list[Axes]:
        """Return the axes of (sequence, last state, ...) that PyTorch's recurrent functions give.

        The states have an axis of layers and directions before that of the stimuli.
        """
        nothing = [Axes(None, None)] * len(results)
        axes = self.axes(args[0])
        time = 0 if args[-1] is False else 1
        if axes is None or axes.stimulus is None or args[0].ndim != 3 or len(args) < 7:
            return nothing  # or a packed sequence
        if axes.stimulus.number != 1 - time:
            return nothing  # the network takes stimuli as time steps, and mixes them
        states = [Axis(1, axes.stimulus.indices) for _ in results[1:]]
        stimuli = [axes.stimulus, *states]
        return [Axes(s, Axis.new(2, t)) for s, t in zip(stimuli, results, strict=True)]

    def _unit_of_product(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
    ) -> Axis | None:
        left, right = list(tensors_in((args, kwargs)))[:2]
        rows, columns = result.ndim - 2, result.ndim - 1
        if self.axes(right) is None:
            return Axis.new(columns, result)  # a weight: its columns make the units
        axes = (self.axes(left), self.axes(right))
        units = [None if found is None else found.unit for found in axes]
        summed = units[1] is not None and units[1].number == right.ndim - 2
        if self.axes(left) is None and left.ndim > 1 and summed:
            return Axis.new(rows, result)  # its rows do, as in a convolution by `unfold`
        # Of two activations, units remain where they are not summed over: rows of the left one
        # or columns of the right one (the values of an attention), but not both.
        in_rows = units[0] is not None and units[0].number == left.ndim - 2
        in_columns = units[1] is not None and units[1].number == right.ndim - 1
        if in_rows == in_columns:
            return None
        return Axis.new(rows if in_rows else columns, result)

    def _unit_of_einsum(self, args: tuple[Any, ...], result: Tensor) -> Axis | None:
        """Return the units that a weight makes, as `_unit_of_product` does."""
        if not isinstance(args[0], str):
            return None  # the form with numbers instead of letters
        inputs, _, output = args[0].replace(" ", "").partition("->")
        terms = list(zip(inputs.split(","), map(self.axes, tensors_in(args[1:])), strict=True))
        activations = [(term, axes.unit) for term, axes in terms if axes is not None]
        weights = "".join(term for term, axes in terms if axes is None)
        term, unit = activations[0]
        if "." in inputs or len(activations) > 1 or unit is None or term[unit.number] in output:
            return None
        made = [n for n, name in enumerate(output) if name in weights and name not in term]
        return Axis.new(made[-1], result) if made else None

    def _stacked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], source: Tensor) -> Axes:
        new = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        new %= source.ndim + 1
        stimulus, unit = (
            None if axis is None else Axis(axis.number + (axis.number >= new), axis.indices)
            for axis in self._axes[source]
        )
        return Axes(stimulus, unit)

    def _influenced(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        source: Tensor,
        result: Tensor,
    ) -> Axes:
        # A change of one stimulus, or one unit, shows which part of the result it reaches.
        def follow(axis: Axis | None) -> Axis | None:
            if axis is None:
                return None
            changed = source.clone()
            first = (axis.indices == axis.indices[0]).to(source.device).nonzero().flatten()
            changed.index_fill_(axis.number, first, 1e3)
            differs = _rerun(function, args, kwargs, source, changed)[0] != result
            changes = [_changed_along(differs, number) for number in range(result.ndim)]
            partly = [n for n, changed in enumerate(changes) if not changed.all()]
            if len(partly) != 1 or len(changes[partly[0]]) != len(axis.indices):
                return None
            same = torch.equal(changes[partly[0]].cpu(), axis.indices == axis.indices[0])
            return Axis(partly[0], axis.indices) if same else None

        stimulus, unit = self._axes[source]
        return Axes(follow(stimulus), follow(unit))

    def _moved(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        source: Tensor,
        count: int,
    ) -> list[Axes]:
        def move(axis: Axis | None) -> list[Tensor | None]:
            if axis is None:
                return [None] * count
            if axis.number >= source.ndim or source.shape[axis.number] != len(axis.indices):
                return [None] * count  # an in-place operation: the shape has changed since
            return [*_rerun(function, args, kwargs, source, _spread(axis, source))]

        axes: Axes = self._axes[source]
        stimuli = [_only_varying_axis(tensor) for tensor in move(axes.stimulus)]
        units = [_last_varying_axis(tensor) for tensor in move(axes.unit)]
        return [Axes(*pair) for pair in zip(stimuli, units, strict=True)]


def _patched(axes: Axes, source: Tensor, result: Tensor) -> Axes:
    """Return the axes of patches (stimulus, unit x offset in the patch, patch), or of their map."""
    stimulus, unit = axes
    if unit is None or unit.number != 1 or stimulus is None or stimulus.number != 0:
        return Axes(None, None)
    if result.ndim == 4:
        return Axes(stimulus, Axis.new(1, result))
    offsets = result.shape[1] // source.shape[1]
    return Axes(stimulus, Axis(1, unit.indices.repeat_interleave(offsets)))


def _through_groups(
    axis: Axis, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
) -> Axis | None:
    """Return the stimulus axis of a convolution whose groups are stimuli, each with its weights."""
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    by_group = axis.indices.view(groups, -1)
    if not torch.equal(by_group, by_group[:, :1].expand_as(by_group)):
        return None
    return Axis(1, by_group[:, 0].repeat_interleave(result.shape[1] // groups))


def _rerun(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    source: Tensor,
    other: Tensor,
) -> list[Tensor]:
    """Run a function again, with another tensor instead of one of its arguments."""

    def swap(value: Any) -> Any:
        if value is source:
            return other
        return type(value)(map(swap, value)) if type(value) in (list, tuple) else value

    return list(tensors_in(function(*map(swap, args), **{k: swap(v) for k, v in kwargs.items()})))


def _changed_along(differs: Tensor, number: int) -> Tensor:
    return differs.movedim(number, 0).reshape(differs.shape[number], -1).any(1)


def _if_kept(axis: Axis | None, result: Tensor) -> Axis | None:
    if axis is None or axis.number >= result.ndim:
        return None
    return axis if result.shape[axis.number] == len(axis.indices) else None


def _spread(axis: Axis, like: Tensor) -> Tensor:
    """Return the index along an axis at every position of a tensor."""
    shape = [1] * like.ndim
    shape[axis.number] = -1
    return axis.indices.to(like.device, _index_dtype(like)).view(shape).expand(like.shape).clone()


def _index_dtype(like: Tensor) -> torch.dtype:
    """Return the type of indices for a tensor: Apple's GPUs have no float64."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _along(indices: Tensor, number: int) -> Axis:
    first = indices.movedim(number, 0).reshape(indices.shape[number], -1)[:, 0]
    # Renumbered, because a sum over another axis multiplies the indices.
    _, numbers = torch.unique(first, return_inverse=True)
    return Axis(number, numbers.cpu().double())


def _varying_axes(indices: Tensor | None) -> list[int]:
    if indices is None or indices.dtype != _index_dtype(indices):
        return []
    return [
        axis
        for axis, size in enumerate(indices.shape)
        if size > 1
        and not torch.equal(indices.narrow(axis, 1, size - 1), indices.narrow(axis, 0, size - 1))
    ]


def _only_varying_axis(indices: Tensor | None) -> Axis | None:
    axes = _varying_axes(indices)
    return _along(indices, axes[0]) if indices is not None and len(axes) == 1 else None


def _last_varying_axis(indices: Tensor | None) -> Axis | None:
    found = [_along(indices, axis) for axis in _varying_axes(indices) if indices is not None]
    if len(found) == 1:
        return found[0]
    # Units that are split over two axes (heads and their dimensions) are taken along the last one.
    # If they repeat along an axis, they are mixed with positions (``nn.PixelShuffle``).
    alone = [axis for axis in found if int(axis.indices.max()) + 1 == len(axis.indices)]
    return alone[-1] if alone else None
