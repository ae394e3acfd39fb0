"""Class sums under resampling in one pass, for nulls and intervals without all responses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitprobe.online.accumulator import Accumulator, Results, results
from unitprobe.typing import Array

IntArray = NDArray[Any]

#: The most that one block of class means may occupy.
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ClassMembership:
    """Which of some stimuli are in which class in each resample.

    Attributes
    ----------
    members : array
        Positions among these stimuli, grouped by resample and class.
    starts : array
        (resample * class_name,), where each such group starts in `members`.
    """

    members: Tensor
    starts: Tensor


class Resamples:
    """Resamples of all stimuli, drawn before the first batch.

    Memory: 2 bytes for each resample and stimulus, 3 with more than 255 classes.

    Parameters
    ----------
    layouts : iterable of array
        For each resample the stimuli (stimulus,) in the order of classes: the first ``counts[0]``
        are in class 0, and so on. `unitprobe.inference` draws them.
    counts : array
        (class_name,), the number of stimuli of each class.

    Examples
    --------
    >>> import numpy as np
    >>> resamples = Resamples([np.array([2, 0, 1])], counts=np.array([2, 1]))
    >>> resamples.classes  # stimuli 2 and 0 are in class 0
    array([[0, 1, 0]], dtype=uint8)
    """

    def __init__(self, layouts: Iterable[IntArray], counts: IntArray) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        class_of_position = np.repeat(np.arange(len(self.counts)), self.counts)
        classes, times = [], []
        for layout in layouts:
            # A stimulus that is drawn twice is in the same class both times.
            assigned = np.zeros(len(class_of_position), np.min_scalar_type(len(self.counts)))
            assigned[layout] = class_of_position
            drawn = np.bincount(layout, minlength=len(class_of_position))
            classes.append(assigned)
            times.append(drawn.astype(np.min_scalar_type(int(drawn.max()))))
        self.classes = np.stack(classes)
        self.times = np.stack(times)

    def __len__(self) -> int:
        return len(self.classes)

    def membership(self, indices: IntArray) -> ClassMembership:
        """Return the class membership of the stimuli with these indices."""
        times = self.times[:, indices].astype(np.int64)
        group = self.classes[:, indices] + len(self.counts) * np.arange(len(self))[:, None]
        position = np.broadcast_to(np.arange(len(indices)), times.shape)
        times = times.reshape(-1)
        group = np.repeat(group.reshape(-1), times)
        position = np.repeat(position.reshape(-1), times)
        order = np.argsort(group, kind="stable")
        sizes = np.bincount(group, minlength=len(self) * len(self.counts))
        return ClassMembership(
            torch.from_numpy(position[order]), torch.from_numpy(np.cumsum(sizes) - sizes)
        )


class ResampledClassSums(Accumulator):
    """Sum of each unit over the stimuli of each class in each resample.

    Memory: 8 bytes for each resample, class and unit.

    Parameters
    ----------
    resamples : int
        The number of resamples R.
    counts : array
        (class_name,), the number of stimuli of each class.

    Examples
    --------
    >>> import numpy as np
    >>> drawn = Resamples([np.array([2, 0, 1])], counts=np.array([2, 1]))
    >>> sums = ResampledClassSums(len(drawn), drawn.counts)
    >>> for part in ([0, 1], [2]):
    ...     sums.update(np.array([[1.0], [10.0], [100.0]])[part], drawn.membership(np.array(part)))
    >>> next(sums.class_means())
    array([[[50.5],
            [10. ]]])
    """

    def __init__(self, resamples: int, counts: IntArray) -> None:
        super().__init__()
        self.resamples = resamples
        self.counts = np.asarray(counts, dtype=np.int64)

    def _settings(self) -> dict[str, Any]:
        return {"resamples": self.resamples, "counts": self.counts.tolist()}

    def _begin(self, units: int, device: torch.device) -> None:
        shape = (self.resamples * len(self.counts), units)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=device)

    def update(self, responses: Array, membership: ClassMembership) -> None:
        """Add responses (stimulus, unit) of the stimuli that `membership` describes.

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, or the number of
            units differs.
        """
        x = self._take(responses)
        self._sums += torch.nn.functional.embedding_bag(
            membership.members.to(x.device), x, membership.starts.to(x.device), mode="sum"
        )
        self.stimuli += len(x)

    def _add(self, other: ResampledClassSums) -> None:
        self._sums += other._sums

    def class_means(self) -> Iterator[Results]:
        """Yield the class means (resample, class_name, unit), some resamples at a time.

        As `unitprobe.inference.shuffled_class_means`; NaN for a class without stimuli.
        """
        self._check_begun()
        classes = len(self.counts)
        divisor = np.where(self.counts > 0, self.counts, np.nan)[:, None]
        size = max(1, _BLOCK_BYTES // (8 * classes * self._sums.shape[1]))
        for block in torch.split(self._sums, size * classes):
            yield results(block).reshape(-1, classes, block.shape[1]) / divisor
