"""Sparsity: over how few stimuli, or units, the response is spread.

*Lifetime* measures look along the stimuli of one unit, *population* measures along the units at one
stimulus. They answer different questions and neither can stand for the other: Willmore & Tolhurst,
"Characterizing the sparseness of neural codes" (2001).
"""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import (
    as_array,
    as_responses,
    centred,
    divide,
    full_precision,
    safely_scaled,
)
from unitprobe.typing import Array


def activity_ratio(responses: Array, axis: int = 0) -> Array:
    """Activity ratio: one over how many times the mean square exceeds the squared mean.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.
    axis : int
        0 looks along stimuli, 1 along units.

    Returns
    -------
    array
        (unit,) for axis 0, (stimulus,) for axis 1; 1/n (one response of n) to 1 (all alike) where
        no response is negative. NaN where every response is 0.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    a = mean(r)^2 / mean(r^2): Treves & Rolls, "What determines the capacity of autoassociative
    memories in the brain?" (1991); Rolls & Tovee (1995).

    Examples
    --------
    >>> import numpy as np
    >>> activity_ratio(np.array([[1.0, 4.0, 0.0], [1.0, 0.0, 0.0]]))
    array([1. , 0.5, nan])
    """
    responses = safely_scaled(as_responses(responses), axis)
    xp = array_namespace(responses)
    return divide(xp.mean(responses, axis=axis) ** 2, xp.mean(responses**2, axis=axis))


def lifetime_sparseness(responses: Array) -> Array:
    """Sparseness of each unit over stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.

    Returns
    -------
    array
        (unit,), 0 (the same response to every stimulus) to 1 (a response to one stimulus alone)
        where no response is negative. NaN for a dead unit, and if there is but one stimulus.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    S = (1 - a) / (1 - 1/n), with a the `activity_ratio` and n the number of stimuli: Vinje &
    Gallant, "Sparse coding and decorrelation in primary visual cortex during natural vision"
    (Science 2000).

    Examples
    --------
    A unit that responds equally to 3 of 10 stimuli has (1 - 3/10) / (1 - 1/10) = 7/9:

    >>> import numpy as np
    >>> responses = np.zeros((10, 1))
    >>> responses[:3] = 1.0
    >>> lifetime_sparseness(responses)
    array([0.77777778])
    """
    return _vinje_gallant(responses, axis=0)


def population_sparseness(responses: Array) -> Array:
    """Sparseness of the response to each stimulus over units.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.

    Returns
    -------
    array
        (stimulus,), 0 (every unit responds alike) to 1 (one unit alone responds) where no response
        is negative. NaN for a stimulus that no unit responds to, and if there is but one unit.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    As `lifetime_sparseness`, along the other axis: Willmore & Tolhurst (2001). Units on a larger
    scale weigh more.

    Examples
    --------
    >>> import numpy as np
    >>> population_sparseness(np.array([[1.0, 1.0], [0.0, 3.0], [0.0, 0.0]]))
    array([ 0.,  1., nan])
    """
    return _vinje_gallant(responses, axis=1)


def _vinje_gallant(responses: Array, axis: int) -> Array:
    ratio = activity_ratio(responses, axis)
    count = responses.shape[axis]
    # Of one response nothing can be said: 0/0.
    return (1.0 - ratio) / (1.0 - 1.0 / count) if count > 1 else ratio * math.nan


def hoyer_sparseness(responses: Array) -> Array:
    """Hoyer's sparseness of each unit over stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; the sign is ignored.

    Returns
    -------
    array
        (unit,), 0 (the same size of response to every stimulus) to 1 (a response to one stimulus
        alone). NaN for a dead unit, and if there is but one stimulus.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    ``(sqrt(n) - |r|_1 / |r|_2) / (sqrt(n) - 1)``: Hoyer, "Non-negative matrix factorization with
    sparseness constraints" (JMLR 2004).

    Examples
    --------
    A unit that responds equally to 3 of 10 stimuli:

    >>> import numpy as np
    >>> responses = np.zeros((10, 1))
    >>> responses[:3] = 1.0
    >>> hoyer_sparseness(responses)
    array([0.66144459])
    """
    responses = safely_scaled(as_responses(responses))
    xp = array_namespace(responses)
    root = math.sqrt(responses.shape[0])
    ratio = divide(
        xp.sum(xp.abs(responses), axis=0), xp.sqrt(xp.sum(responses * responses, axis=0))
    )
    return (root - ratio) / (root - 1.0) if root > 1 else ratio * math.nan


def gini(responses: Array) -> Array:
    """Gini coefficient of each unit over stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.

    Returns
    -------
    array
        (unit,), 0 (the same response to every stimulus) to 1 - 1/n (a response to one of n stimuli
        alone) where no response is negative. NaN for a unit whose responses sum to 0, within what
        rounding can tell.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    2 sum_i(i r_(i)) / (n sum r) - (n + 1)/n, with r_(i) ascending: Hurley & Rickard, "Comparing
    measures of sparsity" (2009).

    Examples
    --------
    A unit that responds equally to 3 of 10 stimuli has 1 - 3/10:

    >>> import numpy as np
    >>> responses = np.zeros((10, 1))
    >>> responses[:3] = 1.0
    >>> gini(responses)
    array([0.7])
    """
    responses = as_responses(responses)
    xp = array_namespace(responses)
    n = responses.shape[0]
    ordered = xp.sort(responses, axis=0, stable=False)
    # The (n + 1)/n goes into the ranks, so that a flat unit is 0 without cancellation.
    ranks = xp.astype(2 * xp.arange(1, n + 1, device=device(ordered)) - (n + 1), ordered.dtype)
    with full_precision(ordered):
        ranked = ranks @ ordered
    total = xp.sum(ordered, axis=0)
    # Of numbers of both signs that cancel, rounding leaves a sum that says nothing.
    left = n * xp.finfo(ordered.dtype).eps * xp.sum(xp.abs(ordered), axis=0)
    return divide(ranked, xp.where(xp.abs(total) <= left, xp.zeros_like(total), n * total))


def kurtosis(responses: Array) -> Array:
    """Excess kurtosis of each unit over stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (unit,), from -2; 0 for Gaussian responses, high where few stimuli drive the unit far
        from its mean. NaN for a unit that responds alike to every stimulus.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    m4 / m2^2 - 3, with m_k the central moments over n (not n - 1): `scipy.stats.kurtosis` by its
    default. As a measure of sparseness: Willmore & Tolhurst (2001).

    Examples
    --------
    >>> import numpy as np
    >>> kurtosis(np.array([[0.0, 7.0], [0.0, 7.0], [1.0, 7.0], [1.0, 7.0]]))
    array([-2., nan])
    """
    deviation = centred(as_responses(responses))
    xp = array_namespace(deviation)
    # In units of the largest deviation, because a fourth power soon under- or overflows.
    deviation = divide(deviation, xp.max(xp.abs(deviation), axis=0, keepdims=True))
    square = deviation * deviation
    return xp.mean(square * square, axis=0) / xp.mean(square, axis=0) ** 2 - 3.0


def fraction_active(responses: Array) -> Array:
    """Share of the stimuli that each unit responds to.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (unit,), 0 to 1: the share of stimuli with a response above 0. Never NaN.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    Over stimuli, after pooling; `average_percentage_of_zeros` counts positions too.

    Examples
    --------
    >>> import numpy as np
    >>> fraction_active(np.array([[0.0, 2.0], [0.0, 3.0], [5.0, 0.0], [0.0, -1.0]]))
    array([0.25, 0.5 ])
    """
    responses = as_responses(responses)
    xp = array_namespace(responses)
    return xp.mean(xp.astype(responses > 0, responses.dtype), axis=0)


def average_percentage_of_zeros(activations: Array, *, unit_axis: int = 1) -> Array:
    """Share of the stimuli and positions at which each unit is exactly 0, known as APoZ.

    Parameters
    ----------
    activations : array
        (stimulus, unit, ...) with any axes of positions, as (stimulus, unit, y, x), real and
        finite: what a layer computes, before pooling. Pooled responses (stimulus, unit) are 0 only
        where all positions are.
    unit_axis : int
        The axis of the units, not 0: -1 for (stimulus, token, unit).

    Returns
    -------
    array
        (unit,), 0 (never 0) to 1 (a dead unit), a share and not a percentage. Never NaN.

    Raises
    ------
    ResponseError
        The activations are not finite real numbers with at least two axes, or `unit_axis` is not
        one of them, other than the first.

    Notes
    -----
    Hu, Peng, Tai & Tang, "Network trimming" (arXiv:1607.03250), equation 1. It speaks of ReLU
    layers: other nonlinearities are hardly ever exactly 0.

    Examples
    --------
    Two stimuli at two positions:

    >>> import numpy as np
    >>> average_percentage_of_zeros(np.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [2.0, 5.0]]]))
    array([0.75, 0.25])
    """
    activations = as_array(activations)
    dimensions = activations.ndim
    if dimensions < 2 or unit_axis % dimensions == 0 or not -dimensions <= unit_axis < dimensions:
        raise ResponseError(
            f"unit_axis={unit_axis} must be an axis of the activations after the first, which is "
            f"the stimuli; their shape is {tuple(activations.shape)}"
        )
    xp = array_namespace(activations)
    by_unit = xp.moveaxis(activations, unit_axis, -1)
    responses = as_responses(xp.reshape(by_unit, (-1, by_unit.shape[-1])), "activations")
    return xp.mean(xp.astype(responses == 0, responses.dtype), axis=0)


def half_max_share(responses: Array) -> Array:
    """Share of the stimuli that drive each unit to at least half of its largest response.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real, finite and meant to be nowhere negative.

    Returns
    -------
    array
        (unit,), 1/n (one of n stimuli stands alone) to 1 (all drive it to half or more). NaN for a
        unit that no stimulus drives above 0.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    mean(r >= max(r)/2): the width at half maximum of the stimuli in order of response. It rests on
    the single largest response, so an outlier lowers it, and more stimuli lower it on the whole.

    Examples
    --------
    >>> import numpy as np
    >>> half_max_share(np.array([[4.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 0.0]]).repeat(2, 0))
    array([0.66666667, 1.        ,        nan])
    """
    responses = as_responses(responses)
    xp = array_namespace(responses)
    largest = xp.max(responses, axis=0)
    share = xp.mean(xp.astype(responses >= largest / 2, responses.dtype), axis=0)
    return xp.where(largest > 0, share, xp.nan)


def dead(responses: Array) -> Array:
    """Whether each unit's response to every stimulus is exactly 0.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (unit,), boolean.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> dead(np.array([[0.0, 0.0], [0.0, 1e-9]]))
    array([ True, False])
    """
    responses = as_responses(responses)
    return array_namespace(responses).all(responses == 0, axis=0)
