"""List every layer of a network by running it once on two stimuli."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unitprobe.errors import ModelError
from unitprobe.layers import operations
from unitprobe.layers.axes import Axes, Axis, AxisFollower
from unitprobe.layers.calls import Call, CallWatcher, inspecting, is_leaf
from unitprobe.layers.composed import ComposedNonlinearities, kind_of_composed
from unitprobe.layers.layer import (
    Layer,
    StimulusAxis,
    kind_of_operation,
    nonlinearity_of_class,
)
from unitprobe.layers.outputs import Path, named_tensors, suffix, tensors_in
from unitprobe.layers.running import as_input
from unitprobe.layers.structure import class_name, inside, named_modules
from unitprobe.models import Network, as_network
from unitprobe.models.network import stated_input_size


def list_layers(
    model: Network | nn.Module,
    *,
    input_size: tuple[int, int, int] | None = None,
    example: Tensor | None = None,
) -> list[Layer]:
    """List every layer of a network, in execution order.

    The network runs once on two stimuli, in evaluation mode and without gradients. Its training
    flags, random state and hooks stay as they are. If its path depends on the data, it runs once
    for each stimulus of the example, and the list has all layers that any of them reaches. Of a
    network wrapped by ``DataParallel`` or ``torch.compile``, the network inside runs.

    Parameters
    ----------
    model : Network or nn.Module
        The network.
    input_size : tuple of int, optional
        Channels, height and width of a stimulus; by default the size that the network states.
    example : Tensor, optional
        Stimuli (stimulus, channel, y, x) to run the network on; noise by default.

    Returns
    -------
    list of Layer
        Calls of modules and functional operations whose output is a floating-point tensor computed
        from the stimuli. The first number of `Layer.shape` is the number of stimuli in `example`,
        or 1.

    Raises
    ------
    ModelError
        The size of the input is unknown, or the network does not run on it.

    Examples
    --------
    >>> import torch
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> for layer in list_layers(network, input_size=(3, 8, 8)):
    ...     print(layer.name, layer.kind, layer.units)
    0 conv 8
    1 relu 8
    """
    network = as_network(model)
    if example is None:
        example = example_input(network, input_size)
    return find_layers(network.module, (example,), {}).layers


def example_input(network: Network, input_size: tuple[int, int, int] | None = None) -> Tensor:
    """Return noise (1, channel, y, x) of the size that a network takes.

    Raises
    ------
    ModelError
        Neither the call nor the network states a size.
    """
    size = input_size or network.input_size or stated_input_size(inside(network.module))
    if size is None:
        raise ModelError(
            f"{network.name}: the size of its input is unknown; "
            "pass input_size=(channels, height, width), such as (3, 32, 32) "
            "(--input-size 3,32,32), or example="
        )
    if len(size) != 3 or any(number < 1 for number in size):
        raise ModelError(
            f"input_size={tuple(size)} is not an input size; give channels, height and width, "
            "such as (3, 32, 32)"
        )
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


class FoundLayers(NamedTuple):
    """What one pass shows about a network.

    Attributes
    ----------
    layers : list of Layer
        In execution order.
    depend_on_data : bool
        Whether the values of the stimuli choose which layers run.
    warnings : list of str
        Reasons why the response to a stimulus may depend on more than this stimulus.
    """

    layers: list[Layer]
    depend_on_data: bool
    warnings: list[str]


def find_layers(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FoundLayers:
    """Find the layers of a network that is called with these arguments, the stimuli first.

    Raises
    ------
    ModelError
        The network does not run on them, or is quantized.
    """
    module = inside(module)
    _refuse_quantized(module)
    example = next(tensors_in((args, kwargs)), None)
    if example is None or example.ndim < 2:
        raise ModelError(f"{type(module).__name__} is called without a batch of stimuli")
    count = len(example)
    names = _Names(module)

    def listing_of(indices: Sequence[int]) -> _Listing:
        chosen = [_take(value, module, count, indices) for value in (*args, *kwargs.values())]
        named = dict(zip(kwargs, chosen[len(args) :], strict=True))
        return _run(module, chosen[: len(args)], named, names, count)

    listing = listing_of([0, min(1, count - 1)])
    if count == 1 or not listing.depends_on_data:
        return FoundLayers(listing.layers, listing.depends_on_data, listing.warnings)
    # Each stimulus twice, because the stimulus axis can only be found from two stimuli.
    layers: list[Layer] = []
    for index in range(count):
        layers = _united(layers, listing_of([index, index]).layers)
    return FoundLayers(layers, True, listing.warnings)


def _refuse_quantized(module: nn.Module) -> None:
    for path, each in named_modules(module):
        package, name = type(each).__module__, type(each).__name__
        quantized = package.startswith("torch.ao.nn.") and ".quantized" in package
        if quantized and "FloatFunctional" not in name:  # that is arithmetic of floats
            raise ModelError(
                f"quantized networks cannot be recorded: {path!r} is a {name} of {package}; give "
                "the network as it was before quantization"
            )


def _take(value: Any, module: nn.Module, count: int, indices: Sequence[int]) -> Any:
    """Return a copy of some stimuli of a batch; other values as they are."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
        return value
    return as_input(module, value.detach()[list(indices)])


def _run(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: _Names,
    count: int,
) -> _Listing:
    stimuli = next(tensors_in((args, kwargs)))
    listing = _Listing(module, names, count)
    listing.axes.start(stimuli)
    listing.composed.start(stimuli)
    with inspecting(module, listing.watcher, stimuli):
        try:
            module(*args, **kwargs)
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ModelError(
                f"{type(module).__name__} does not run on an input of shape "
                f"{(count, *stimuli.shape[1:])} (stimulus, channel, y, x): {reason}"
            ) from error
    listing.finish()
    return listing


def _united(layers: list[Layer], others: list[Layer]) -> list[Layer]:
    """Return all layers of two lists, in an order that agrees with both."""
    united = list(layers)
    names = {layer.name for layer in layers}
    new: list[Layer] = []
    for other in others:
        if other.name not in names:
            new.append(other)
            continue
        index = next(i for i, layer in enumerate(united) if layer.name == other.name)
        united[index:index] = new
        new = []
    return united + new


class _Names:
    """Gives every call a unique name, the same one in every pass."""

    def __init__(self, module: nn.Module) -> None:
        self._taken = {path for path, _ in named_modules(module)}
        self._names: dict[Call, str] = {}

    def of(self, call: Call) -> str:
        if call not in self._names:
            self._names[call] = self._new(call)
            self._taken.add(self._names[call])
        return self._names[call]

    def _new(self, call: Call) -> str:
        path = ".".join(part for part in (call.owner, call.operation) if part)
        # Files have groups with these names, where a slash would make a group inside another.
        base = path.replace("/", "_")
        if call.operation is None and call.number == 0 and base == path:
            return base
        candidates = (base if k == 0 else f"{base}_{k}" for k in itertools.count())
        return next(name for name in candidates if name not in self._taken)


class _Listing:
    """Turns the calls of one forward pass on two stimuli into layers."""

    def __init__(self, module: nn.Module, names: _Names, stimuli: int) -> None:
        self.layers: list[Layer] = []
        self.depends_on_data = False
        self.warnings: list[str] = []
        self.axes = AxisFollower()
        self.composed = ComposedNonlinearities()
        self.watcher = CallWatcher(module, self.report)
        self._names = names
        self._stimuli = stimuli
        self._leaf_operation: str | None = None

    def report(
        self,
        call: Call,
        what: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if call.operation is None:
            kind = self._kind_of_module(what)
        else:
            self._look_for_choice(call.operation, args, output)
            self._look_for_warning(call, args, kwargs)
            self.axes.follow(call.operation, what, args, kwargs, output)
            owner = self.watcher.leaf or call.owner
            self.composed.follow(call.operation, what, args, kwargs, output, owner)
            if self.watcher.leaf is not None:
                self._leaf_operation = call.operation
                return
            kind = kind_of_operation(call.operation)
        for path, tensor in named_tensors(output):
            if not tensor.is_floating_point() or tensor.ndim < 2 or len(tensor) == 0:
                continue
            axes = self.axes.axes(tensor)
            if axes is not None:
                self._add(call, path, kind, tensor, axes)
                self._look_for_composed(call, what, path, kind, tensor)
            elif kind in operations.NONLINEARITIES and len(tensor) == 2:
                # It may depend on the stimuli through an operation that cannot be followed.
                self._add(call, path, kind, tensor, Axes(None, None))

    def _look_for_composed(
        self, call: Call, what: Any, path: Path, kind: str, tensor: Tensor
    ) -> None:
        """Record which layer the value of a tensor is, if it may be a nonlinearity."""
        value = self.composed.of(tensor)
        number = len(self.layers) - 1
        if value is None or path:
            return
        if call.operation is not None:
            value.layer = number
        elif not value.nonlinear:
            return
        elif kind in operations.NONLINEARITIES:
            value.layer, value.plain, value.composed = number, True, False
        elif value.plain or value.module_layer is not None or isinstance(what, nn.Sequential):
            return
        elif value.made_by(call.owner):
            value.module_layer = number

    def finish(self) -> None:
        """Name the nonlinearities that are made of operations, after the pass."""
        for value, parts in self.composed.wholes():
            number = value.layer if value.module_layer is None else value.module_layer
            if number is None:
                continue
            whole = self.layers[number]
            self.layers[number] = replace(whole, kind=kind_of_composed(value))
            inner = [part.layer for part in parts] + [part.module_layer for part in parts]
            if value.module_layer is not None:
                inner.append(value.layer)
            for each in inner:
                if each is not None:
                    self.layers[each] = replace(self.layers[each], part_of=whole.name)

    def _look_for_choice(self, operation: str, args: tuple[Any, ...], output: Any) -> None:
        """Record whether values of tensors reach Python, where they can choose what runs."""
        looked_at = args
        if operation == "getitem":
            looked_at = args[1:]  # a mask, or indices
        elif operation in operations.VALUES:
            if isinstance(output, Tensor):
                return  # ``x.float()``, not ``float(x)``
        elif operation not in operations.DATA_DEPENDENT_SIZES:
            return
        if any(self.axes.axes(tensor) is not None for tensor in tensors_in(looked_at)):
            self.depends_on_data = True

    def _look_for_warning(
        self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        position, name, default, warning = _WARNINGS.get(call.operation or "", (0, "", False, ""))
        given = args[position] if len(args) > position else kwargs.get(name, default)
        if not (warning and given):
            return
        normalized = next(tensors_in((args, kwargs)))
        if call.operation == "batch_norm" and self.axes.axes(normalized) is None:
            return  # weights that are standardized, as in ``timm.layers.StdConv2d``
        where = self.watcher.leaf or call.owner or "its forward method"
        warning = f"{warning} ({call.operation} in {where}), though it is in evaluation mode"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _kind_of_module(self, module: nn.Module) -> str:
        name = class_name(module)
        if not is_leaf(module):
            return name
        operation, self._leaf_operation = self._leaf_operation, None
        return nonlinearity_of_class(name) or kind_of_operation(operation or name.lower())

    def _add(self, call: Call, path: Path, kind: str, output: Tensor, axes: Axes) -> None:
        stimuli = _stimulus_axis(axes.stimulus, output)
        unit = None if stimuli is None or axes.unit is None else axes.unit.number
        if stimuli is None or unit == stimuli.number:
            stimuli, unit = StimulusAxis(), None
        if unit is not None:
            # Its number once the stimuli are the first axis and their windows the second.
            unit += (unit < stimuli.number) + (stimuli.windows > 1)
        shape = stimuli.to_front(output).shape
        self.layers.append(
            Layer(
                name=self._names.of(call) + suffix(path),
                kind=kind,
                shape=(self._stimuli, *shape[1:]),
                unit_axis=-1 if unit == len(shape) - 1 else unit,
                units=None if unit is None else shape[unit],
                owner=call.owner,
                operation=call.operation,
                call=call.number,
                output=path,
                stimuli=stimuli,
            )
        )


_AT_RANDOM = "drops responses at random, other ones in every run"
#: By operation: the position, name and default of the argument that selects what it does in
#: training, and the warning if it is set.
_WARNINGS = {
    "batch_norm": (5, "training", False, "normalizes by the statistics of the current batch"),
    **{name: (2, "training", "alpha" not in name, _AT_RANDOM) for name in operations.DROPOUTS},
}


def _stimulus_axis(axis: Axis | None, tensor: Tensor) -> StimulusAxis | None:
    """Return the axis of two stimuli, None if they are not along one whole axis in order."""
    if axis is None or axis.number >= tensor.ndim:
        return None
    indices = axis.indices
    if len(indices) != tensor.shape[axis.number]:
        return None
    inner = int((indices != indices[0]).double().argmax())
    if inner == 0 or len(indices) % (2 * inner):
        return None
    outer = len(indices) // (2 * inner)
    expected = torch.arange(2.0, dtype=indices.dtype).repeat_interleave(inner).repeat(outer)
    return StimulusAxis(axis.number, outer, inner) if torch.equal(indices, expected) else None
