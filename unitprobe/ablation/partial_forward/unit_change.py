"""Activations that differ from the intact ones in one unit, and how far they stay so.

Ablating a unit changes one channel. As long as the operations that follow treat units apart (a
nonlinearity, a pooling, a batch norm, a depthwise convolution), the change stays in that channel,
and only the channel is computed: of many ablations at once, one channel each, side by side along
the unit axis. The convolution or linear layer that mixes the units then gives the intact output
plus what the change of one channel contributes. A rule below takes one operation; where there is
none, the whole activation is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from unitprobe.ablation.partial_forward.network_graph import scale_and_shift
from unitprobe.layers.operations import POINTWISE, POOLS

aten = torch.ops.aten


@dataclass(frozen=True)
class UnitChange:
    """One unit of each of several variants of an activation; all else is intact.

    Attributes
    ----------
    values : Tensor
        The activation with the variants along its unit axis, (stimulus, variant, y, x) or
        (stimulus, token, variant), ...: of each variant the unit that is another.
    axis : int
        The unit axis, from the front.
    units : Tensor
        (variant,), which unit it is.
    intact : Tensor
        The intact activation, (stimulus, unit, y, x), ...
    """

    values: Tensor
    axis: int
    units: Tensor
    intact: Tensor

    @property
    def change(self) -> Tensor:
        """What is added to the intact units."""
        return self.values - take(self.intact, self.units, self.axis)

    def widen(self) -> Tensor:
        """Return the whole activations, (variant * stimulus, unit, ...)."""
        count = len(self.units)
        wide = tile(self.intact, count)
        by_unit = split(wide, count).movedim(self.axis + 1, 1)
        variants = torch.arange(count, device=self.units.device)
        by_unit[variants, self.units] = self.values.movedim(self.axis, 0)
        return wide

    def add_to(self, activations: Tensor) -> None:
        """Add the change to whole activations (variant * stimulus, unit, ...), in place."""
        count = len(self.units)
        by_unit = split(activations, count).movedim(self.axis + 1, 1)
        variants = torch.arange(count, device=self.units.device)
        by_unit[variants, self.units] += self.change.movedim(self.axis, 0)


def take(value: Tensor, units: Tensor, axis: int) -> Tensor:
    """Return some units; index_select would first copy a value that is channels last."""
    return value.movedim(axis, 0)[units].movedim(0, axis)


def tile(value: Tensor, count: int, axis: int = 0) -> Tensor:
    """Return `count` copies of a value one after another along an axis, channels last if it is."""
    if axis == 0 and is_channels_last(value):
        return tile(value.permute(0, 2, 3, 1), count).permute(0, 3, 1, 2)
    copies = value.unsqueeze(axis).expand(*value.shape[:axis], count, *value.shape[axis:])
    return copies.flatten(axis, axis + 1) if count > 1 else value.clone()


def split(value: Tensor, count: int, axis: int = 0) -> Tensor:
    """Return an axis that holds `count` variants one after another as two axes."""
    return value.view(*value.shape[:axis], count, -1, *value.shape[axis + 1 :])


def is_channels_last(value: Tensor) -> bool:
    """Tell whether the units of a map lie next to each other in memory."""
    in_order = value.is_contiguous()  # as maps of one position are either way
    return value.ndim == 4 and not in_order and value.permute(0, 2, 3, 1).is_contiguous()


#: Takes an operation, its arguments, one or more of them `UnitChange`, and its intact output; gives
#: what it makes of them, None if that has to be computed whole.
Rule = Callable[[Any, Sequence[Any], Mapping[str, Any], Tensor], "UnitChange | Tensor | None"]


def apply_rule(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | Tensor | None:
    """Return a narrow or whole result of an operation on narrow arguments, None without a rule.

    Parameters
    ----------
    operation : callable
        The operation of the graph.
    args, kwargs
        Its arguments; `UnitChange` where they are, intact else.
    output : Tensor
        Its intact output.

    Returns
    -------
    UnitChange, Tensor or None
        A tensor is (variant * stimulus, ...), every variant whole.
    """
    rule = _RULES.get(operation)
    return None if rule is None else rule(operation, args, kwargs, output)


def _unit_by_unit(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    """Apply a function of one activation, or arithmetic of several, to each unit by itself."""
    narrow = [value for value in args if isinstance(value, UnitChange)]
    first = narrow[0]
    if output.shape != first.intact.shape or any(
        other.axis != first.axis or other.units is not first.units for other in narrow
    ):
        return None
    if any(isinstance(value, UnitChange) for value in kwargs.values()):
        return None
    parts = [_of_units(value, first) for value in args]
    if any(part is None and value is not None for part, value in zip(parts, args, strict=True)):
        return None
    return UnitChange(operation(*parts, **kwargs), first.axis, first.units, output)


def _of_units(value: Any, like: UnitChange) -> Any:
    """Return of an argument that broadcasts with an activation what goes with the units."""
    if isinstance(value, UnitChange):
        return value.values
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    axis = like.axis - (like.intact.ndim - value.ndim)
    if axis < 0 or value.shape[axis] == 1:
        return value
    return take(value, like.units, axis)


def _of_map(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    """Pool maps (stimulus, unit, y, x)."""
    narrow = args[0]
    if not isinstance(narrow, UnitChange) or narrow.axis != 1 or narrow.intact.ndim != 4:
        return None
    return UnitChange(operation(narrow.values, *args[1:], **kwargs), 1, narrow.units, output)


def _batch_norm(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    narrow, scale, shift = args
    if narrow.axis != 1:
        return None
    values = operation(narrow.values, scale[narrow.units], shift[narrow.units])
    return UnitChange(values, 1, narrow.units, output)


def _mean(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    narrow, dims = args[0], args[1] if len(args) > 1 else None
    if not isinstance(narrow, UnitChange) or not dims:
        return None
    averaged = {dim % narrow.intact.ndim for dim in dims}
    if averaged & {0, narrow.axis}:
        return None
    kept = output.ndim == narrow.intact.ndim
    axis = narrow.axis if kept else narrow.axis - sum(dim < narrow.axis for dim in averaged)
    return UnitChange(operation(narrow.values, *args[1:], **kwargs), axis, narrow.units, output)


def _view(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    """View a pooled map (stimulus, unit, 1, 1) as (stimulus, unit)."""
    narrow = args[0]
    if not isinstance(narrow, UnitChange):
        return None
    count = narrow.intact.shape[narrow.axis]
    if output.shape != (len(narrow.intact), count) or narrow.intact.numel() != output.numel():
        return None
    return UnitChange(narrow.values.reshape(len(output), -1), 1, narrow.units, output)


def _permute(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    narrow = args[0]
    if not isinstance(narrow, UnitChange):
        return None
    order = list(range(narrow.intact.ndim))
    if operation is aten.permute.default:
        order = [dim % len(order) for dim in args[1]]
    else:
        one, other = (dim % len(order) for dim in args[1:3])
        order[one], order[other] = other, one
    if order[0] != 0:
        return None
    axis = order.index(narrow.axis)
    return UnitChange(narrow.values.permute(order), axis, narrow.units, output)


def _slice(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    narrow, axis = args[0], args[1] if len(args) > 1 else 0
    if not isinstance(narrow, UnitChange) or axis % narrow.intact.ndim in (0, narrow.axis):
        return None
    return UnitChange(operation(narrow.values, *args[1:]), narrow.axis, narrow.units, output)


def _pad(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    """Pad positions, and units by further units."""
    narrow, sizes, mode = args[0], list(args[1]), args[2] if len(args) > 2 else "constant"
    if not isinstance(narrow, UnitChange) or mode != "constant" or kwargs:
        return None
    sizes += [0, 0] * (narrow.intact.ndim - len(sizes) // 2)
    before = [sizes[2 * (narrow.intact.ndim - 1 - axis)] for axis in range(narrow.intact.ndim)]
    if before[0] or narrow.intact.shape[0] != output.shape[0]:
        return None
    start = 2 * (narrow.intact.ndim - 1 - narrow.axis)
    sizes[start : start + 2] = [0, 0]
    values = operation(narrow.values, sizes, *args[2:])
    return UnitChange(values, narrow.axis, narrow.units + before[narrow.axis], output)


def _cat(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | None:
    """Join one narrow activation with intact ones along the unit axis."""
    parts, axis = args[0], args[1] if len(args) > 1 else 0
    changed = [index for index, part in enumerate(parts) if isinstance(part, UnitChange)]
    narrow = parts[changed[0]]
    if len(changed) > 1 or axis % output.ndim != narrow.axis:
        return None
    before = sum(part.shape[narrow.axis] for part in parts[: changed[0]])
    return UnitChange(narrow.values, narrow.axis, narrow.units + before, output)


def _convolution(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> UnitChange | Tensor | None:
    narrow, weight = args[:2]
    if (
        kwargs
        or not isinstance(narrow, UnitChange)
        or isinstance(weight, UnitChange)
        or narrow.axis != 1
    ):
        return None
    defaults: list[Any] = [None, (1, 1), (0, 0), (1, 1), 1]
    given = [*args[2:], *defaults[len(args) - 2 :]]
    bias, stride, padding, dilation, groups = given
    if groups > 1:
        if weight.shape[1] != 1 or len(weight) != groups:
            return None
        few = (weight[narrow.units], None if bias is None else bias[narrow.units])
        values = operation(narrow.values, *few, stride, padding, dilation, len(narrow.units))
        return UnitChange(values, 1, narrow.units, output)
    change = narrow.change
    stimuli, variants = change.shape[:2]
    kernel = weight.shape[2:]
    if tuple(kernel) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0):
        patches = change.reshape(stimuli, variants, 1, -1)
    else:
        maps = change.reshape(stimuli * variants, 1, *change.shape[2:])
        patches = unfold(maps, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
        patches = patches.view(stimuli, variants, patches.shape[1], patches.shape[2])
    patches = patches.permute(1, 0, 3, 2).reshape(variants, -1, patches.shape[2])
    weights = weight.flatten(2)[:, narrow.units].permute(1, 2, 0)
    base = output.permute(0, 2, 3, 1).reshape(1, -1, output.shape[1])
    mixed = torch.baddbmm(base.expand(variants, -1, -1), patches, weights)
    maps = mixed.view(variants * stimuli, *output.shape[2:], output.shape[1])
    return maps.permute(0, 3, 1, 2)


def _linear(
    operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
) -> Tensor | None:
    narrow, weight = args[:2]
    if not isinstance(narrow, UnitChange) or isinstance(weight, UnitChange):
        return None
    if narrow.axis != narrow.intact.ndim - 1:
        return None
    change = narrow.change.movedim(narrow.axis, 0).reshape(len(narrow.units), -1, 1)
    weights = weight[:, narrow.units].T[:, None]
    base = output.reshape(1, -1, output.shape[-1]).expand(len(change), -1, -1)
    mixed = torch.baddbmm(base, change, weights)
    return mixed.view(-1, *output.shape[1:])


def _overloads(names: Iterable[str]) -> list[Any]:
    packets = [getattr(aten, name) for name in names if hasattr(aten, name)]
    return [getattr(packet, name) for packet in packets for name in packet.overloads()]


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(_overloads(POINTWISE), _unit_by_unit),
    **dict.fromkeys(_overloads(POOLS), _of_map),
    **dict.fromkeys(_overloads(["permute", "transpose"]), _permute),
    **dict.fromkeys(_overloads(["view", "reshape", "_unsafe_view"]), _view),
    **dict.fromkeys(_overloads(["flatten"]), _view),
    aten.mean.dim: _mean,
    aten.slice.Tensor: _slice,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.cat.default: _cat,
    aten.conv2d.default: _convolution,
    aten.linear.default: _linear,
    scale_and_shift: _batch_norm,
}
