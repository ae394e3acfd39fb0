"""Run the part of a network that an ablated layer reaches, for several ablations at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from unitprobe.ablation.partial_forward.network_graph import NetworkGraph, Node, is_layer_output
from unitprobe.ablation.partial_forward.unit_change import UnitChange, apply_rule, split, tile
from unitprobe.ablation.partial_forward.winograd import WinogradConvolution

aten = torch.ops.aten

_IN_PLACE: dict[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
}
_ARITHMETIC: dict[Any, Any] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}
_MAKE_NEW = frozenset((aten.conv2d.default, aten.linear.default, *_ARITHMETIC))


@dataclass(frozen=True)
class Downstream:
    """What depends on the activation of one layer.

    Attributes
    ----------
    source : Node
        Where the activation of the layer is handed on.
    nodes : list of Node
        What depends on it, in order of execution.
    last_use : dict of Node to list of Node
        Values that nothing needs any more after a node.
    bytes_of_stimulus : int
        The most that is held at a time, for one stimulus of one variant.
    """

    source: Node
    nodes: list[Node]
    last_use: dict[Node, list[Node]]
    bytes_of_stimulus: int

    @classmethod
    def of(cls, graph: NetworkGraph, source: Node) -> Downstream:
        """Return what depends on one node."""
        reached = {source}
        nodes = []
        for node in graph.nodes:
            if node not in reached and any(given in reached for given in node.all_input_nodes):
                reached.add(node)
                nodes.append(node)
        users = {
            given: node for node in nodes for given in node.all_input_nodes if given in reached
        }
        last_use: dict[Node, list[Node]] = {}
        for given, user in users.items():
            if given is not graph.output:
                last_use.setdefault(user, []).append(given)
        held = most = graph.bytes_of_stimulus(source)
        for node in nodes:
            held += graph.bytes_of_stimulus(node)
            most = max(most, held)
            held -= sum(map(graph.bytes_of_stimulus, last_use.get(node, ())))
        return cls(source, nodes, last_use, most)


class VariantRun:
    """One run of what is downstream of a layer, for several variants of its activation.

    Parameters
    ----------
    graph : NetworkGraph
        The network.
    downstream : Downstream
        What is run.
    intact : mapping of Node to value
        Values of the intact network, constants among them.
    convolutions : mapping of Node to WinogradConvolution
        Convolutions that are computed with fewer products.
    variants, stimuli : int
        How many there are. The variants of an activation stand one after another along its
        stimuli.
    """

    def __init__(
        self,
        graph: NetworkGraph,
        downstream: Downstream,
        intact: Mapping[Node, Any],
        convolutions: Mapping[Node, WinogradConvolution],
        variants: int,
        stimuli: int,
    ) -> None:
        self._graph = graph
        self._downstream = downstream
        self._intact = intact
        self._convolutions = convolutions
        self._variants = variants
        self._stimuli = stimuli
        self._values: dict[Node, Any] = {}

    def logits(self, start: Tensor | UnitChange) -> Tensor:
        """Return the logits (variant * stimulus, output) that follow from ablated activations.

        Parameters
        ----------
        start : Tensor or UnitChange
            The ablated activations, (variant * stimulus, ...), or the ablated units of them.
        """
        values = self._values = {self._downstream.source: start}
        for node in self._downstream.nodes:
            if is_layer_output(node):
                values[node] = values[node.args[0]]
            else:
                values[node] = self._compute(node)
            for source in self._downstream.last_use.get(node, ()):
                values.pop(source, None)
        logits: Tensor = self._whole(self._graph.output)
        return logits

    def _compute(self, node: Node) -> Any:
        varied = [source for source in node.all_input_nodes if source in self._values]
        if all(isinstance(self._values[source], UnitChange) for source in varied):
            found = self._compute_narrow(node)
            if found is not None:
                return found
        convolution = self._convolutions.get(node)
        if convolution is not None:
            return self._convolve(node, convolution)
        if node.target in _ARITHMETIC and not node.kwargs:
            found = self._combine(node)
            if found is not None:
                return found
        target = node.target
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._whole)
        if target in _IN_PLACE and self._is_free(node.args[0]):
            target = _IN_PLACE[target]
        return target(*args, **kwargs)

    def _compute_narrow(self, node: Node) -> Any:
        output = self._intact[node]
        if not isinstance(output, Tensor):
            return None

        def given(source: Node) -> Any:
            if source in self._graph.sizes:
                return self._graph.sizes[source] * self._stimuli
            return self._values[source] if source in self._values else self._intact[source]

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given)
        return apply_rule(node.target, args, kwargs, output)

    def _whole(self, node: Node) -> Any:
        """Return a value of all variants."""
        if node in self._graph.sizes:
            return self._graph.sizes[node] * self._variants * self._stimuli
        if node in self._values:
            value = self._values[node]
            if isinstance(value, UnitChange):
                value = self._values[node] = value.widen()
            return value
        batched = self._graph.batched.get(node)
        value = self._intact[node]
        return value if batched is None else tile(value, self._variants, batched.axis)

    def _is_free(self, node: Any) -> bool:
        """Tell whether a value is whole, in memory of its own, and read by one operation only."""
        return (
            isinstance(node, fx.Node)
            and node.target in _MAKE_NEW
            and len(node.users) == 1
            and isinstance(self._values.get(node), Tensor)
        )

    def _convolve(self, node: Node, convolution: WinogradConvolution) -> Tensor:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        change = self._with_intact(torch.sub, self._whole(source), self._intact[source])
        mixed = convolution(_position_first(change)).permute(2, 3, 0, 1)
        return self._with_intact(Tensor.add_, mixed, self._intact[node])

    def _combine(self, node: Node) -> Tensor | None:
        """Add, subtract or multiply activations without copies of intact ones."""
        left, right = node.args[:2]
        if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
            return None
        if not self._are_alike(node, left, right):
            return None
        orders = [(left, right)]
        if node.target is not aten.sub.Tensor:
            orders = sorted([*orders, (right, left)], key=lambda pair: not self._is_free(pair[0]))
        orders = [pair for pair in orders if isinstance(self._values.get(pair[0]), Tensor)]
        if not orders:
            return None
        left, right = orders[0]
        one, other = self._values[left], self._values.get(right)
        operation = _ARITHMETIC[node.target] if self._is_free(left) else node.target
        if isinstance(other, Tensor):
            whole: Tensor = operation(one, other)
            return whole
        if isinstance(other, UnitChange) and node.target is not aten.add.Tensor:
            return None
        intact = self._intact[right] if other is None else other.intact
        combined = self._with_intact(operation, one, intact)
        if isinstance(other, UnitChange):
            other.add_to(combined)
        return combined

    def _with_intact(
        self, operation: Callable[[Tensor, Tensor], Any], activations: Tensor, intact: Tensor
    ) -> Tensor:
        """Apply an operation to activations of all variants and intact ones (stimulus, ...)."""
        by_variant: Tensor = operation(split(activations, self._variants), intact)
        return by_variant.flatten(0, 1)

    def _are_alike(self, *nodes: Node) -> bool:
        """Tell whether activations have the stimuli first, and are of one shape and type."""
        first, *others = (self._graph.batched.get(node) for node in nodes)
        if first is None or first.axis != 0 or any(other != first for other in others):
            return False
        # Not the number of stimuli, which is a symbol: what is asked of symbols is slow.
        kinds = {(node.meta["val"].shape[1:], node.meta["val"].dtype) for node in nodes}
        return len(kinds) == 1


def _position_first(maps: Tensor) -> Tensor:
    """Return maps (stimulus, unit, y, x) as (y, x, stimulus, unit), in this order in memory."""
    return maps.permute(2, 3, 0, 1).contiguous()


def winograd_convolutions(
    graph: NetworkGraph, nodes: Iterable[Node], memory: int
) -> dict[Node, WinogradConvolution]:
    """Return the convolutions among some operations that a `WinogradConvolution` suits.

    Parameters
    ----------
    graph : NetworkGraph
        The network.
    nodes : iterable of Node
        The operations.
    memory : int
        Bytes that their transformed kernels may take.
    """
    found: dict[Node, WinogradConvolution] = {}
    for node in nodes:
        if node.target is not aten.conv2d.default or node.kwargs:
            continue
        rest = (*node.args[3:], *((1, 1), (0, 0), (1, 1), 1)[len(node.args[3:]) :])
        plain = [tuple(value) if isinstance(value, list | tuple) else value for value in rest]
        weight = graph.constants.get(node.args[1])
        if weight is None or plain != [(1, 1), (1, 1), (1, 1), 1]:
            continue
        height, width = node.meta["val"].shape[2:]
        if WinogradConvolution.suits(weight, height, width):
            memory -= WinogradConvolution.bytes_of(weight, height, width)
            if memory < 0:
                break
            found[node] = WinogradConvolution(weight, height, width)
    return found
