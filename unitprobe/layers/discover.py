"""List every layer of a network by running it once on two stimuli."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unitprobe.errors import ModelError
from unitprobe.layers.axes import Axes, AxisFollower, tensors_in
from unitprobe.layers.calls import Call, CallWatcher, is_leaf
from unitprobe.layers.layer import (
    NONLINEARITIES,
    Layer,
    kind_of_operation,
    nonlinearity_of_class,
)
from unitprobe.models import Network, as_network


def list_layers(
    model: Network | nn.Module,
    *,
    input_size: tuple[int, int, int] | None = None,
    example: Tensor | None = None,
) -> list[Layer]:
    """List every layer of a network, in execution order.

    The network runs once, in evaluation mode and without gradients, on two stimuli; it is left as
    it was found, its training flags, random state and hooks included.

    Parameters
    ----------
    model : Network or nn.Module
        The network.
    input_size : tuple of int, optional
        Channels, height and width of a stimulus; the network's own if it states one.
    example : Tensor, optional
        Stimuli (stimulus, channel, y, x) to run the network on instead of noise.

    Returns
    -------
    list of Layer
        Calls of modules and functional operations whose output is a floating-point tensor computed
        from the stimuli. `Layer.shape` has the stimulus axis of `example`, or 1.

    Raises
    ------
    ModelError
        The size of the input is not known, or the network does not run on it.

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
    return list_layers_of_call(network.module, (example,), {})


def example_input(network: Network, input_size: tuple[int, int, int] | None = None) -> Tensor:
    """Return noise (1, channel, y, x) of the size that a network takes.

    Raises
    ------
    ModelError
        Neither the call nor the network states a size.
    """
    size = input_size or network.input_size
    if size is None:
        raise ModelError(
            f"{network.name}: the size of its input is not known; "
            "pass input_size=(channels, height, width), such as (3, 32, 32) "
            "(--input-size 3,32,32), or example="
        )
    if len(size) != 3 or any(number < 1 for number in size):
        raise ModelError(
            f"input_size={tuple(size)} is no size of an input; give channels, height and width, "
            "such as (3, 32, 32)"
        )
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a network in evaluation mode, as written, and put its training flags back.

    PyTorch's fused transformer path is switched off: it computes no activation in between.
    """
    flags = [(child, child.training) for child in module.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for child, training in flags:
            child.training = training


def as_input(module: nn.Module, stimuli: Tensor) -> Tensor:
    """Return stimuli on the device and, if they are floats, in the precision of a network."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and stimuli.is_floating_point():
            return stimuli.to(parameter.device, parameter.dtype, non_blocking=True)
        break
    return stimuli.to(device_of(module), non_blocking=True)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer, the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def list_layers_of_call(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Layer]:
    """List the layers of a network that is called with these arguments, the stimuli first.

    Raises
    ------
    ModelError
        The network does not run on them.
    """
    example = next(tensors_in((args, kwargs)), None)
    if example is None or example.ndim < 2:
        raise ModelError(f"{type(module).__name__} is called without a batch of stimuli")
    args = tuple(_two(value, module, len(example)) for value in args)
    kwargs = {name: _two(value, module, len(example)) for name, value in kwargs.items()}
    stimuli = next(tensors_in((args, kwargs)))
    listing = _Listing(module, len(example))
    listing.axes.start(stimuli)
    devices = [stimuli.device] if stimuli.device.type == "cuda" else []
    with (
        evaluating(module),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        listing.watcher,
        listing.watcher.alone(),
    ):
        try:
            module(*args, **kwargs)
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise ModelError(
                f"{type(module).__name__} does not run on an input of shape "
                f"{tuple(example.shape)} (stimulus, channel, y, x): {reason}"
            ) from error
    return listing.layers


def _two(value: Any, module: nn.Module, count: int) -> Any:
    """Return two stimuli of a batch, as a copy; whatever is no batch as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
        return value
    two = value[:2] if count > 1 else torch.cat([value, value])
    return as_input(module, two.detach().clone())


class _Listing:
    """Turns the calls of one forward pass on two stimuli into layers."""

    def __init__(self, module: nn.Module, stimuli: int) -> None:
        self.layers: list[Layer] = []
        self.axes = AxisFollower()
        self.watcher = CallWatcher(module, self.report)
        self._stimuli = stimuli
        self._paths = {path for path, _ in module.named_modules()}
        self._leaf_operation: str | None = None
        self._names: set[str] = set()

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
            self.axes.follow(call.operation, what, args, kwargs, output)
            if self.watcher.leaf is not None:
                self._leaf_operation = call.operation
                return
            kind = kind_of_operation(call.operation)
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            axes = self.axes.axes(output)
            if axes is not None:
                self._add(call, kind, output, axes)
            elif kind in NONLINEARITIES and len(output) == 2:
                # It may well depend on the stimuli, through something that cannot be followed.
                self._add(call, kind, output, Axes(None, None))

    def _kind_of_module(self, module: nn.Module) -> str:
        name = type(module).__name__
        if not is_leaf(module):
            return name
        operation, self._leaf_operation = self._leaf_operation, None
        return nonlinearity_of_class(name) or kind_of_operation(operation or name.lower())

    def _add(self, call: Call, kind: str, output: Tensor, axes: Axes) -> None:
        unit = axes.unit.number if axes.unit is not None and _has_stimuli_first(axes) else None
        if unit == 0:
            unit = None
        self.layers.append(
            Layer(
                name=self._name(call),
                kind=kind,
                shape=(self._stimuli, *output.shape[1:]),
                unit_axis=-1 if unit == output.ndim - 1 else unit,
                units=None if unit is None else output.shape[unit],
                owner=call.owner,
                operation=call.operation,
                call=call.number,
            )
        )

    def _name(self, call: Call) -> str:
        base = ".".join(part for part in (call.owner, call.operation) if part)
        first = base if call.operation is None and call.number == 0 else None
        candidates = (base if k == 0 else f"{base}_{k}" for k in itertools.count())
        taken = self._names | self._paths
        name = first or next(name for name in candidates if name not in taken)
        self._names.add(name)
        return name


def _has_stimuli_first(axes: Axes) -> bool:
    stimulus = axes.stimulus
    return stimulus is not None and stimulus.number == 0 and stimulus.indices.tolist() == [0, 1]
