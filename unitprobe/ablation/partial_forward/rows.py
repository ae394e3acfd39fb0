"""Which stimuli of which variants are computed downstream of a layer.

The variants of an activation stand one after another along its stimuli: a row is one stimulus of
one variant. Where a unit is what it is replaced by already, as a ReLU that is silent on a stimulus,
the row's logits are those of the intact network, and it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unitprobe.ablation.partial_forward.network_graph import Batched
from unitprobe.ablation.partial_forward.unit_change import Narrow, is_channels_last, split, tile


class Rows:
    """The rows of a run that are computed, in order.

    Parameters
    ----------
    chosen : Tensor of bool
        (variant, stimulus), True where the row is computed.

    Attributes
    ----------
    count : int
        Number of rows.

    Examples
    --------
    >>> rows = Rows(torch.tensor([[True, False], [True, True]]))
    >>> rows.count
    3
    >>> rows.spread(torch.tensor([[1.0], [2.0]]), Batched(0, 1)).flatten()
    tensor([1., 1., 2.])
    """

    def __init__(self, chosen: Tensor) -> None:
        self._variants, self._stimuli = chosen.shape
        self._every = bool(chosen.all())
        self._variant_of, self._stimulus_of = chosen.nonzero(as_tuple=True)
        self._places = self._variant_of * self._stimuli + self._stimulus_of
        self.count = len(self._places)

    @property
    def stimulus_of(self) -> Tensor:
        """(row,), the stimulus of each."""
        return self._stimulus_of

    def choose(self, activations: Tensor) -> Tensor:
        """Return the rows of activations (variant * stimulus, ...)."""
        return activations if self._every else _gather(activations, self._places)

    def spread(self, value: Tensor, place: Batched) -> Tensor:
        """Return what an intact value is in every row."""
        axis = place.axis
        if self._every:
            return tile(value, self._variants, axis)
        if place == Batched(0, 1):
            return _gather(value, self._stimulus_of)
        inner = (self._stimuli, place.times)
        by_stimulus = value.reshape(*value.shape[:axis], *inner, *value.shape[axis + 1 :])
        return by_stimulus.index_select(axis, self._stimulus_of).flatten(axis, axis + 1)

    def widen(self, narrow: Narrow) -> Tensor:
        """Return the whole activations of a narrow one, (row, unit, ...)."""
        return self.choose(narrow.widen())

    def combine(
        self, operation: Callable[[Tensor, Tensor], Any], activations: Tensor, intact: Tensor
    ) -> Tensor:
        """Apply an operation to activations (row, ...) and intact ones (stimulus, ...)."""
        if not self._every:
            whole: Tensor = operation(activations, _gather(intact, self._stimulus_of))
            return whole
        by_variant: Tensor = operation(split(activations, self._variants), intact)
        return by_variant.flatten(0, 1)

    def add_change(self, activations: Tensor, narrow: Narrow) -> None:
        """Add the change of a narrow activation to activations (row, unit, ...), in place."""
        by_unit = activations.movedim(narrow.axis, 1)
        change = narrow.change.movedim(narrow.axis, 1)
        places = torch.arange(self.count, device=activations.device)
        units = narrow.units[self._variant_of]
        by_unit[places, units] += change[self._stimulus_of, self._variant_of]


def _gather(value: Tensor, places: Tensor) -> Tensor:
    """Return some rows, channels last if the value is."""
    if is_channels_last(value):
        return value.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)
    return value[places]
