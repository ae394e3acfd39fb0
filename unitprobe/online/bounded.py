"""A value that is known up to a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unitprobe.typing import FloatArray


@dataclass(frozen=True)
class Bounded:
    """A value that a histogram gives, and how far from the exact one it can be.

    Attributes
    ----------
    value, error : array
        Of the same shape. The exact value lies within `value` - `error` and `value` + `error`.
    """

    value: FloatArray
    error: FloatArray

    def largest(self) -> Bounded:
        """Return what is known of the largest along the first dimension, without NaN.

        NaN where there is nothing else.
        """
        missing = np.isnan(self.value)
        value, low, high = (
            np.where(missing, -np.inf, some).max(axis=0)
            for some in (self.value, self.value - self.error, self.value + self.error)
        )
        none = missing.all(axis=0)
        with np.errstate(invalid="ignore"):
            error = np.maximum(high - value, value - low)
        return Bounded(np.where(none, np.nan, value), np.where(none, np.nan, error))


def between(value: FloatArray, low: FloatArray, high: FloatArray) -> Bounded:
    """Return a value beside the bounds of the exact one."""
    return Bounded(value, np.maximum(np.maximum(high - value, value - low), 0.0))
