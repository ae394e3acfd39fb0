"""Is selectivity gone, or only turned off the unit axes? The rotation that shows the most of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unitprobe.errors import LabelError, OptionError
from unitprobe.inference.estimates import class_selectivity_null
from unitprobe.metrics import class_counts, class_selectivity, selectivity_index
from unitprobe.metrics._arrays import as_labels, as_responses

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

# Of Adam, falling to 0 along a cosine. 0.01 to 0.1 find the same, 0.1 the soonest.
_RATE = 0.1
# Keeps a direction without any response at selectivity 0 and its gradient finite.
_EPSILON = 1e-7
_SHUFFLES = 20


@dataclass(frozen=True)
class SelectivityUpperBound:
    """The most class selectivity that a rotation of a layer was found to show.

    Every value but `fitted` is measured on stimuli that the rotation was not fitted to. A unit or
    direction without any response counts as 0 in the means, so that a rotation gains nothing by
    silencing directions.

    Attributes
    ----------
    value : float
        Mean selectivity of the directions found, 0 to 1.
    value_null : float
        The same with shuffled labels: what noise alone makes of it, direction by direction. A
        direction that responds to fewer stimuli has a higher noise floor, and the search finds
        such directions.
    at_axes, at_axes_null : float
        The same two of the units themselves, that is, without a rotation.
    fitted : float
        Mean selectivity of the directions on the stimuli that they were fitted to: too high.
    selectivity : array
        (direction,), the selectivity of each direction; NaN where it responds to nothing.
    rotation : array
        (unit, direction), orthonormal: ``max(responses @ rotation, 0)`` are the directions'
        responses.
    """

    value: float
    value_null: float
    at_axes: float
    at_axes_null: float
    fitted: float
    selectivity: FloatArray
    rotation: FloatArray


def selectivity_upper_bound(
    responses: ArrayLike, labels: ArrayLike, *, steps: int = 150, restarts: int = 1, seed: int
) -> SelectivityUpperBound:
    """Search the rotation of a layer whose rectified directions are the most class selective.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; meant to be rectified. Negative responses count as 0
        in `SelectivityUpperBound.at_axes`, and enter the rotation as they are.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1. Every class that has stimuli
        has two at least.
    steps : int
        Steps of the ascent, at least 1.
    restarts : int
        Ascents from a random rotation, beside the one from the unit axes; at least 0.
    seed : int
        Seed of the halves, the random rotations and the shuffles.

    Returns
    -------
    SelectivityUpperBound
        Fitted on one half of the stimuli, each class halved, and measured on the other.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels do not fit, hold fewer than two classes, or a class has one stimulus only.
    OptionError
        `steps` or `restarts` is too small.

    Notes
    -----
    Maximises the mean over directions d of SI_d(max(R W, 0)) over orthonormal W, with SI of
    `unitprobe.metrics.selectivity_index`: the control of Leavitt & Morcos, "Selectivity considered
    harmful" (2020), for selectivity that merely left the unit axes. W = W0 exp(A), A
    skew-symmetric, by Adam in single precision from W0 = 1 and from Haar-random W0; kept is the
    best on the fitted half.

    It is an *estimate* of the upper bound, from below: an ascent may miss the best rotation. And a
    maximum over rotations overfits: for 64 units of rectified noise, 10 classes and 500 stimuli of
    each in a half, selectivity is 0.34 on the fitted half and 0.10 on the other, where its null is
    0.10 too, and 0.05 at the axes. With few stimuli the value may even lie below `at_axes`.

    Examples
    --------
    Two units, each of one class, rotated by 45 degrees:

    >>> import numpy as np
    >>> labels = np.arange(200) % 2
    >>> turn = np.array([[1.0, 1.0], [-1.0, 1.0]]) / np.sqrt(2.0)
    >>> found = selectivity_upper_bound(np.eye(2)[labels] @ turn, labels, seed=0)
    >>> round(found.at_axes, 2), round(found.value, 2)
    (0.5, 1.0)
    """
    if steps < 1:
        raise OptionError(f"steps={steps} must be at least 1")
    if restarts < 0:
        raise OptionError(f"restarts={restarts} must be at least 0")
    values: FloatArray = as_responses(np.asarray(responses))
    classes: IntArray = as_labels(np.asarray(labels), responses=values)
    fit, held_out = _halves(classes, seed)

    objective = _Objective(values[fit], classes[fit])
    starts = _random_rotations(values.shape[1], restarts, seed)
    ascents = [_ascend(objective, start, steps) for start in starts]
    fitted, rotation = max(ascents, key=lambda ascent: ascent[0])

    rest, rest_labels = values[held_out], classes[held_out]
    directions = np.maximum(rest @ rotation, 0.0)
    at_axes = np.maximum(rest, 0.0)
    selectivity: FloatArray = class_selectivity(directions, rest_labels)
    return SelectivityUpperBound(
        value=_mean(selectivity),
        value_null=_null(directions, rest_labels, seed),
        at_axes=_mean(class_selectivity(at_axes, rest_labels)),
        at_axes_null=_null(at_axes, rest_labels, seed),
        fitted=fitted,
        selectivity=selectivity,
        rotation=rotation,
    )


def _halves(labels: IntArray, seed: int) -> tuple[IntArray, IntArray]:
    """Return the stimuli of two halves, of each class as many in either, or one more."""
    counts = class_counts(labels)
    if np.count_nonzero(counts) < 2:
        raise LabelError("selectivity needs stimuli of at least two classes, the labels hold one")
    if 1 in counts:
        raise LabelError(
            f"class {int(np.argmax(counts == 1))} has one stimulus; two are needed, one to fit the "
            f"rotation and one to measure it"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Within each class every other one: the place in the class, not in the order, decides.
    starts = np.repeat(np.cumsum(counts) - counts, counts.astype(np.int64))
    first = (np.arange(len(order)) - starts) % 2 == 0
    return order[first], order[~first]


def _random_rotations(units: int, restarts: int, seed: int) -> list[FloatArray]:
    """Return the unit axes and Haar-random orthonormal bases."""
    import scipy.stats

    rng = np.random.default_rng(seed)
    # One unit has but two orientations, and scipy refuses to draw one.
    if units == 1:
        return [np.eye(1), -np.eye(1)]
    drawn = [scipy.stats.ortho_group.rvs(units, random_state=rng) for _ in range(restarts)]
    return [np.eye(units), *drawn]


class _Objective:
    """Mean selectivity of the rectified directions of a basis, and its gradient."""

    def __init__(self, responses: FloatArray, labels: IntArray) -> None:
        # The index does not depend on the scale, and single precision does.
        scale = float(np.abs(responses).max()) or 1.0
        self._responses = torch.from_numpy((responses / scale).astype(np.float32))
        _, places = np.unique(labels, return_inverse=True)
        member = torch.nn.functional.one_hot(torch.from_numpy(places)).float().T
        self._averaging = member / member.sum(1, keepdim=True)

    def __call__(self, basis: Tensor) -> Tensor:
        means = self._averaging @ torch.relu(self._responses @ basis)
        value: Tensor = selectivity_index(means, eps=_EPSILON).mean()
        return value


def _ascend(objective: _Objective, start: FloatArray, steps: int) -> tuple[float, FloatArray]:
    """Return the highest value met and its basis."""
    origin = torch.from_numpy(start.astype(np.float32))
    angles = torch.zeros_like(origin, requires_grad=True)
    optimizer = torch.optim.Adam([angles], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept = -1.0, origin
    for _ in range(steps):
        above = angles.triu(1)
        basis = origin @ torch.linalg.matrix_exp(above - above.T)
        value = objective(basis)
        if value.item() > best:
            best, kept = value.item(), basis.detach()
        optimizer.zero_grad()
        (-value).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    # Nearest orthonormal basis, in double precision.
    left, _, right = np.linalg.svd(kept.numpy().astype(np.float64))
    return best, left @ right


def _mean(selectivity: FloatArray) -> float:
    return float(np.nan_to_num(selectivity).mean())


def _null(responses: FloatArray, labels: IntArray, seed: int) -> float:
    null = class_selectivity_null(responses, labels, resamples=_SHUFFLES, seed=seed)
    return float(np.nan_to_num(null).mean())
