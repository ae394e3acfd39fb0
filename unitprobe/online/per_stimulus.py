"""Values of single stimuli in one pass: the top stimuli of each unit, population sparseness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError
from unitprobe.online.accumulator import Accumulator, Results, results
from unitprobe.typing import Array


class TopStimuli(Accumulator):
    """The `k` stimuli that drive each unit most.

    Memory: 2 k numbers for each unit.

    Parameters
    ----------
    k : int
        How many stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> top = TopStimuli(k=2)
    >>> top.update(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0, 1]))
    >>> top.update(np.array([[3.0, 5.0]]), np.array([2]))
    >>> top.top_stimuli()
    array([[1, 2],
           [2, 0]])
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise OptionError(f"k={k} must be at least 1")
        self.k = k

    def _settings(self) -> dict[str, Any]:
        return {"k": self.k}

    def _begin(self, units: int, device: torch.device) -> None:
        self._values = torch.empty((0, units), dtype=torch.float64, device=device)
        self._indices = torch.empty((0, units), dtype=torch.int64, device=device)

    def update(self, responses: Array, indices: Array) -> None:
        """Add responses (stimulus, unit) of the stimuli with these indices (stimulus,).

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, the number of units
            differs, or there is not one index for each stimulus.
        """
        x = self._take(responses)
        index = torch.as_tensor(indices, dtype=torch.int64, device=x.device)
        _check_indices(index, x)
        part = TopStimuli(self.k)
        part.stimuli = len(x)
        part._values, part._indices = self._shorten(x, index)
        self._absorb(part)

    def _shorten(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k rows of each unit, in the order of their indices."""
        order = torch.argsort(index)
        x, index = x[order], index[order]
        if len(x) <= self.k:
            return x, index[:, None].expand(x.shape)
        lowest = torch.topk(x, self.k, dim=0).values[-1]
        above, equal = x > lowest, x == lowest
        # Of those equal to the last that is kept, the first in order fill the remaining ranks.
        kept = above | (equal & (torch.cumsum(equal, 0) <= self.k - above.sum(0)))
        row = kept.T.nonzero()[:, 1].reshape(x.shape[1], self.k).T
        return torch.gather(x, 0, row), index[row]

    def _add(self, other: TopStimuli) -> None:
        values = torch.cat([self._values, other._values])
        indices = torch.cat([self._indices, other._indices])
        by_index = torch.argsort(indices, dim=0)
        values = torch.gather(values, 0, by_index)
        by_value = torch.sort(values, dim=0, descending=True, stable=True).indices[: self.k]
        self._values = torch.gather(values, 0, by_value)
        self._indices = torch.gather(torch.gather(indices, 0, by_index), 0, by_value)

    def top_stimuli(self) -> Results:
        """Return `unitprobe.metrics.top_stimuli`: (rank, unit), min(k, stimuli) ranks."""
        self._check_begun()
        return results(self._indices)

    def responses(self) -> Results:
        """Return the responses to these stimuli, highest first: (rank, unit)."""
        self._check_begun()
        return results(self._values)


class PopulationSparseness(Accumulator):
    """The population sparseness of every stimulus.

    Memory: 2 numbers for each stimulus. It is the only accumulator that grows with their number.

    Examples
    --------
    >>> import numpy as np
    >>> population = PopulationSparseness()
    >>> population.update(np.array([[0.0, 3.0]]), np.array([1]))
    >>> population.update(np.array([[1.0, 1.0]]), np.array([0]))
    >>> population.population_sparseness()
    array([0., 1.])
    """

    def _settings(self) -> dict[str, Any]:
        return {}

    def _begin(self, units: int, device: torch.device) -> None:
        # On the CPU at once: these wait until the end.
        self._parts: list[tuple[Results, Results]] = []
        self._home = torch.empty(0, device=device)

    def update(self, responses: Array, indices: Array) -> None:
        """Add responses (stimulus, unit) of the stimuli with these indices (stimulus,).

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, the number of units
            differs, or there is not one index for each stimulus.
        """
        x = self._take(responses)
        index = torch.as_tensor(indices, dtype=torch.int64)
        _check_indices(index, x)
        self._parts.append((results(index), results(metrics.population_sparseness(x))))
        self.stimuli += len(x)

    def _add(self, other: PopulationSparseness) -> None:
        self._parts = self._parts + other._parts

    def population_sparseness(self) -> Results:
        """Return `unitprobe.metrics.population_sparseness` by ascending index: (stimulus,)."""
        self._check_begun()
        values = np.concatenate([values for _, values in self._parts])
        return values[self._order()]

    def indices(self) -> Results:
        """Return the indices of the stimuli that were seen, ascending: (stimulus,)."""
        self._check_begun()
        return np.concatenate([indices for indices, _ in self._parts])[self._order()]

    def _order(self) -> Results:
        indices = np.concatenate([indices for indices, _ in self._parts])
        return np.argsort(indices, kind="stable")


def _check_indices(indices: Tensor, responses: Tensor) -> None:
    if indices.shape != responses.shape[:1]:
        raise ResponseError(
            f"{len(responses)} stimuli need one index each, got shape {tuple(indices.shape)}"
        )
