"""Norms of the weights into and out of each unit, found by watching the network run once.

Zhou, Sun, Bau & Torralba, "Revisiting the importance of individual units in CNNs via ablation"
(arXiv:1806.02891), predict a unit's importance from the L1 norm of its filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from unitprobe.layers import (
    CallWatcher,
    Selection,
    as_input,
    evaluating,
    inside,
    list_layers,
    select_layers,
)
from unitprobe.layers.axes import Axes, AxisFollower
from unitprobe.layers.calls import Call
from unitprobe.layers.discover import example_input
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
from unitprobe.models import Network, as_network
from unitprobe.typing import FloatArray

IndexArray = NDArray[np.int64]

_UNIT_BY_UNIT = (
    NONLINEARITIES | POINTWISE | COPIES | DROPOUTS | RESAMPLES | MOVES | frozenset({"pad"})
)


class _Norms(NamedTuple):
    """L1 norm and sum of squares of the weights at each place along a unit axis."""

    l1: FloatArray
    squares: FloatArray


class _Reading:
    """One tensor with known units: what was read to make it, and what reads it."""

    def __init__(self, places: int, incoming: _Norms | None, root: object) -> None:
        self.incoming = incoming
        self.root = root  # the same for all that was made of one source, unit by unit
        # With the place that each place comes from, None if that cannot be told.
        self.sources: list[tuple[_Reading, IndexArray | None]] = []
        self.outgoing = _Norms(np.zeros(places), np.zeros(places))
        self.is_read = False
        self.cannot_be_told = False

    def read(self, weights: _Norms | None) -> None:
        """Count the weights that read each place, here and in what this was made of."""
        self.is_read = True
        if weights is None:
            self.cannot_be_told = True
        else:
            self.outgoing.l1[:] += weights.l1
            self.outgoing.squares[:] += weights.squares
        for source, places in self.sources:
            if weights is None or places is None:
                source.read(None)
            else:
                count = len(source.outgoing.l1)
                l1, squares = np.zeros(count), np.zeros(count)
                np.add.at(l1, places, weights.l1)
                np.add.at(squares, places, weights.squares)
                source.read(_Norms(l1, squares))

    def dataset(self) -> xr.Dataset:
        unknown = np.full(len(self.outgoing.l1), np.nan)
        incoming = self.incoming or _Norms(unknown, unknown)
        told = self.is_read and not self.cannot_be_told
        outgoing = self.outgoing if told else _Norms(unknown, unknown)
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
    """Norms of the incoming and outgoing weights of each unit.

    Parameters
    ----------
    model : Network or nn.Module
        The network. It runs twice in evaluation mode and is left as it was found.
    layers : str, sequence of str or callable
        Which layers; see `unitprobe.layers.select_layers`.
    example : Tensor, optional
        Stimuli (stimulus, channel, y, x) to run it on; noise of the network's own input size if
        None.

    Returns
    -------
    dict of str to Dataset
        By layer, in execution order, each (unit,): ``incoming_l1``, ``incoming_l2``,
        ``outgoing_l1`` and ``outgoing_l2``, all at least 0; NaN where there are no such weights,
        where they cannot be told, and in a layer that `example` reaches only in part.

    Raises
    ------
    ModelError
        The size of the input is not known, or the network does not run on it.
    LayerNotFoundError
        The selection matches no layer.

    Notes
    -----
    Incoming are the weights of the unit's own filter, or row, in the convolution or linear layer
    that makes it, without the bias. A layer made of one such layer unit by unit (normalisation,
    nonlinearity, dropout, pooling, products with constants) has that layer's weights. What is made
    of several, as the sum of a residual connection, has no incoming norm. Outgoing are the weights
    that read the unit in convolutions and linear layers, straight or through such operations, all
    together where several read it, at all positions where positions are flattened. A read through
    a sum with another layer, or by a product of activations, is not counted; with a read through a
    split, a shuffle between groups or by weights of another kind, outgoing norms cannot be told.

    The scale of a normalisation is not folded in: with Zhou et al. (arXiv:1806.02891), it is the
    norm of the filter. Under batch normalisation the size of a filter does not change what
    the network computes.

    Examples
    --------
    >>> import torch
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    ... )
    >>> with torch.no_grad():
    ...     _ = network[0].weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 1.0], [0.0, 0.0]]))
    ...     _ = network[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5]]))
    >>> norms = weight_norms(network, layers="relu", example=torch.ones(1, 2))["1"]
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
    reader = _Reader(module, stimuli)
    devices = [stimuli.device] if stimuli.device.type == "cuda" else []
    with (
        evaluating(module),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        reader.watcher,
        reader.watcher.alone(),
    ):
        module(stimuli)
    found = {}
    for layer in chosen:
        reading = reader.calls.get((Call(layer.owner, layer.operation, layer.call), layer.output))
        if reading is None or len(reading.outgoing.l1) != layer.units:
            # The path depends on the data, and this pass took another.
            assert layer.units is not None
            reading = _Reading(layer.units, None, object())
        found[layer.name] = reading.dataset()
    return found


#: A tensor that an operation reads, with what is known of it before.
_Before = tuple[Tensor, _Reading, Axes | None]


class _Reader:
    """Follows units from the weights that make them to the weights that read them."""

    def __init__(self, module: nn.Module, stimuli: Tensor) -> None:
        self.calls: dict[tuple[Call, Path], _Reading] = {}
        self.watcher = CallWatcher(module, self.report)
        self._axes = AxisFollower()
        self._axes.start(stimuli)
        self._readings: WeakTensorKeyDictionary[_Reading] = WeakTensorKeyDictionary()  # type: ignore[type-arg]
        self._readings[stimuli] = _Reading(stimuli.shape[1], None, object())

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
                (tensor, self._readings[tensor], self._axes.axes(tensor))
                for tensor in dict.fromkeys(tensors_in((args, kwargs)))
                if tensor in self._readings
            ]
            self._axes.follow(call.operation, what, args, kwargs, output)
            for result in tensors_in(output):
                self._made(call.operation, args, kwargs, before, result)
        for path, tensor in named_tensors(output):
            if tensor in self._readings:
                self.calls[call, path] = self._readings[tensor]

    def _made(
        self,
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        before: list[_Before],
        result: Tensor,
    ) -> None:
        """Note what one operation read and made."""
        axes = self._axes.axes(result)
        unit = None if axes is None else axes.unit
        kind = kind_of_operation(operation)
        made: _Reading | None = None
        if kind in ("conv", "linear") and operation != "bilinear" and len(before) == 1:
            weights = _weights(args, kwargs)
            transposed = operation.startswith("conv_transpose")
            groups = _groups(args, kwargs) if kind == "conv" else 1
            read, reading, read_axes = before[0]
            by_axis = 1 if kind == "conv" else read.ndim - 1
            units = None if read_axes is None else read_axes.unit
            reads_units = units is not None and units.number == by_axis
            reading.read(_norms(weights, groups, by_input=not transposed) if reads_units else None)
            if unit is not None:
                incoming = _norms(weights, groups, by_input=transposed)
                made = _Reading(result.shape[unit.number], incoming, object())
        elif before and _is_unit_wise(operation, kind) and _have_one_root(before):
            # What moves by an index in another tensor is not followed.
            followed = operation not in MOVES or sum(isinstance(a, Tensor) for a in args) == 1
            places = [_places(s, axes, result, operation) if followed else None for s in before]
            reading = before[0][1]
            made = _Reading(0 if unit is None else result.shape[unit.number], None, object())
            if all(place is not None for place in places):
                made.root = reading.root
                if reading.incoming is not None:
                    made.incoming = _Norms(*(norm[places[0]] for norm in reading.incoming))
            made.sources = [
                (source[1], place) for source, place in zip(before, places, strict=True)
            ]
        elif kind in ("conv", "linear") or _holds_parameter(args, kwargs):
            for _, reading, _ in before:
                reading.read(None)
        if made is None and unit is not None:
            made = _Reading(result.shape[unit.number], None, object())
        if made is not None:
            self._readings[result] = made
        else:
            self._readings.pop(result, None)  # type: ignore[no-untyped-call]


def _have_one_root(before: list[_Before]) -> bool:
    return len({id(reading.root) for _, reading, _ in before}) == 1


def _is_unit_wise(operation: str, kind: str) -> bool:
    return kind in ("norm", "pool") or operation in _UNIT_BY_UNIT


def _places(
    source: _Before, axes: Axes | None, result: Tensor, operation: str
) -> IndexArray | None:
    """Return which place of the source's unit axis each place of the result's comes from."""
    tensor, reading, before = source
    count = len(reading.outgoing.l1)
    if before is None or before.unit is None or axes is None or axes.unit is None:
        return None
    if operation not in MOVES:
        same = result.ndim == tensor.ndim and axes.unit.number == before.unit.number
        return np.arange(count) if same and result.shape[axes.unit.number] == count else None
    # Moved labels are numbered anew in their order; that tells places only if none was lost.
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
    """Return the norms over each row of weights (row, column in its group, ...), or column."""
    by_group = weights.reshape(groups, -1, weights.shape[1], int(np.prod(weights.shape[2:])))
    axes = (1, 3) if by_input else (2, 3)
    return _Norms(np.abs(by_group).sum(axes).ravel(), (by_group**2).sum(axes).ravel())


def _holds_parameter(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(tensor, nn.Parameter) for tensor in tensors_in((args, kwargs)))
