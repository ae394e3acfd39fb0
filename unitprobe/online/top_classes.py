"""The classes of the stimuli at the top of each unit's ranking, exactly, in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unitprobe import metrics
from unitprobe.errors import OptionError
from unitprobe.metrics.ranking import K
from unitprobe.online.accumulator import (
    Accumulator,
    Results,
    as_label_tensor,
    check_class_count,
    results,
)
from unitprobe.typing import Array


class TopClasses(Accumulator):
    """The classes of the `k` highest responses of each unit, and of all that tie with the last.

    Memory: 2 k numbers for each unit, and one for each class and unit.

    Parameters
    ----------
    class_count : int
        The number of classes C.
    k : int
        How many responses.

    Examples
    --------
    >>> import numpy as np
    >>> top = TopClasses(class_count=2, k=2)
    >>> top.update(np.array([[1.0], [3.0]]), np.array([0, 1]))
    >>> top.update(np.array([[1.0], [1.0]]), np.array([0, 1]))
    >>> top.precision_at_k().T  # one of class 1, and of three at 1 the share of each class
    array([[0.33333333, 0.66666667]])
    """

    def __init__(self, class_count: int, k: int = K) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)
        if k < 1:
            raise OptionError(f"k={k} must be at least 1")
        self.k = k

    def _settings(self) -> dict[str, Any]:
        return {"class_count": self.class_count, "k": self.k}

    def _begin(self, units: int, device: torch.device) -> None:
        self._values = torch.empty((0, units), dtype=torch.float64, device=device)
        self._classes = torch.empty((0, units), dtype=torch.int64, device=device)
        # By class, of all that equal the last of the values, whether or not they are among them.
        self._last = torch.zeros((self.class_count, units), dtype=torch.float64, device=device)
        self._counts = torch.zeros(self.class_count, dtype=torch.float64, device=device)

    def update(self, responses: Array, labels: Array) -> None:
        """Add responses (stimulus, unit) and labels (stimulus,) of some stimuli.

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, or the number of
            units differs.
        LabelError
            The labels are not integers 0..C-1, one for each stimulus.
        """
        x = self._take(responses)
        classes = as_label_tensor(labels, self.class_count, x)
        part = TopClasses(self.class_count, self.k)
        part.stimuli = len(x)
        part._values, row = torch.topk(x, min(self.k, len(x)), dim=0)
        part._classes = classes[row]
        equal = (x == part._values[-1]).to(torch.float64)
        part._last = metrics.class_sums(equal, classes, self.class_count)
        part._counts = torch.bincount(classes, minlength=self.class_count).to(torch.float64)
        self._absorb(part)

    def _add(self, other: TopClasses) -> None:
        values = torch.cat([self._values, other._values])
        classes = torch.cat([self._classes, other._classes])
        kept, row = torch.topk(values, min(self.k, len(values)), dim=0)
        last = torch.zeros_like(self._last)
        for part in (self, other):
            if part.stimuli:
                at_last = part._values[-1] == kept[-1]
                last = last + torch.where(at_last, part._last, part._at(kept[-1]))
        self._values, self._classes, self._last = kept, classes.gather(0, row), last
        self._counts = self._counts + other._counts

    def _at(self, value: Tensor) -> Tensor:
        """Count by class the values that equal one (unit,)."""
        return self._by_class(self._values == value)

    def _by_class(self, chosen: Tensor) -> Tensor:
        counts = torch.zeros_like(self._last)
        return counts.scatter_add_(0, self._classes, chosen.to(counts.dtype))

    def precision_at_k(self) -> Results:
        """Return `unitprobe.metrics.precision_at_k` of every class: (class_name, unit).

        Raises
        ------
        OptionError
            There were fewer than `k` stimuli.
        """
        n = self._check_begun()
        if n < self.k:
            raise OptionError(f"k={self.k} is not between 1 and the {n} stimuli")
        above = self._by_class(self._values > self._values[-1])
        share = (self.k - above.sum(0)) / self._last.sum(0)
        return results(_where_defined((above + self._last * share) / self.k, self._counts))


class TopRun(Accumulator):
    """The responses of each unit to one class that are above every response to another.

    Memory: a number for each such response, of the unit that has most, and unit; at most as many
    as the largest class has stimuli.

    Parameters
    ----------
    class_count : int
        The number of classes C.

    Examples
    --------
    >>> import numpy as np
    >>> run = TopRun(class_count=2)
    >>> run.update(np.array([[5.0], [3.0]]), np.array([1, 0]))
    >>> run.update(np.array([[4.0], [2.0]]), np.array([1, 1]))
    >>> run.top_class_selectivity().T
    array([[0., 2.]])
    """

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)

    def _settings(self) -> dict[str, Any]:
        return {"class_count": self.class_count}

    def _begin(self, units: int, device: torch.device) -> None:
        self._class = torch.zeros(units, dtype=torch.int64, device=device)
        self._rest = torch.full((units,), -torch.inf, dtype=torch.float64, device=device)
        self._run = torch.empty((0, units), dtype=torch.float64, device=device)  # else -inf
        self._counts = torch.zeros(self.class_count, dtype=torch.float64, device=device)

    def update(self, responses: Array, labels: Array) -> None:
        """Add responses (stimulus, unit) and labels (stimulus,) of some stimuli.

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, or the number of
            units differs.
        LabelError
            The labels are not integers 0..C-1, one for each stimulus.
        """
        x = self._take(responses)
        classes = as_label_tensor(labels, self.class_count, x)
        part = TopRun(self.class_count)
        part.stimuli = len(x)
        part._class = classes[x.argmax(0)]
        of_class = classes[:, None] == part._class
        part._rest = torch.where(of_class, -torch.inf, x).amax(0)
        part._run = _above(torch.where(of_class, x, -torch.inf), part._rest)
        part._counts = torch.bincount(classes, minlength=self.class_count).to(torch.float64)
        self._absorb(part)

    def _add(self, other: TopRun) -> None:
        # Where both are equal and of two classes, neither has a run.
        best = torch.where(other._highest > self._highest, other._class, self._class)
        parts = (self, other)
        rest = torch.maximum(
            *(torch.where(part._class == best, part._rest, part._highest) for part in parts)
        )
        runs = [torch.where(part._class == best, part._run, -torch.inf) for part in parts]
        self._class, self._rest, self._run = best, rest, _above(torch.cat(runs), rest)
        self._counts = self._counts + other._counts

    @property
    def _highest(self) -> Tensor:
        """The highest response of each unit: (unit,)."""
        return torch.cat([self._run, self._rest[None]]).amax(0)

    def top_class_selectivity(self) -> Results:
        """Return `unitprobe.metrics.top_class_selectivity` of every class: (class_name, unit)."""
        self._check_begun()
        lengths = (self._run > -torch.inf).sum(0).to(torch.float64)
        run = torch.zeros((self.class_count, len(lengths)), dtype=torch.float64)
        run = run.to(lengths.device).scatter_(0, self._class[None], lengths[None])
        return results(_where_defined(run, self._counts))


def _above(values: Tensor, bound: Tensor) -> Tensor:
    """Return the values (rank, unit) above a bound (unit,), highest first, and -inf for others."""
    chosen = torch.where(values > bound, values, -torch.inf)
    length = int((chosen > -torch.inf).sum(0).max())
    return torch.topk(chosen, length, dim=0).values


def _where_defined(values: Tensor, counts: Tensor) -> Tensor:
    """Return (class_name, unit) values, NaN for a class without stimuli or without a rest."""
    defined = (counts > 0) & (counts < counts.sum())
    return torch.where(defined[:, None], values, torch.nan)
