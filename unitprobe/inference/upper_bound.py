"""Is selectivity gone, or only turned off the unit axes? The rotation that shows the most of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from unitprobe.errors import LabelError, OptionError
from unitprobe.inference.estimates import class_selectivity_null
from unitprobe.metrics import class_counts, class_selectivity, selectivity_index
from unitprobe.metrics._arrays import as_labels, as_responses
from unitprobe.typing import FloatArray, IntArray

# Of Adam, falling to 0 along a cosine. On layers of ResNet-20, 0.1 ends in lower maxima.
_RATE = 0.03
# The part of the ascent in which the rectification is smooth: without it a direction that responds
# to nothing has no gradient, and stays so.
_SMOOTH = 0.7
# Drawn again for each step; the same all the way would be fitted too.
_SHUFFLES_OF_STEP = 2
# Keeps a direction without any response at selectivity 0 and its gradient finite.
_EPSILON = 1e-7
_SHUFFLES = 20


@dataclass(frozen=True)
class SelectivityUpperBound:
    """The most class selectivity beyond chance that a rotation of a layer was found to show.

    Every value but `fitted` and `fitted_null` is measured on stimuli that the rotation was not
    fitted to. A unit or direction without any response counts as 0 in the means, so that a
    rotation gains nothing by silencing directions.

    Attributes
    ----------
    value : float
        Mean selectivity of the directions found, 0 to 1.
    value_null : float
        The same with shuffled labels: what noise alone makes of it, direction by direction. A
        direction that responds to fewer stimuli has a higher noise floor. What the rotation shows
        is `value` less this, and to be compared with `at_axes` less `at_axes_null`.
    at_axes, at_axes_null : float
        The same two of the units themselves, that is, without a rotation.
    fitted, fitted_null : float
        The same two on the stimuli that the rotation was fitted to: too high.
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
    fitted_null: float
    selectivity: FloatArray
    rotation: FloatArray


def selectivity_upper_bound(
    responses: ArrayLike, labels: ArrayLike, *, steps: int = 300, restarts: int = 1, seed: int
) -> SelectivityUpperBound:
    """Search the rotation whose rectified directions are the most class selective beyond chance.

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
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels do not fit, hold fewer than two classes, or a class has one stimulus only.
    OptionError
        `steps` or `restarts` is too small.

    Notes
    -----
    Maximises the mean over directions d of SI_d(max(R W, 0)) less what the same directions have
    with shuffled labels, over orthonormal W, with SI of `unitprobe.metrics.selectivity_index`: the
    control of Leavitt & Morcos, "Selectivity considered harmful" (2020), for selectivity that
    merely left the unit axes. They maximise SI itself. Of that the highest values are noise: a
    direction that responds to two stimuli of one class has an SI of 1, and a rotation can turn
    most directions away from nearly all stimuli.

    The ascent follows the gradient along rotations, by Adam in single precision, from the unit axes
    and from Haar-random W. Shuffles are drawn again for each step. For 0.7 of the steps the
    rectification is a softplus that narrows from the deviation of a unit to nothing, so that
    directions without any response come back. Kept is what has the most selectivity beyond chance
    on the fitted half, of the ends of all ascents and of the unit axes.

    It is an *estimate* of the upper bound, from below: an ascent may miss the best rotation, and
    ends in one of several maxima, which one depends on rounding. And a maximum over rotations
    overfits: for 64 units of rectified noise, 10 classes and 500 stimuli of each in a half, the
    selectivity is 0.34 on the fitted half and 0.09 on the other, which is its null.

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

    objective = _Objective(values[fit], classes[fit], seed)
    starts = _random_rotations(values.shape[1], restarts, seed)
    candidates = [starts[0], *(_ascend(objective, start, steps) for start in starts)]
    fits = [_measure(values[fit] @ each, classes[fit], seed) for each in candidates]
    best = max(range(len(fits)), key=lambda place: fits[place].beyond_chance)

    of_rotation = _measure(values[held_out] @ candidates[best], classes[held_out], seed)
    of_axes = _measure(values[held_out], classes[held_out], seed)
    return SelectivityUpperBound(
        value=of_rotation.value,
        value_null=of_rotation.null,
        at_axes=of_axes.value,
        at_axes_null=of_axes.null,
        fitted=fits[best].value,
        fitted_null=fits[best].null,
        selectivity=of_rotation.selectivity,
        rotation=candidates[best],
    )


@dataclass(frozen=True)
class _Measured:
    """The selectivity of directions, their mean, and that mean with shuffled labels."""

    selectivity: FloatArray
    value: float
    null: float

    @property
    def beyond_chance(self) -> float:
        return self.value - self.null


def _measure(responses: FloatArray, labels: IntArray, seed: int) -> _Measured:
    rectified = np.maximum(responses, 0.0)
    selectivity: FloatArray = class_selectivity(rectified, labels)
    null = class_selectivity_null(rectified, labels, resamples=_SHUFFLES, seed=seed)
    return _Measured(selectivity, _mean(selectivity), _mean(null))


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
    # Within each class every other one: the position in the class, not in the order, decides.
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
    """Mean selectivity beyond chance of the rectified directions of a basis."""

    def __init__(self, responses: FloatArray, labels: IntArray, seed: int) -> None:
        # The index does not depend on the scale, and single precision does.
        scale = float(np.abs(responses).max()) or 1.0
        self._responses = torch.from_numpy((responses / scale).astype(np.float32))
        _, places = np.unique(labels, return_inverse=True)
        self._classes = torch.from_numpy(places)
        self._counts = torch.bincount(self._classes)[:, None]
        # Of a unit; the same for the directions of every basis.
        self._deviation = float(self._responses.var(0, correction=0).mean().sqrt())
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, basis: Tensor, smoothing: float) -> Tensor:
        """Return the mean, the rectification rounded off over so many deviations of a unit."""
        directions = self._responses @ basis
        width = smoothing * self._deviation
        rectified = softplus(directions, beta=1 / width) if width else torch.relu(directions)
        value = self._selectivity(rectified, self._classes)
        for _ in range(_SHUFFLES_OF_STEP):
            order = torch.randperm(len(self._classes), generator=self._generator)
            shuffled = self._selectivity(rectified, self._classes[order])
            value = value - shuffled / _SHUFFLES_OF_STEP
        return value

    def _selectivity(self, rectified: Tensor, classes: Tensor) -> Tensor:
        sums = rectified.new_zeros(len(self._counts), rectified.shape[1])
        means = sums.index_add(0, classes, rectified) / self._counts
        value: Tensor = selectivity_index(means, eps=_EPSILON).mean()
        return value


def _ascend(objective: _Objective, start: FloatArray, steps: int) -> FloatArray:
    """Return the basis in which an ascent from another ends."""
    basis = torch.from_numpy(start.astype(np.float32))
    turn = torch.zeros_like(basis)
    optimizer = torch.optim.Adam([turn], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        basis.requires_grad_()
        value = objective(basis, max(0.0, 1 - step / (_SMOOTH * steps)))
        (gradient,) = torch.autograd.grad(value, basis)
        basis = basis.detach()
        # Along basis @ matrix_exp(A), A skew-symmetric, at A = 0; the optimizer descends.
        along = basis.T @ gradient
        turn.grad = (along.T - along).triu(1)
        turn.zero_()
        optimizer.step()
        schedule.step()
        basis = basis @ torch.linalg.matrix_exp(turn - turn.T)
    # Nearest orthonormal basis, in double precision.
    left, _, right = np.linalg.svd(basis.numpy().astype(np.float64))
    nearest: FloatArray = left @ right
    return nearest


def _mean(selectivity: FloatArray) -> float:
    return float(np.nan_to_num(selectivity).mean())
