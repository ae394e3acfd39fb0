"""Moments in one pass: of each unit, and of each unit and class.

Central moments are exact within one update, and merged by the formulas of
Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979) and Pebay, "Formulas for robust, one-pass parallel computation of covariances and
arbitrary-order statistical moments" (Sandia report SAND2008-6212), so that a large mean
never cancels a variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitprobe import metrics
from unitprobe.metrics import Weighting
from unitprobe.online.accumulator import (
    Accumulator,
    Results,
    as_label_tensor,
    check_class_count,
    results,
)
from unitprobe.typing import Array


class ClassMoments(Accumulator):
    """Count, mean, variance, minimum and maximum of each unit in each class.

    Memory: 4 numbers for each class and unit.

    Parameters
    ----------
    class_count : int
        The number of classes C.

    Examples
    --------
    >>> import numpy as np
    >>> moments = ClassMoments(class_count=2)
    >>> moments.update(np.array([[1.0], [3.0]]), np.array([0, 0]))
    >>> moments.update(np.array([[5.0]]), np.array([1]))
    >>> moments.class_means(), moments.class_variances()
    (array([[2.],
           [5.]]), array([[1.],
           [0.]]))
    """

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.class_count = check_class_count(class_count)

    def _settings(self) -> dict[str, Any]:
        return {"class_count": self.class_count}

    def _begin(self, units: int, device: torch.device) -> None:
        def full(value: float) -> Tensor:
            return torch.full((self.class_count, units), value, dtype=torch.float64, device=device)

        self._counts = torch.zeros(self.class_count, dtype=torch.float64, device=device)
        self._means, self._squares = full(0.0), full(0.0)
        self._lowest, self._highest = full(torch.inf), full(-torch.inf)

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
        part = ClassMoments(self.class_count)
        part._begin(x.shape[1], x.device)
        part._measure(x, classes)
        self._absorb(part)

    def _measure(self, x: Tensor, classes: Tensor) -> None:
        counts = torch.bincount(classes, minlength=self.class_count).to(torch.float64)
        divisor = torch.clamp(counts, min=1.0)[:, None]
        # Less the first response of its class, so that a unit that is constant in a class has no
        # variance there, whatever rounding does to a mean.
        rows = torch.arange(len(x), device=x.device)
        first = torch.zeros_like(counts, dtype=torch.int64).scatter_reduce_(
            0, classes, rows, "amin", include_self=False
        )
        shift = torch.where(counts[:, None] > 0, x[first], 0.0)
        x_shifted = x - shift[classes]
        offset = metrics.class_sums(x_shifted, classes, self.class_count) / divisor
        deviation = x_shifted - offset[classes]
        self.stimuli = len(x)
        self._counts = counts
        self._means = shift + offset
        self._squares = metrics.class_sums(deviation * deviation, classes, self.class_count)
        index = classes[:, None].expand(x.shape)
        self._lowest.scatter_reduce_(0, index, x, "amin")
        self._highest.scatter_reduce_(0, index, x, "amax")

    def _add(self, other: ClassMoments) -> None:
        counts = self._counts + other._counts
        weight = other._counts / torch.clamp(counts, min=1.0)
        delta = other._means - self._means
        self._squares = (
            self._squares + other._squares + delta * delta * (self._counts * weight)[:, None]
        )
        self._means = self._means + delta * weight[:, None]
        self._counts = counts
        self._lowest = torch.minimum(self._lowest, other._lowest)
        self._highest = torch.maximum(self._highest, other._highest)

    def class_counts(self) -> Results:
        """Return the number of stimuli of each class: (class_name,)."""
        self._check_begun()
        return results(self._counts)

    def class_means(self) -> Results:
        """Return `unitprobe.metrics.class_means`: (class_name, unit)."""
        self._check_begun()
        return results(torch.where(self._counts[:, None] > 0, self._means, torch.nan))

    def class_variances(self) -> Results:
        """Return the variance, over n, of each unit in each class: (class_name, unit).

        NaN in the row of a class without stimuli.
        """
        self._check_begun()
        return results(
            self._squares / torch.where(self._counts > 0, self._counts, torch.nan)[:, None]
        )

    def class_minima(self) -> Results:
        """Return the lowest response of each unit to each class, NaN without stimuli."""
        self._check_begun()
        return results(torch.where(self._counts[:, None] > 0, self._lowest, torch.nan))

    def class_maxima(self) -> Results:
        """Return the highest response of each unit to each class, NaN without stimuli."""
        self._check_begun()
        return results(torch.where(self._counts[:, None] > 0, self._highest, torch.nan))

    def class_selectivity(self, weighting: Weighting = "class") -> Results:
        """Return `unitprobe.metrics.class_selectivity`, NaN if there is one class: (unit,)."""
        index: Results = metrics.selectivity_index(
            self.class_means(), self.class_counts(), weighting=weighting
        )
        return index

    def ccmas(self) -> Results:
        """Return `unitprobe.metrics.ccmas`: (unit,)."""
        return self.class_selectivity("stimulus")

    def preferred_class(self) -> Results:
        """Return `unitprobe.metrics.preferred_class`: (unit,), -1 for a dead unit."""
        best = np.argmax(
            np.where(np.isnan(self.class_means()), -np.inf, self.class_means()), axis=0
        )
        lowest, highest = self._lowest.amin(0), self._highest.amax(0)
        return np.where(results((lowest == 0) & (highest == 0)), -1, best)


class ResponseMoments(Accumulator):
    """Sums and central moments up to the fourth of each unit.

    Memory: 7 numbers for each unit. Fourth powers are taken as they are, so responses must lie
    between 1e-70 and 1e70 in size, as every float32 does.

    Examples
    --------
    >>> import numpy as np
    >>> moments = ResponseMoments()
    >>> for part in np.split(np.array([[0.0], [0.0], [1.0], [1.0]]), 2):
    ...     moments.update(part)
    >>> moments.kurtosis(), moments.activity_ratio()
    (array([-2.]), array([0.5]))
    """

    def _settings(self) -> dict[str, Any]:
        return {}

    def _begin(self, units: int, device: torch.device) -> None:
        zeros = torch.zeros(units, dtype=torch.float64, device=device)
        self._sum, self._absolute, self._energy = zeros, zeros, zeros
        self._mean, self._second, self._third, self._fourth = zeros, zeros, zeros, zeros

    def update(self, responses: Array) -> None:
        """Add responses (stimulus, unit) of some stimuli.

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, or the number of
            units differs.
        """
        x = self._take(responses)
        part = ResponseMoments()
        shifted = x - x[0]  # a constant unit has no variance, whatever rounding does to its mean
        offset = shifted.mean(0)
        deviation = shifted - offset
        square = deviation * deviation
        part._sum, part._absolute, part._energy = x.sum(0), x.abs().sum(0), (x * x).sum(0)
        part._mean = x[0] + offset
        part._second = square.sum(0)
        part._third = (square * deviation).sum(0)
        part._fourth = (square * square).sum(0)
        part.stimuli = len(x)
        self._absorb(part)

    def _add(self, other: ResponseMoments) -> None:
        a, b = self.stimuli, other.stimuli
        n = a + b
        delta = other._mean - self._mean
        step = delta / n
        self._fourth = (
            self._fourth
            + other._fourth
            + a * b * (a * a - a * b + b * b) * delta * step**3
            + 6 * step**2 * (a * a * other._second + b * b * self._second)
            + 4 * step * (a * other._third - b * self._third)
        )
        self._third = (
            self._third
            + other._third
            + a * b * (a - b) * delta * step**2
            + 3 * step * (a * other._second - b * self._second)
        )
        self._second = self._second + other._second + a * b * delta * step
        self._mean = self._mean + delta * (b / n)
        self._sum = self._sum + other._sum
        self._absolute = self._absolute + other._absolute
        self._energy = self._energy + other._energy

    def activity_ratio(self) -> Results:
        """Return `unitprobe.metrics.activity_ratio` over stimuli: (unit,)."""
        n = self._check_begun()
        return _quotient((self._sum / n) ** 2, self._energy / n)

    def lifetime_sparseness(self) -> Results:
        """Return `unitprobe.metrics.lifetime_sparseness`: (unit,)."""
        n = self._check_begun()
        return (1.0 - self.activity_ratio()) / (1.0 - 1.0 / n if n > 1 else np.nan)

    def hoyer_sparseness(self) -> Results:
        """Return `unitprobe.metrics.hoyer_sparseness`: (unit,)."""
        root = np.sqrt(self._check_begun())
        ratio = _quotient(self._absolute, torch.sqrt(self._energy))
        sparseness: Results = (root - ratio) / (root - 1.0 if root > 1 else np.nan)
        return sparseness

    def kurtosis(self) -> Results:
        """Return `unitprobe.metrics.kurtosis`: (unit,)."""
        n = self._check_begun()
        return _quotient(self._fourth * n, self._second**2) - 3.0

    def means(self) -> Results:
        """Return the mean response of each unit: (unit,)."""
        self._check_begun()
        return results(self._mean)


def _quotient(numerator: Tensor, denominator: Tensor) -> Results:
    return results(numerator / torch.where(denominator == 0, torch.nan, denominator))
