"""Covariance between units, within a layer and between two, in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unitprobe.errors import ResponseError
from unitprobe.metrics import dimensionality
from unitprobe.online.accumulator import Accumulator, Results, as_tensor, results
from unitprobe.typing import Array


class Covariance(Accumulator):
    """Mean of each unit and co-moment of every two units.

    Memory: units x units numbers. Parts are joined as variances are in
    `unitprobe.online.ClassMoments`.

    Examples
    --------
    >>> import numpy as np
    >>> covariance = Covariance()
    >>> covariance.update(np.array([[0.0, 0.0, 5.0], [2.0, 0.0, 5.0]]))
    >>> covariance.update(np.array([[1.0, 3.0, 5.0]]))
    >>> covariance.spectrum()
    array([3., 1., 0.])
    """

    def _settings(self) -> dict[str, Any]:
        return {}

    def _begin(self, units: int, device: torch.device) -> None:
        self._mean = torch.zeros(units, dtype=torch.float64, device=device)
        self._comoment = torch.zeros((units, units), dtype=torch.float64, device=device)

    def update(self, responses: Array) -> None:
        """Add responses (stimulus, unit) of some stimuli.

        Raises
        ------
        ResponseError
            The responses are not a (stimulus, unit) matrix of finite numbers, or the number of
            units differs.
        """
        x = self._take(responses)
        shifted = x - x[0]  # a constant unit varies with none, whatever rounding does to its mean
        offset = shifted.mean(0)
        deviation = shifted - offset
        part = Covariance()
        part._mean, part._comoment = x[0] + offset, deviation.T @ deviation
        part.stimuli = len(x)
        self._absorb(part)

    def _add(self, other: Covariance) -> None:
        total = self.stimuli + other.stimuli
        delta = other._mean - self._mean
        self._comoment += other._comoment
        self._comoment += torch.outer(delta, delta * (self.stimuli * other.stimuli / total))
        self._mean = self._mean + delta * (other.stimuli / total)

    def covariance(self) -> Results:
        """Return the covariance, over n - 1, of the units: (unit, unit); 0 for one stimulus."""
        n = self._check_begun()
        return results(self._comoment) / max(n - 1, 1)

    def spectrum(self) -> Results:
        """Return `unitprobe.metrics.covariance_spectrum`: (component,).

        As there, min(stimuli, units) eigenvalues, descending, and 0 where rounding cannot tell
        them from it.
        """
        stimuli = self._check_begun()
        units = self._comoment.shape[0]
        eigenvalues = np.linalg.eigvalsh(self.covariance())[::-1][: min(stimuli, units)]
        noise = max(stimuli, units) * np.finfo(np.float64).eps * eigenvalues[0]
        return np.where(eigenvalues > noise, eigenvalues, 0.0)

    def participation_ratio(self) -> float:
        """Return `unitprobe.metrics.participation_ratio`."""
        return float(dimensionality.participation_ratio_from_spectrum(self.spectrum()))

    def effective_rank(self) -> float:
        """Return `unitprobe.metrics.effective_rank`."""
        return float(dimensionality.effective_rank_from_spectrum(self.spectrum()))

    def components_for(self, share: float) -> int:
        """Return `unitprobe.metrics.components_for`."""
        return dimensionality.components_from_spectrum(self.spectrum(), share)


class LinearCKA(Accumulator):
    """Linear centred kernel alignment of two layers in one pass.

    Memory: (units of x + units of y) squared numbers.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> alignment = LinearCKA()
    >>> for part in np.split(x, 4):
    ...     alignment.update(part, -3.0 * part[:, ::-1])
    >>> round(alignment.linear_cka(), 6)
    1.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.units_of_x: int | None = None
        self._joint = Covariance()

    def _settings(self) -> dict[str, Any]:
        return {}

    @property
    def _device(self) -> torch.device:
        return self._joint._device

    def _begin(self, units: int, device: torch.device) -> None:
        """Have the joint covariance begin itself."""

    def update(self, x: Array, y: Array) -> None:
        """Add responses (stimulus, unit) of both layers to the same stimuli.

        Raises
        ------
        ResponseError
            One is not a (stimulus, unit) matrix of finite numbers, the numbers of stimuli differ,
            or the number of units differs.
        """
        both = as_tensor(x), as_tensor(y)
        if len(both[0]) != len(both[1]):
            raise ResponseError(
                f"both layers must have the same stimuli, got {len(both[0])} and {len(both[1])}"
            )
        units = both[0].shape[1]
        if self.units_of_x not in (None, units):
            raise ResponseError(f"x of {units} units came after x of {self.units_of_x}")
        self.units_of_x = units
        self._joint.update(torch.cat(both, dim=1))
        self.stimuli, self.units = self._joint.stimuli, self._joint.units

    def _add(self, other: LinearCKA) -> None:
        if self.units_of_x != other.units_of_x:
            raise ResponseError(
                f"x of {other.units_of_x} units cannot be merged into x of {self.units_of_x}"
            )
        self._joint.merge(other._joint)

    def linear_cka(self) -> float:
        """Return `unitprobe.metrics.linear_cka`, as defined without a correction for bias."""
        self._check_begun()
        covariance, units = self._joint.covariance(), self.units_of_x
        of_x, of_y = covariance[:units, :units], covariance[units:, units:]
        scale = np.linalg.norm(of_x) * np.linalg.norm(of_y)
        shared = float(np.sum(covariance[:units, units:] ** 2))
        return shared / float(scale) if scale else np.nan
