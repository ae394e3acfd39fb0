"""All responses of a layer, for as long as they are few enough to keep."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import numpy as np
import torch

from unitprobe import metrics
from unitprobe.metrics._ranks import rank_responses, ranking_measures
from unitprobe.metrics.ranking import max_informedness_threshold_of
from unitprobe.metrics.registry import MEASURES
from unitprobe.online.accumulator import (
    Accumulator,
    Results,
    as_label_tensor,
    check_class_count,
    results,
)
from unitprobe.online.bounded import Bounded
from unitprobe.typing import Array


class KeptResponses(Accumulator):
    """What `ResponseHistogram` gives by class, exactly: the error is 0.

    Memory: 8 bytes for each stimulus and unit, and twice that again to rank them. For fewer stimuli
    than a histogram has bins for all classes together, it takes less than the histogram does.

    Parameters
    ----------
    class_count : int
        The number of classes C.

    Examples
    --------
    >>> import numpy as np
    >>> kept = KeptResponses(class_count=2)
    >>> for part in ([0, 1], [2, 3]):
    ...     kept.update(np.array([[1.0], [3.0], [0.0], [2.0]])[part], np.array([0, 0, 1, 1])[part])
    >>> kept.roc_auc_by_class().value.T
    array([[0.75, 0.25]])
    """

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)

    def _settings(self) -> dict[str, Any]:
        return {"class_count": self.class_count}

    def _begin(self, units: int, device: torch.device) -> None:
        # On the CPU at once: these wait until the end.
        self._parts: list[tuple[Results, Results]] = []
        self._home = torch.empty(0, device=device)
        self._ranked: tuple[int, dict[str, Results]] = (0, {})

    def update(self, responses: Array, labels: Array) -> None:
        """Take in responses (stimulus, unit) and labels (stimulus,) of some stimuli.

        Raises
        ------
        ResponseError
            The responses are no (stimulus, unit) matrix of finite numbers, or of other units.
        LabelError
            The labels are no integers 0..C-1, one for each stimulus.
        """
        x = self._take(responses)
        classes = as_label_tensor(labels, self.class_count, x)
        self._parts.append((results(x).copy(), results(classes)))
        self.stimuli += len(x)

    def _add(self, other: KeptResponses) -> None:
        self._parts = self._parts + other._parts

    def responses_and_labels(self) -> tuple[Results, Results]:
        """Return the responses (stimulus, unit) and labels (stimulus,) of all stimuli."""
        self._check_begun()
        responses, labels = zip(*self._parts, strict=True)
        return np.concatenate(responses), np.concatenate(labels)

    def _measures(self) -> dict[str, Results]:
        """Return all measures that rank, sorted but once: (class_name, unit) each."""
        self._check_begun()
        if self._ranked[0] != self.stimuli:
            responses, labels = self.responses_and_labels()
            formulas: dict[str, Any] = {name: MEASURES[name].of for name in _NAMES}
            formulas["max_informedness_threshold"] = max_informedness_threshold_of
            ranked = rank_responses(responses)
            found = ranking_measures(ranked, labels, formulas, self.class_count)
            self._ranked = self.stimuli, found
        return self._ranked[1]

    def _ranking(self, name: str) -> Bounded:
        values = self._measures()[name]
        return Bounded(values, np.where(np.isnan(values), np.nan, 0.0))

    roc_auc_by_class = partialmethod(_ranking, "roc_auc")
    average_precision_by_class = partialmethod(_ranking, "average_precision")
    max_informedness_by_class = partialmethod(_ranking, "max_informedness")
    max_f1_by_class = partialmethod(_ranking, "max_f1")
    recall_at_precision_by_class = partialmethod(_ranking, "recall_at_precision")

    def max_informedness_threshold_by_class(self) -> Results:
        """Return `unitprobe.metrics.max_informedness_threshold`: (class_name, unit)."""
        return self._measures()["max_informedness_threshold"]

    def mutual_information(self) -> Bounded:
        """Return `unitprobe.metrics.mutual_information`: (unit,)."""
        values = metrics.mutual_information(*self.responses_and_labels())
        return Bounded(values, np.zeros_like(values))


_NAMES: tuple[str, ...] = (
    "roc_auc",
    "average_precision",
    "max_informedness",
    "max_f1",
    "recall_at_precision",
)
