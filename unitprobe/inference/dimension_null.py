"""What dimensionality would noise have? A measure on Gaussian responses of the same size.

Every measure of dimensionality depends on the numbers of stimuli and units: 500 units of isotropic
noise have a participation ratio of 500 only for very many stimuli, and of 250 for 500.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.errors import OptionError, ResponseError
from unitprobe.typing import FloatArray


def gaussian_dimension_null(
    stimuli: int,
    units: int,
    measure: Callable[[FloatArray], float],
    *,
    resamples: int,
    seed: int,
    variances: ArrayLike | None = None,
) -> FloatArray:
    """Return a measure of dimensionality on independent Gaussian units, as many as were measured.

    Parameters
    ----------
    stimuli, units : int
        Size of the layer that the measure is to be compared with, at least 1 each.
    measure : callable
        Takes responses (stimulus, unit) and returns a number, such as
        `unitprobe.metrics.participation_ratio` or `unitprobe.metrics.twonn_dimension`.
    resamples : int
        Number of draws, at least 1.
    seed : int
        The same seed gives the same draws.
    variances : array, optional
        (unit,), variance of each unit, such as those of the layer; all 1 if None. What is left
        between this null and the layer is due to correlations between units and to their
        distributions.

    Returns
    -------
    array
        (resample,), in the range of the measure; NaN where it is.

    Raises
    ------
    OptionError
        A number is below 1.
    ResponseError
        The variances are not one finite number, at least 0, for each unit.

    Notes
    -----
    The participation ratio of isotropic noise is about n d / (n + d), with n stimuli and d units,
    after the law of Marchenko & Pastur (1967).

    Examples
    --------
    >>> from unitprobe.metrics import participation_ratio
    >>> null = gaussian_dimension_null(200, 50, participation_ratio, resamples=10, seed=0)
    >>> null.shape, round(float(null.mean()))
    ((10,), 40)
    """
    for name, value in {"stimuli": stimuli, "units": units, "resamples": resamples}.items():
        if value < 1:
            raise OptionError(f"{name}={value} must be at least 1")
    spread = np.ones(units) if variances is None else np.asarray(variances, dtype=np.float64)
    if spread.shape != (units,) or not (np.isfinite(spread) & (spread >= 0)).all():
        raise ResponseError(
            f"variances must be one finite number, at least 0, for each of {units} units, got "
            f"shape {spread.shape} with a lowest of {spread.min(initial=np.inf)}"
        )
    scale = np.sqrt(spread)
    # Each resample has its own stream, so that more of them keep the first ones.
    draws = (np.random.default_rng([seed, r]) for r in range(resamples))
    return np.array(
        [float(measure(rng.standard_normal((stimuli, units)) * scale)) for rng in draws]
    )
