"""What is silenced: units of a layer, groups of them, or directions in its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unitprobe.layers import Layer


@dataclass(frozen=True)
class Targets:
    """What is ablated at one layer, one target after another.

    A layer's activation has *coordinates*: along its unit axis, the units themselves, or, where
    `directions` are given, its projections on them.

    Attributes
    ----------
    layer : Layer
        The layer.
    groups : tuple of tuples of int
        Of each target, the coordinates that are replaced together; one for a single unit.
    directions : Tensor or None
        (direction, unit), rows of length 1, orthogonal within a group. None: the unit axes.
    """

    layer: Layer
    groups: tuple[tuple[int, ...], ...]
    directions: Tensor | None = None

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
            As the layer gives it.
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
            As the layer gives it.
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
