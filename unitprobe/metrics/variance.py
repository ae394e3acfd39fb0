"""Analysis of variance: how much of a unit's variance lies between classes.

Each measure comes twice, as in `unitprobe.metrics.separation`: from responses, and, ending in
``_from_moments``, from the number of stimuli, the mean and the variance of every class.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from unitprobe.metrics._arrays import divide
from unitprobe.metrics._moments import labelled_moments, pool_classes
from unitprobe.metrics.classes import require_two_classes
from unitprobe.typing import Array


def anova_f(responses: Array, labels: Array) -> Array:
    """F statistic of each unit in a one-way analysis of variance over classes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), from 0; around 1 if classes do not matter, infinite if nothing varies within
        classes. NaN for a unit that responds alike to every stimulus, and if no class has two
        stimuli.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    Notes
    -----
    (SS_between / (C - 1)) / (SS_within / (N - C)), with C the classes that have stimuli, as
    `scipy.stats.f_oneway`: Fisher, "Statistical methods for research workers" (1925). The F
    distribution holds for Gaussian responses of equal variance, which those after a ReLU are not:
    take the p-value from shuffled labels. A sum of squares within classes that rounding cannot
    tell from 0, below 64 machine epsilons of the total, is 0.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[4.0, 7.0], [6.0, 7.0], [0.0, 7.0], [2.0, 7.0]])
    >>> anova_f(responses, np.array([0, 0, 1, 1]))
    array([ 8., nan])
    """
    require_two_classes(labels, "anova_f")
    return anova_f_from_moments(*labelled_moments(responses, labels))


def anova_f_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """`anova_f` from the moments of the classes.

    Parameters
    ----------
    counts, means, variances
        As `d_prime_from_moments`.

    Returns
    -------
    array
        (..., unit), as `anova_f`; NaN for a unit that is constant but for rounding, as
        `d_prime_from_moments`, and if fewer than two classes have stimuli.

    Raises
    ------
    ResponseError
        As `d_prime_from_moments`.

    Examples
    --------
    >>> anova_f_from_moments([2, 2], [[5.0], [1.0]], [[1.0], [1.0]])
    array([8.])
    """
    classes = pool_classes(counts, means, variances)
    xp = array_namespace(classes.deviations)
    groups = xp.sum(xp.astype(classes.counts > 0, classes.counts.dtype), axis=-2, keepdims=True)
    between, within = groups - 1.0, classes.stimuli - groups
    flat = classes.within <= classes.negligible_variance * classes.stimuli
    ratio = divide(classes.between * within, xp.where(flat, 0.0, classes.within) * between)
    f = xp.where(flat, xp.inf, ratio)
    return xp.where(classes.varies & (between > 0) & (within > 0), f, xp.nan)[..., 0, :]


def eta_squared(responses: Array, labels: Array) -> Array:
    """Share of the variance of each unit that lies between classes.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), 0 (the same mean response to every class) to 1 (the same response to all stimuli
        of a class). NaN for a unit that responds alike to every stimulus.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    Notes
    -----
    SS_between / SS_total, the correlation ratio: Fisher, "Statistical methods for research
    workers" (1925). It is biased upwards: where classes do not matter its mean over shuffled
    labels is (C - 1)/(N - 1), and it is 1 if every class has one stimulus.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[4.0, 7.0], [6.0, 7.0], [0.0, 7.0], [2.0, 7.0]])
    >>> eta_squared(responses, np.array([0, 0, 1, 1]))
    array([0.8, nan])
    """
    require_two_classes(labels, "eta_squared")
    return eta_squared_from_moments(*labelled_moments(responses, labels))


def eta_squared_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """`eta_squared` from the moments of the classes.

    Parameters
    ----------
    counts, means, variances
        As `d_prime_from_moments`.

    Returns
    -------
    array
        (..., unit), as `eta_squared`; NaN for a unit that is constant but for rounding, as
        `d_prime_from_moments`, and if fewer than two classes have stimuli.

    Raises
    ------
    ResponseError
        As `d_prime_from_moments`.

    Examples
    --------
    >>> eta_squared_from_moments([2, 2], [[5.0], [1.0]], [[1.0], [1.0]])
    array([0.8])
    """
    classes = pool_classes(counts, means, variances)
    xp = array_namespace(classes.deviations)
    share = divide(classes.between, classes.between + classes.within)
    several = xp.sum(xp.astype(classes.counts > 0, share.dtype), axis=-2, keepdims=True) > 1
    return xp.where(classes.varies & several, share, xp.nan)[..., 0, :]
