"""Attach to a network and see, or change, what its layers compute while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from unitprobe.errors import LayerError, ModelError, OptionError
from unitprobe.layers import (
    CallWatcher,
    Layer,
    Selection,
    as_input,
    evaluating,
    list_layers,
    select_layers,
)
from unitprobe.layers.calls import Call
from unitprobe.models import Network, as_network
from unitprobe.responses import check_pool, pool_activation

#: Receives a layer, its activation and the positional arguments of the call that computed it. A
#: tensor that it returns takes the activation's place.
Visitor = Callable[[Layer, Tensor, tuple[Any, ...]], Tensor | None]


def watch_layers(
    module: nn.Module,
    layers: Sequence[Layer],
    visit: Visitor,
    *,
    on_begin: Callable[[], None] | None = None,
) -> CallWatcher:
    """Return a context manager that shows `visit` the activation of each layer, in order.

    Parameters
    ----------
    module : nn.Module
        The network. It may run any number of times, in training or evaluation mode.
    layers : sequence of Layer
        Layers of this network.
    visit : callable
        See `Visitor`; called the moment the activation is computed.
    on_begin : callable, optional
        Called before each forward pass.
    """
    wanted = {Call(layer.owner, layer.operation, layer.call): layer for layer in layers}

    def report(
        call: Call, what: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Tensor | None:
        layer = wanted.get(call)
        return None if layer is None else visit(layer, output, args)

    return CallWatcher(
        module,
        report,
        modules={layer.owner for layer in layers if layer.operation is None},
        operations={(la.owner, la.operation) for la in layers if la.operation is not None},
        on_begin=on_begin,
    )


class Probe:
    """Read the responses of chosen layers while a network runs. A context manager.

    The network is in evaluation mode and computes no gradients inside a call; its training flags
    and hooks are as before afterwards, whatever happens.

    Parameters
    ----------
    model : Network or nn.Module
        The network.
    layers : str, sequence of str or callable
        Which layers; see `unitprobe.layers.select_layers`.
    pool : {"mean", "max", "center", "cls", "none"}
        How positions are pooled; see `unitprobe.responses.pool_activation`.

    Attributes
    ----------
    layers : list of Layer
        The chosen layers in execution order; known after the first call, or after `resolve`.

    Raises
    ------
    LayerNotFoundError
        The selection matches no layer; raised by the first call.
    OptionError
        The pooling is not known, or the probe is called outside ``with``.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> with up.Probe(network, layers="relu") as probe:
    ...     responses = probe(torch.ones(5, 4))
    >>> {name: tuple(response.shape) for name, response in responses.items()}
    {'1': (5, 3)}
    """

    def __init__(
        self, model: Network | nn.Module, layers: Selection = "activations", pool: str = "mean"
    ) -> None:
        self._network = as_network(model)
        self._selection = layers
        self._pool = pool
        self._watcher: CallWatcher | None = None
        self._responses: dict[str, Tensor] = {}
        self._open = False
        self.layers: list[Layer] = []
        check_pool(pool, [])

    def __enter__(self) -> Probe:
        self._open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if self._watcher is not None:
            self._watcher.detach()
            self._watcher = None

    def resolve(self, example: Tensor) -> list[Layer]:
        """Choose the layers, by running the network on stimuli, and attach to them; only once."""
        if self._watcher is None:
            listed = list_layers(self._network, example=example)
            self.layers = select_layers(self._network.module, listed, self._selection)
            check_pool(self._pool, self.layers)
            self._watcher = watch_layers(self._network.module, self.layers, self._keep)
            self._watcher.attach()
        return self.layers

    def __call__(self, stimuli: Tensor) -> dict[str, Tensor]:
        """Run the network on stimuli (stimulus, channel, y, x) and return its responses.

        Returns
        -------
        dict of str to Tensor
            Responses (stimulus, unit) by layer name, or activations with ``pool="none"``, on the
            network's device.

        Raises
        ------
        LayerError
            The network did not reach one of the layers on these stimuli.
        ModelError
            The network does not run on these stimuli.
        """
        if not self._open:
            raise OptionError("a Probe reads only inside its context: with Probe(model) as probe:")
        module = self._network.module
        self.resolve(stimuli)
        self._responses = {}
        watcher = self._watcher
        assert watcher is not None
        with evaluating(module), torch.no_grad(), watcher.alone():
            try:
                module(as_input(module, stimuli))
            except (RuntimeError, AssertionError) as error:
                reason = str(error).strip().split("\n")[0] or type(error).__name__
                raise ModelError(
                    f"{self._network.name} does not run on stimuli of shape "
                    f"{tuple(stimuli.shape)} (stimulus, channel, y, x): {reason}"
                ) from error
        missed = [layer.name for layer in self.layers if layer.name not in self._responses]
        if missed:
            raise LayerError(
                f"{self._network.name} did not reach {len(missed)} of {len(self.layers)} layers on "
                f"these stimuli, the first {missed[0]!r}; its path depends on the data"
            )
        responses, self._responses = self._responses, {}
        return responses

    def _keep(self, layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
        if len(activation) == 0 or layer.unit_axis is None:
            raise LayerError(f"layer {layer.name!r} has no stimulus or no known unit axis")
        self._responses[layer.name] = pool_activation(activation, layer.unit_axis, self._pool)
