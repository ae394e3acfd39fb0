"""Norms of the weights into and out of each unit.

Zhou, Sun, Bau & Torralba, "Revisiting the importance of individual units in CNNs via ablation"
(arXiv:1806.02891), predict the importance of a unit from the L1 norm of its filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from unitprobe.layers.axes import Axes, AxisFollower
from unitprobe.layers.calls import Call, CallWatcher, inspecting
from unitprobe.layers.discover import example_input, list_layers
from unitprobe.layers.layer import kind_of_operation
from unitprobe.layers.operations import (
    COPIES,
    DROPOUTS,
    MOVES,
    NONLINEARITIES,
    POINTWISE,
    RESAMPLES,
)
from unitprobe.layers.outputs import Path, named_tensors, tensors_in
from unitprobe.layers.running import as_input
from unitprobe.layers.select import Selection, select_layers
from unitprobe.layers.structure import inside
from unitprobe.models import Network, as_network
from unitprobe.typing import FloatArray, IntArray

_UNIT_BY_UNIT = (
    NONLINEARITIES | POINTWISE | COPIES | DROPOUTS | RESAMPLES | MOVES | frozenset({"pad"})
)


class _Norms(NamedTuple):
    """L1 norm and sum of squares of the weights of each position along a unit axis."""

    l1: FloatArray
    squares: FloatArray


class _UnitWeights:
    """The weights that make, and that read, the units of one tensor."""

    def __init__(self, length: int, incoming: _Norms | None, root: object) -> None:
        self.incoming = incoming
        self.root = root  # shared by all tensors that are made from one source, unit by unit
        # For each source: the index in it that each position comes from, None if unknown.
        self.sources: list[tuple[_UnitWeights, IntArray | None]] = []
        self.outgoing = _Norms(np.zeros(length), np.zeros(length))
        self.is_read = False
        self.is_unknown = False

    def read(self, weights: _Norms | None) -> None:
        """Add weights that read the units of this tensor, and so those of its sources.

        With None, unknown weights read them.
        """
        self.is_read = True
        if weights is None:
            self.is_unknown = True
        else:
            self.outgoing.l1[:] += weights.l1
            self.outgoing.squares[:] += weights.squares
        for source, indices in self.sources:
            if weights is None or indices is None:
                source.read(None)
            else:
                count = len(source.outgoing.l1)
                l1, squares = np.zeros(count), np.zeros(count)
                np.add.at(l1, indices, weights.l1)
                np.add.at(squares, indices, weights.squares)
                source.read(_Norms(l1, squares))

    def dataset(self) -> xr.Dataset:
        unknown = np.full(len(self.outgoing.l1), np.nan)
        incoming = self.incoming or _Norms(unknown, unknown)
        known = self.is_read and not self.is_unknown
        outgoing = self.outgoing if known else _Norms(unknown, unknown)
        return xr.Dataset(
            {
                "incoming_l1": ("unit", incoming.l1),
                "incoming_l2": ("unit", np.sqrt(incoming.squares)),
                "outgoing_l1": ("unit", outgoing.l1),
                "outgoing_l2": ("unit", np.sqrt(outgoing.squares)),
            }
        )


def weight_norms(
    model: Network | nn.Module,
    *,
    layers: Selection = "activations",
    example: Tensor | None = None,
) -> dict[str, xr.Dataset]:
    """Compute the norms of the incoming and outgoing weights of each unit.

    Parameters
    ----------
    model : Network or nn.Module
        The network. It runs twice in evaluation mode and is not changed.
    layers : str, module, class, Layer, callable, or a list of these
        Which layers; see `unitprobe.layers.select_layers`.
    example : Tensor, optional
        Stimuli (stimulus, channel, y, x) to run it on; by default noise of the network's own
        input size.

    Returns
    -------
    dict of str to Dataset
        By layer, in execution order, each (unit,): ``incoming_l1``, ``incoming_l2``,
        ``outgoing_l1`` and ``outgoing_l2``, all at least 0. NaN where there are no such weights
        or they cannot be determined, and in a layer that `example` does not reach.

    Raises
    ------
    ModelError
        The size of the input is unknown, or the network does not run on it.
    LayerNotFoundError
        The selection matches no layer.

    Notes
    -----
    Incoming weights are the filter (or row) of the unit in the convolution or linear layer that
    makes it, without the bias. A layer that is computed from such a layer unit by unit
    (normalization, nonlinearity, dropout, pooling, products with constants) has the same incoming
    weights. A layer that is computed from several of them, such as the sum of a residual
    connection, has none.

    Outgoing weights are those of all convolutions and linear layers that read the unit, directly
    or through operations that work unit by unit, and at all positions where positions are
    flattened. A read through a sum with another layer, or by a product of activations, is not
    counted. Outgoing norms cannot be determined if the unit is read through a split, through a
    shuffle between groups, or by weights of another kind.

    The norms do not include the scale of a normalization, as in Zhou et al. (arXiv:1806.02891).
    Before batch normalization the size of a filter has no effect on what the network computes.

    Examples
    --------
    >>> import torch
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    ... )
    >>> with torch.no_grad():
    ...     _ = network[0].weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 1.0], [0.0, 0.0]]))
    ...     _ = network[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    >>> norms = weight_norms(network, layers="kind:relu", example=torch.ones(1, 2))["1"]
    >>> norms.incoming_l1.values, norms.incoming_l2.values, norms.outgoing_l1.values
    (array([7., 1., 0.]), array([5., 1., 0.]), array([1. , 2. , 0.5]))
    """
    network = as_network(model)
    module = inside(network.module)
    if example is None:
        example = example_input(network)
    chosen = select_layers(module, list_layers(network, example=example), layers)
    stimuli = example[:2] if len(example) > 1 else torch.cat([example, example])
    stimuli = as_input(module, stimuli.detach().clone())
    follower = _WeightsFollower(module, stimuli)
    with inspecting(module, follower.watcher, stimuli):
        module(stimuli)
    found = {}
    for layer in chosen:
        weights = follower.calls.get((Call(layer.owner, layer.operation, layer.call), layer.output))
        if weights is None or len(weights.outgoing.l1) != layer.units:
            # The values of the stimuli choose the path, and this pass took another one.
            assert layer.units is not None
            weights = _UnitWeights(layer.units, None, object())
        found[layer.name] = weights.dataset()
    return found


#: A tensor that an operation reads, its weights, and its axes before the operation.
_Before = tuple[Tensor, _UnitWeights, Axes | None]


class _WeightsFollower:
    """Follows units from the weights that make them to the weights that read them."""

    def __init__(self, module: nn.Module, stimuli: Tensor) -> None:
        self.calls: dict[tuple[Call, Path], _UnitWeights] = {}
        self.watcher = CallWatcher(module, self.report)
        self._axes = AxisFollower()
        self._axes.start(stimuli)
        self._weights: WeakTensorKeyDictionary[_UnitWeights] = WeakTensorKeyDictionary()  # type: ignore[type-arg]
        self._weights[stimuli] = _UnitWeights(stimuli.shape[1], None, object())

    def report(
        self,
        call: Call,
        what: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        if call.operation is not None:
            before = [
                (tensor, self._weights[tensor], self._axes.axes(tensor))
                for tensor in dict.fromkeys(tensors_in((args, kwargs)))
                if tensor in self._weights
            ]
            self._axes.follow(call.operation, what, args, kwargs, output)
            for result in tensors_in(output):
                self._follow(call.operation, args, kwargs, before, result)
        for path, tensor in named_tensors(output):
            if tensor in self._weights:
                self.calls[call, path] = self._weights[tensor]

    def _follow(
        self,
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        before: list[_Before],
        result: Tensor,
    ) -> None:
        """Keep which weights one operation reads, and which make its result."""
        axes = self._axes.axes(result)
        unit = None if axes is None else axes.unit
        kind = kind_of_operation(operation)
        made: _UnitWeights | None = None
        if kind in ("conv", "linear") and operation != "bilinear" and len(before) == 1:
            weights = _weights(args, kwargs)
            transposed = operation.startswith("conv_transpose")
            groups = _groups(args, kwargs) if kind == "conv" else 1
            tensor, source, source_axes = before[0]
            summed = 1 if kind == "conv" else tensor.ndim - 1
            units = None if source_axes is None else source_axes.unit
            reads_units = units is not None and units.number == summed
            source.read(_norms(weights, groups, by_input=not transposed) if reads_units else None)
            if unit is not None:
                incoming = _norms(weights, groups, by_input=transposed)
                made = _UnitWeights(result.shape[unit.number], incoming, object())
        elif before and _is_unit_wise(operation, kind) and _have_one_root(before):
            # A move by indices in another tensor is not followed.
            followed = operation not in MOVES or sum(isinstance(a, Tensor) for a in args) == 1
            origins = [_origins(s, axes, result, operation) if followed else None for s in before]
            source = before[0][1]
            made = _UnitWeights(0 if unit is None else result.shape[unit.number], None, object())
            if all(origin is not None for origin in origins):
                made.root = source.root
                if source.incoming is not None:
                    made.incoming = _Norms(*(norm[origins[0]] for norm in source.incoming))
            made.sources = [(b[1], origin) for b, origin in zip(before, origins, strict=True)]
        elif kind in ("conv", "linear") or _holds_parameter(args, kwargs):
            for _, source, _ in before:
                source.read(None)
        if made is None and unit is not None:
            made = _UnitWeights(result.shape[unit.number], None, object())
        if made is not None:
            self._weights[result] = made
        else:
            self._weights.pop(result, None)  # type: ignore[no-untyped-call]


def _have_one_root(before: list[_Before]) -> bool:
    return len({id(source.root) for _, source, _ in before}) == 1


def _is_unit_wise(operation: str, kind: str) -> bool:
    return kind in ("norm", "pool") or operation in _UNIT_BY_UNIT


def _origins(source: _Before, axes: Axes | None, result: Tensor, operation: str) -> IntArray | None:
    """Return the index in the source's unit axis of each position in the result's, or None."""
    tensor, weights, before = source
    count = len(weights.outgoing.l1)
    if before is None or before.unit is None or axes is None or axes.unit is None:
        return None
    if operation not in MOVES:
        same = result.ndim == tensor.ndim and axes.unit.number == before.unit.number
        return np.arange(count) if same and result.shape[axes.unit.number] == count else None
    # Labels are renumbered in order after a move, which is only unique if none was lost.
    labels, moved = before.unit.indices.numpy(), axes.unit.indices.numpy().astype(np.int64)
    if len(np.unique(labels)) != count or len(np.unique(moved)) != count:
        return None
    return np.argsort(labels)[moved]


def _weights(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FloatArray:
    weights: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    return weights.detach().cpu().double().numpy()


def _groups(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return int(args[6] if len(args) > 6 else kwargs.get("groups", 1))


def _norms(weights: FloatArray, groups: int, *, by_input: bool) -> _Norms:
    """Return the norms of each row of weights (row, column in its group, ...), or each column."""
    by_group = weights.reshape(groups, -1, weights.shape[1], int(np.prod(weights.shape[2:])))
    axes = (1, 3) if by_input else (2, 3)
    return _Norms(np.abs(by_group).sum(axes).ravel(), (by_group**2).sum(axes).ravel())


def _holds_parameter(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(tensor, nn.Parameter) for tensor in tensors_in((args, kwargs)))
