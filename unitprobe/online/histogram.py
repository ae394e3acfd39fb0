"""A histogram of each unit's responses to each class, on a grid that needs no range beforehand.

Bins are equally wide on a logarithmic scale, as in DDSketch (Masson, Rim & Lee, "DDSketch: a fast
and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019), with exact 0 in a
bin of its own. What depends on the order of the responses alone is computed from it with a bound
on the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unitprobe.errors import OptionError
from unitprobe.online import binned
from unitprobe.online.accumulator import (
    Accumulator,
    as_label_tensor,
    check_class_count,
    results,
)
from unitprobe.online.binned import BinnedResponses
from unitprobe.online.bounded import Bounded
from unitprobe.typing import Array, FloatArray

#: Where the window of a unit that never responded stands: below every finite number.
_NOWHERE = -(2**40)
#: The most that one block of counts, as the numbers that are computed with, may occupy.
_BLOCK_BYTES = 64 * 2**20


class ResponseHistogram(Accumulator):
    """How often each unit gives which response, by class.

    The bins of each sign reach from the unit's largest response down by a factor of
    ((1 + e)/(1 - e))^(bins - 1), for the defaults 28,000; smaller responses share the last bin.
    Since the window follows the largest response and bins only ever fall into that last one, the
    counts do not depend on the order of the stimuli.

    Memory: 4 bytes for each unit, class and bin; twice that if any response is negative.

    Parameters
    ----------
    class_count : int
        The number of classes C.
    relative_error : float
        How far, at most, the value that stands for a bin is from a response in it, as a share.
    bins : int
        Bins of each sign.

    Examples
    --------
    >>> import numpy as np
    >>> histogram = ResponseHistogram(class_count=2)
    >>> histogram.update(np.array([[1.0], [3.0], [0.0], [2.0]]), np.array([0, 0, 1, 1]))
    >>> histogram.roc_auc_by_class()
    Bounded(value=array([[0.75],
           [0.25]]), error=array([[0.],
           [0.]]))
    """

    def __init__(self, class_count: int, *, relative_error: float = 0.01, bins: int = 512) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)
        if not 0 < relative_error < 1:
            raise OptionError(f"relative_error={relative_error} is not between 0 and 1")
        if bins < 2:
            raise OptionError(f"bins={bins} must be at least 2")
        self.relative_error = relative_error
        self.bins = bins
        self._log_width = math.log((1 + relative_error) / (1 - relative_error))

    def _settings(self) -> dict[str, Any]:
        return {
            "class_count": self.class_count,
            "relative_error": self.relative_error,
            "bins": self.bins,
        }

    def _begin(self, units: int, device: torch.device) -> None:
        self._top = torch.full((units,), _NOWHERE, dtype=torch.int64, device=device)
        self._zero = torch.zeros((units, self.class_count), dtype=torch.int32, device=device)
        self._positive = self._no_counts()
        self._negative: Tensor | None = None
        self._sum = torch.zeros(units, dtype=torch.float64, device=device)
        self._absolute = torch.zeros(units, dtype=torch.float64, device=device)
        self._largest = torch.full((units,), -torch.inf, dtype=torch.float64, device=device)
        self._smallest = torch.full_like(self._largest, torch.inf)

    def _no_counts(self) -> Tensor:
        shape = (len(self._top), self.class_count, self.bins)
        return torch.zeros(shape, dtype=torch.int32, device=self._top.device)

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
        size = x.abs()
        place = self._place(size)
        self._move_window(place.amax(0))
        bin_index = torch.clamp(place - self._top + self.bins - 1, min=0)
        unit = torch.arange(x.shape[1], device=x.device)
        cell = unit * self.class_count + classes[:, None]
        _count(self._zero, cell, x == 0)
        cell = cell * self.bins + bin_index
        _count(self._positive, cell, x > 0)
        negative = x < 0
        if negative.any():
            if self._negative is None:
                self._negative = self._no_counts()
            _count(self._negative, cell, negative)
        self._sum = self._sum + x.sum(0)
        self._absolute = self._absolute + size.sum(0)
        self._largest = torch.maximum(self._largest, x.amax(0))
        self._smallest = torch.minimum(self._smallest, x.amin(0))
        self.stimuli += len(x)

    def _place(self, size: Tensor) -> Tensor:
        """Return the number of the bin, on the whole logarithmic scale, that holds a size."""
        place = torch.ceil(torch.log(size) / self._log_width)
        return torch.where(size > 0, place, float(_NOWHERE)).to(torch.int64)

    def _move_window(self, top: Tensor) -> None:
        """Move the window of each unit up to `top`; what falls out below goes in the last bin."""
        shift = torch.clamp(top - self._top, min=0, max=self.bins)
        self._top = torch.maximum(self._top, top)
        moved = shift.nonzero()[:, 0]
        if not len(moved):
            return
        bins = torch.arange(self.bins, device=top.device)
        target = torch.clamp(bins - shift[moved, None], min=0)
        for counts in (self._positive, self._negative):
            if counts is not None:
                old = counts[moved]
                index = target[:, None, :].expand(old.shape)
                counts[moved] = torch.zeros_like(old).scatter_add_(2, index, old)

    def _add(self, other: ResponseHistogram) -> None:
        # In the window of the other too, without changing it.
        shifted = other.to(self._top.device)
        shifted._positive = other._positive.clone()
        shifted._negative = None if other._negative is None else other._negative.clone()
        shifted._move_window(self._top)
        self._move_window(other._top)
        self._zero = self._zero + shifted._zero
        self._positive = self._positive + shifted._positive
        if shifted._negative is not None:
            if self._negative is None:
                self._negative = self._no_counts()
            self._negative = self._negative + shifted._negative
        self._sum = self._sum + other._sum
        self._absolute = self._absolute + other._absolute
        self._largest = torch.maximum(self._largest, other._largest)
        self._smallest = torch.minimum(self._smallest, other._smallest)

    @property
    def bytes_per_unit(self) -> int:
        """Bytes that each unit takes while no response is negative."""
        return 4 * self.class_count * self.bins

    def roc_auc_by_class(self) -> Bounded:
        """Return the area under the ROC curve of each class against the rest: (class_name, unit).

        In this and the other measures by class, responses in one bin count as ties, and the error
        is for the best and the worst order that they can have. NaN for a class without stimuli or
        without a rest.
        """
        return self._by_class(binned.roc_auc)

    def roc_auc(self) -> Bounded:
        """Return the largest area under the ROC curve over the classes of each unit: (unit,)."""
        return self.roc_auc_by_class().largest()

    def average_precision_by_class(self) -> Bounded:
        """Return `unitprobe.metrics.average_precision` of every class: (class_name, unit)."""
        return self._by_class(binned.average_precision)

    def max_informedness_by_class(self) -> Bounded:
        """Return `unitprobe.metrics.max_informedness` of every class: (class_name, unit)."""
        return self._by_class(binned.max_informedness)

    def max_informedness_threshold_by_class(self) -> FloatArray:
        """Return a threshold whose informedness is the value of `max_informedness_by_class`.

        The lower edge of a bin: (class_name, unit), NaN where the value is 0 or NaN.
        """
        self._check_begun()
        top, thresholds, start = results(self._top), [], 0
        for counts in self._blocks():
            block = slice(start, start := start + len(counts.hits))
            best = binned.max_informedness_bin(counts)
            lower = self._lower_edges(top[block])[:, ::-1]
            of_best = np.take_along_axis(lower, np.maximum(best, 0), axis=1)
            thresholds.append(np.where(best < 0, np.nan, of_best))
        return np.concatenate(thresholds).T

    def max_f1_by_class(self) -> Bounded:
        """Return `unitprobe.metrics.max_f1` of every class: (class_name, unit)."""
        return self._by_class(binned.max_f1)

    def recall_at_precision_by_class(self, precision: float = 0.95) -> Bounded:
        """Return `unitprobe.metrics.recall_at_precision` of every class: (class_name, unit).

        Raises
        ------
        OptionError
            The precision is not above 0 and at most 1.
        """
        if not 0 < precision <= 1:
            raise OptionError(f"precision={precision} is not above 0 and at most 1, such as 0.95")
        return self._by_class(lambda counts: binned.recall_at_precision(counts, precision))

    def mutual_information(self, bins: int = 10) -> Bounded:
        """Return `unitprobe.metrics.mutual_information`, corrected: (unit,).

        The error is small where the edges of the quantiles lie between the bins of the histogram
        or in that of exact 0, and grows with the share of stimuli that share a bin with an edge.

        Raises
        ------
        OptionError
            `bins` is below 2.
        """
        if bins < 2:
            raise OptionError(f"bins={bins} is too few; information needs at least 2")
        return self._by_class(lambda counts: binned.mutual_information(counts, bins))

    def _by_class(self, measure: Callable[[BinnedResponses], Bounded]) -> Bounded:
        self._check_begun()
        parts = [measure(counts) for counts in self._blocks()]
        return Bounded(
            np.concatenate([part.value for part in parts]).T,
            np.concatenate([part.error for part in parts]).T,
        )

    def gini(self) -> Bounded:
        """Return `unitprobe.metrics.gini`: (unit,).

        Notes
        -----
        ``G = sum_ij |r_i - r_j| / (2 n sum r)``. Each response is off by its relative error, or by
        the upper edge of the last bin in that; G then is off by no more than the sum of these over
        the sum of the responses, which is known exactly.
        """
        n = self._check_begun()
        edge = self._lowest_edge()
        total, absolute = results(self._sum), results(self._absolute)
        values, last, start = [], [], 0
        for by_class in self._blocks():
            counts = by_class.total[:, 0, ::-1]
            block = slice(start, start := start + len(counts))
            representative = self._representatives(edge[block])
            # A group of ties has the mean of its ranks.
            ranks = 2 * np.cumsum(counts, axis=1) - counts + 1 - (n + 1)
            values.append(np.sum(counts * ranks * representative, axis=1))
            lowest = [self._zero_bin + 1]
            if self._negative is not None:
                lowest.append(self._zero_bin - 1)
            last.append(counts[:, lowest].sum(axis=1))
        # Of numbers of both signs that cancel, rounding leaves a sum that says nothing.
        total = np.where(np.abs(total) <= n * np.finfo(float).eps * absolute, np.nan, total)
        error = self.relative_error * absolute + edge * np.concatenate(last)
        return Bounded(np.concatenate(values) / (n * total), error / np.abs(total))

    def half_max_share(self) -> Bounded:
        """Return `unitprobe.metrics.half_max_share`: (unit,).

        The error is the share of the stimuli in the bin that half of the largest response lies in.
        """
        n = self._check_begun()
        # Of a unit that is never above 0 the place does not matter.
        half = self._place(torch.where(self._largest > 0, self._largest / 2, 1.0))
        place = torch.clamp(half - self._top + self.bins - 1, min=0, max=self.bins - 1)
        counts = self._positive.sum(1)
        at_least = counts.flip(1).cumsum(1).flip(1).gather(1, place[:, None])[:, 0]
        inside = counts.gather(1, place[:, None])[:, 0]
        value, error = (
            results(torch.where(self._largest > 0, count.double() / n, torch.nan))
            for count in (at_least, inside)
        )
        return Bounded(value, error)

    def quantile(self, share: float) -> Bounded:
        """Return the response below or at which a share of the stimuli lie: (unit,).

        Raises
        ------
        OptionError
            The share is not between 0 and 1.

        Notes
        -----
        The smallest response with at least ``share * n`` stimuli at or below it
        (`numpy.quantile` with ``method="inverted_cdf"``).
        """
        n = self._check_begun()
        if not 0 <= share <= 1:
            raise OptionError(f"share={share} is not between 0 and 1")
        edge = self._lowest_edge()
        nearness = self.relative_error / (1 - self.relative_error)
        values, errors, start = [], [], 0
        for by_class in self._blocks():
            cumulated = np.cumsum(by_class.total[:, 0, ::-1], axis=1)
            block = slice(start, start := start + len(cumulated))
            place = np.argmax(cumulated >= max(math.ceil(share * n), 1), axis=1)[:, None]
            value = np.take_along_axis(self._representatives(edge[block]), place, axis=1)[:, 0]
            is_last = np.abs(place[:, 0] - self._zero_bin) == 1
            values.append(value)
            errors.append(np.where(is_last, edge[block], nearness * np.abs(value)))
        return Bounded(np.concatenate(values), np.concatenate(errors))

    def _lowest_edge(self) -> FloatArray:
        """Return the upper edge (unit,) of the bin that holds all smaller responses."""
        lowest = results(self._top).astype(np.float64) - self.bins + 1
        return np.exp(lowest * self._log_width)

    @property
    def _zero_bin(self) -> int:
        return 0 if self._negative is None else self.bins

    def _blocks(self) -> Iterator[BinnedResponses]:
        """Yield the counts, bins in descending order, some units at a time."""
        bytes_per_unit = 8 * self.class_count * (2 * self.bins + 1)
        size = max(1, _BLOCK_BYTES // bytes_per_unit)
        for start in range(0, len(self._top), size):
            block = slice(start, start + size)
            parts = [torch.flip(self._positive[block], dims=[2]), self._zero[block, :, None]]
            if self._negative is not None:
                parts.append(self._negative[block])
            counts = results(torch.cat(parts, dim=2)).astype(np.float64)
            constant = results(self._largest[block] == self._smallest[block])
            is_zero = np.arange(counts.shape[2]) == self.bins
            yield BinnedResponses(counts, constant[:, None, None] | is_zero)

    def _representatives(self, edge: FloatArray) -> FloatArray:
        """Return the response (unit, bin) that stands for each bin; `edge` tops the last one."""
        factor = np.exp(self._log_width * np.arange(self.bins))
        positive = edge[:, None] * factor * (1 - self.relative_error)
        zero = np.zeros((len(edge), 1))
        if self._negative is None:
            return np.concatenate([zero, positive], axis=1)
        return np.concatenate([-positive[:, ::-1], zero, positive], axis=1)

    def _lower_edges(self, top: NDArray[np.int64]) -> FloatArray:
        """Return the lowest number (unit, bin) that each bin can hold, in ascending order."""
        places = top[:, None] - np.arange(self.bins)[::-1]
        upper = np.exp(places * self._log_width)
        below = np.concatenate([np.zeros((len(top), 1)), upper[:, :-1]], axis=1)
        positive = np.nextafter(below, np.inf)
        zero = np.zeros((len(top), 1))
        if self._negative is None:
            return np.concatenate([zero, positive], axis=1)
        return np.concatenate([-upper[:, ::-1], zero, positive], axis=1)


def _count(table: Tensor, cell: Tensor, chosen: Tensor) -> None:
    """Add one to the cells of what is chosen, in place."""
    index = torch.where(chosen, cell, 0).reshape(-1)
    table.view(-1).scatter_add_(0, index, chosen.reshape(-1).to(table.dtype))
