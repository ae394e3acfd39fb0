"""How many stimuli each unit responds to, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unitprobe import metrics
from unitprobe.online.accumulator import (
    Accumulator,
    Results,
    as_label_tensor,
    check_class_count,
    results,
)
from unitprobe.typing import Array


class ActivityCounts(Accumulator):
    """Stimuli that each unit responds to, by class; those it responds to with exactly 0.

    Memory: a number for each class and unit.

    Parameters
    ----------
    class_count : int
        The number of classes C.

    Examples
    --------
    >>> import numpy as np
    >>> activity = ActivityCounts(class_count=2)
    >>> activity.update(np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]), np.array([0, 0, 1]))
    >>> activity.class_fraction_active(), activity.dead()
    (array([[0.5, 0. ],
           [1. , 0. ]]), array([False,  True]))
    """

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)

    def _settings(self) -> dict[str, Any]:
        return {"class_count": self.class_count}

    def _begin(self, units: int, device: torch.device) -> None:
        self._counts = torch.zeros(self.class_count, dtype=torch.float64, device=device)
        self._active = torch.zeros((self.class_count, units), dtype=torch.float64, device=device)
        self._negative = torch.zeros(units, dtype=torch.int64, device=device)
        self._zero = torch.zeros(units, dtype=torch.int64, device=device)

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
        self._counts = self._counts + torch.bincount(classes, minlength=self.class_count)
        self._active = self._active + metrics.class_sums(x > 0, classes, self.class_count)
        self._negative = self._negative + (x < 0).sum(0)
        self._zero = self._zero + (x == 0).sum(0)
        self.stimuli += len(x)

    def _add(self, other: ActivityCounts) -> None:
        self._counts = self._counts + other._counts
        self._active = self._active + other._active
        self._negative = self._negative + other._negative
        self._zero = self._zero + other._zero

    def class_counts(self) -> Results:
        """Return the number of stimuli of each class, 0 before the first: (class_name,)."""
        return results(self._counts) if self.stimuli else np.zeros(self.class_count)

    def fraction_active(self) -> Results:
        """Return `unitprobe.metrics.fraction_active`: (unit,)."""
        n = self._check_begun()
        return results(self._active.sum(0)) / n

    def class_fraction_active(self) -> Results:
        """Return the share of the stimuli of each class above 0: (class_name, unit).

        NaN in the row of a class without stimuli.
        """
        self._check_begun()
        return results(
            self._active / torch.where(self._counts > 0, self._counts, torch.nan)[:, None]
        )

    def dead(self) -> Results:
        """Return `unitprobe.metrics.dead`: (unit,), boolean."""
        n = self._check_begun()
        return results(self._zero == n)

    def zeros(self) -> Results:
        """Return to how many stimuli each unit responds with exactly 0: (unit,)."""
        self._check_begun()
        return results(self._zero)

    def negatives(self) -> Results:
        """Return to how many stimuli each unit responds with less than 0: (unit,)."""
        self._check_begun()
        return results(self._negative)
