"""What is silenced: units of a layer, groups of units, or directions in the space of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unitprobe.ablation.forward_passes import run
from unitprobe.errors import LayerError, OptionError
from unitprobe.layers import Layer, evaluating, unit_indices
from unitprobe.models import Network
from unitprobe.probe import watch_layers

#: Units, groups and directions of every layer, or of the layers by name; see `unitprobe.ablate`.
Units = int | Sequence[int] | Mapping[str, int | Sequence[int]]
Groups = Sequence[Sequence[int]] | Mapping[str, Sequence[Sequence[int]]]
Directions = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Targets:
    """What is ablated at one layer, one target after another.

    The *coordinates* of an activation are its units, or its projections on `directions` if these
    are given.

    Attributes
    ----------
    layer : Layer
        The layer.
    groups : tuple of tuples of int
        The coordinates that each target replaces together; one for a single unit.
    directions : Tensor or None
        (direction, unit), rows of length 1, orthogonal within a group. None: the unit axes.
    other_calls : tuple of Layer
        Other calls of the module of `layer`, whose coordinates are replaced too: silencing the
        weights of a module silences every call of it.
    """

    layer: Layer
    groups: tuple[tuple[int, ...], ...]
    directions: Tensor | None = None
    other_calls: tuple[Layer, ...] = ()

    def of_call(self, layer: Layer) -> Targets:
        """Return the same targets at another call, whose unit axis may be another one."""
        return self if layer.name == self.layer.name else replace(self, layer=layer)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def coordinate_count(self) -> int:
        """How many coordinates the layer has."""
        assert self.layer.units is not None
        return self.layer.units if self.directions is None else len(self.directions)

    @property
    def single_units(self) -> list[int] | None:
        """The unit of each target, if each is one single unit."""
        if self.directions is not None or any(len(group) != 1 for group in self.groups):
            return None
        return [group[0] for group in self.groups]

    def coordinates(self, activation: Tensor, which: Sequence[int] | None = None) -> Tensor:
        """Return some coordinates of an activation, all if None.

        Parameters
        ----------
        activation : Tensor
            The activation of the layer.
        which : sequence of int, optional
            The coordinates.

        Returns
        -------
        Tensor
            (stimulus, coordinate, *positions).
        """
        assert self.layer.unit_axis is not None
        moved = activation.movedim(self.layer.unit_axis, 1)
        if self.directions is not None:
            directions = self._directions(activation, which)
            return torch.einsum("du,nu...->nd...", directions, moved.to(directions.dtype))
        return moved if which is None else moved[:, list(which)]

    def replace(self, activation: Tensor, group: Sequence[int], values: Tensor) -> Tensor:
        """Return a copy of an activation whose coordinates in `group` are `values`.

        Parameters
        ----------
        activation : Tensor
            The activation of the layer.
        group : sequence of int
            The coordinates.
        values : Tensor
            Their new values, broadcast to (stimulus, coordinate, *positions).
        """
        assert self.layer.unit_axis is not None
        if self.directions is None:
            replaced = activation.clone()
            moved = replaced.movedim(self.layer.unit_axis, 1)
            moved[:, list(group)] = values.to(activation.dtype)
            return replaced
        directions = self._directions(activation, group)
        change = values - self.coordinates(activation, group)
        moved = torch.einsum("du,nd...->nu...", directions, change)
        return (activation + moved.movedim(1, self.layer.unit_axis)).to(activation.dtype)

    def _directions(self, like: Tensor, which: Sequence[int] | None) -> Tensor:
        assert self.directions is not None
        chosen = self.directions if which is None else self.directions[list(which)]
        precision = torch.float64 if like.dtype == torch.float64 else torch.float32
        return chosen.to(like.device, precision)


def choose_targets(
    layer: Layer, units: Units | None, groups: Groups | None, directions: Directions | None
) -> Targets:
    """Return what is ablated at a layer: all its units if nothing is given.

    Raises
    ------
    OptionError
        More than one is given, a unit does not exist, or directions do not fit the layer.
    """
    assert layer.units is not None
    if sum(given is not None for given in (units, groups, directions)) > 1:
        raise OptionError("units=, groups= and directions= exclude each other; give one")
    if directions is not None:
        rows = _rows(layer, _of_layer(layer, directions))
        return Targets(layer, tuple((row,) for row in range(len(rows))), rows)
    where = f"layer {layer.name!r}"
    if groups is not None:
        several = _of_layer(layer, groups)
        if isinstance(several, str) or not np.iterable(several):
            raise OptionError(f"groups={several!r} is not a list of groups; give [[0, 1], [2, 3]]")
        given = [unit_indices(group, layer.units, where) for group in several]
    elif units is not None:
        given = [[unit] for unit in unit_indices(_of_layer(layer, units), layer.units, where)]
    else:
        given = [[unit] for unit in range(layer.units)]
    if not given or not all(given):
        raise OptionError(
            "units= or groups= is empty or has an empty group; give indices such as [0, 1], or "
            "None for all units"
        )
    return Targets(layer, tuple(tuple(group) for group in given))


def _of_layer(layer: Layer, given: object) -> Any:
    if not isinstance(given, Mapping):
        return given
    if layer.name not in given:
        raise OptionError(
            f"layer {layer.name!r} is ablated, but only {', '.join(map(repr, given))} are given; "
            "add it, or choose these layers with layers="
        )
    return given[layer.name]


def _rows(layer: Layer, directions: ArrayLike) -> Tensor:
    rows = torch.as_tensor(np.asarray(directions, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != layer.units:
        raise OptionError(
            f"directions of shape {tuple(rows.shape)} do not fit layer {layer.name!r}, which has "
            f"{layer.units} units; give an array (direction, unit)"
        )
    length = rows.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(rows).all()) or bool((length == 0).any()):
        raise OptionError(f"directions for layer {layer.name!r} have a zero row, NaN or infinity")
    normalized: Tensor = rows / length
    return normalized


def targets_of_weights(
    network: Network, example: Tensor, swept: Sequence[Targets], listed: Sequence[Layer]
) -> list[Targets]:
    """Return the same units of the convolutions and linear layers that make those of each layer.

    Raises
    ------
    OptionError
        The targets are directions, which have no weights of their own.
    LayerError
        The units of a layer are not made by one convolution or linear layer, or are those of
        another layer too.
    """
    moved: dict[str, Targets] = {}
    for targets in swept:
        if targets.directions is not None:
            raise OptionError("mode='weights' cannot silence directions; choose another mode")
        made_by = _layer_that_makes(targets.layer, listed)
        if not _reaches(network, made_by, targets.layer, example):
            raise _not_made_by_one(targets.layer, made_by)
        if made_by.name in moved:
            raise LayerError(
                f"mode='weights': the units of layer {targets.layer.name!r} and of one before it "
                f"are both made by {made_by.name!r}; choose one of them"
            )
        moved[made_by.name] = Targets(
            made_by, targets.groups, other_calls=_other_calls(network, made_by, listed)
        )
    return list(moved.values())


def _other_calls(network: Network, layer: Layer, listed: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the other calls of modules that have the weights of a layer.

    Raises
    ------
    LayerError
        The layer is an operation, which may share its weights with any other one.
    """
    if layer.operation is not None:
        same = [
            other
            for other in listed
            if (other.owner, other.operation) == (layer.owner, layer.operation)
        ]
        if len(same) > 1:
            raise LayerError(
                f"mode='weights': {layer.name!r} is one of {len(same)} operations of the same kind "
                "that may share its weights; use modules, or mode='zero'"
            )
        return ()
    modules = dict(network.module.named_modules(remove_duplicate=False))
    weight = getattr(modules.get(layer.owner), "weight", None)
    return tuple(
        other
        for other in listed
        if other.name != layer.name
        and other.operation is None
        and other.kind in ("conv", "linear")
        and weight is not None
        and getattr(modules.get(other.owner), "weight", None) is weight
    )


def _layer_that_makes(layer: Layer, listed: Sequence[Layer]) -> Layer:
    """Return the convolution or linear layer that makes the units of a layer."""
    between: Layer = layer
    for before in reversed(listed[: listed.index(layer) + 1]):
        if before.kind in ("conv", "linear") and before.units == layer.units:
            return before
        part = before.part_of is not None  # an operation of the nonlinearity
        if before is not layer and not part and before.kind not in ("norm", "dropout"):
            between = before
            break
    raise _not_made_by_one(layer, between)


def _reaches(network: Network, source: Layer, layer: Layer, example: Tensor) -> bool:
    """Return whether a layer depends on an earlier one, which may be in another branch."""
    if source is layer:
        return True
    shift = 0.0
    seen: list[Tensor] = []

    def visit(at: Layer, activation: Tensor, _: object) -> Tensor | None:
        if at.name == source.name:
            return activation + shift
        seen.append(activation.clone())
        return None

    with (
        evaluating(network.module),
        torch.no_grad(),
        watch_layers(network.module, [source, layer], visit) as watcher,
    ):
        # A rectified unit may pass on changes of one sign only.
        for added in (0.0, 1000.0, -1000.0):
            shift = added
            run(network, example, watcher)
    return any(not torch.equal(other, seen[0]) for other in seen[1:])


def _not_made_by_one(layer: Layer, before: Layer) -> LayerError:
    return LayerError(
        f"mode='weights': the units of layer {layer.name!r} are not made by one convolution or "
        f"linear layer alone (it follows {before.name!r}); choose other layers or mode='zero'"
    )
