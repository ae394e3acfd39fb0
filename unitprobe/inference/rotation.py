"""Rotation null: whether the unit axes are special, or any axes of the layer would do as well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError
from unitprobe.inference.estimates import summarize_null
from unitprobe.inference.reliability import UnitMeasure
from unitprobe.inference.resampling import as_labelled_counts
from unitprobe.metrics._arrays import centred
from unitprobe.typing import FloatArray


@dataclass(frozen=True)
class RotationNull:
    """A layer's mean of a measure along its units, beside random axes.

    Attributes
    ----------
    observed : float
        Mean of the measure over the units that vary.
    rotated : array
        (rotation,), the same over the axes of each random rotation.
    z : float
        Observed value less the mean of the rotated, in their standard deviations. Negative if
        units have less of the measure than random axes. NaN for a single rotation.
    p : float
        Chance of at least the observed value along random axes, 1/(1 + rotations) to 1.
    units : int
        How many units vary and were rotated.
    """

    observed: float
    rotated: FloatArray
    z: float
    p: float
    units: int


def rotation_null(
    responses: ArrayLike,
    labels: ArrayLike,
    measure: UnitMeasure = metrics.d_prime,
    *,
    rotations: int = 20,
    seed: int = 0,
    rectify: bool = False,
) -> RotationNull:
    """Hold a measure along the units of a layer against the same along random axes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    measure : callable
        (stimulus, unit) responses and (stimulus,) labels to (unit,). It has to make sense of signed
        responses, unless `rectify` is true: `unitprobe.metrics.d_prime`, ``roc_auc`` or
        ``eta_squared``, for example.
    rotations : int
        How many random rotations, at least 1; no p is below 1/(1 + rotations).
    seed : int
        The same seed gives the same rotations.
    rectify : bool
        Set to 0 what is negative, after centring and rotation, of the units and of the random axes
        alike. For measures of responses that are nowhere negative, such as
        `unitprobe.metrics.class_selectivity`: the value is then that of responses above each
        unit's mean, and not that of the responses as they are, with which no rotation compares.

    Returns
    -------
    RotationNull

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers; fewer than two units
        vary; the measure does not give a value for each unit, or is NaN for all.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    OptionError
        `rotations` is below 1.

    Notes
    -----
    Responses are centred over stimuli, units that do not vary are left out, and the rest is
    multiplied by Q, drawn from the Haar measure of the orthogonal group: Mezzadri, "How to generate
    random matrices from the classical compact groups" (2007). If the axes of the units were
    themselves a random choice, observed and rotated values would be exchangeable, so that p is
    exact. A rotation keeps every distance between stimuli; only the axes change. It does not keep
    the units' scales apart: where a few units have most of the variance, most random axes show a
    mixture of these.

    Each rotation costs a QR decomposition (units^3) and a product (stimuli x units^2).

    Examples
    --------
    Units that each respond to one class of four, which no mixture of them does better:

    >>> import numpy as np
    >>> labels = np.arange(80) % 4
    >>> noise = np.random.default_rng(0).normal(size=(80, 4))
    >>> null = rotation_null(2 * np.eye(4)[labels] + noise, labels, rotations=99)
    >>> null.p <= 0.05
    True
    """
    values, classes, _ = as_labelled_counts(responses, labels)
    if rotations < 1:
        raise OptionError(f"rotations={rotations} must be at least 1")
    values = centred(values)
    values = values[:, np.any(values != 0, axis=0)]
    units = values.shape[1]
    if units < 2:
        raise ResponseError(f"{units} units vary; a rotation needs at least two")

    def layer_mean(axes: FloatArray) -> float:
        along = np.maximum(axes, 0.0) if rectify else axes
        found = np.asarray(measure(along, classes), dtype=np.float64)
        if found.shape != (units,) or np.isnan(found).all():
            raise ResponseError(
                f"the measure must give one value for each of {units} axes, got shape "
                f"{found.shape} with {np.isnan(found).sum()} NaN"
            )
        return float(np.nanmean(found))

    observed = layer_mean(values)
    rng = np.random.default_rng(seed)
    rotated = np.array(
        [layer_mean(values @ _random_rotation(units, rng)) for _ in range(rotations)]
    )
    summary = summarize_null([observed], rotated[:, None])
    return RotationNull(observed, rotated, float(summary.z[0]), float(summary.p[0]), units)


def _random_rotation(size: int, rng: np.random.Generator) -> FloatArray:
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    # Without the signs of R the distribution is not uniform, and depends on the QR in use.
    signed: FloatArray = q * np.sign(np.diag(r))
    return signed
