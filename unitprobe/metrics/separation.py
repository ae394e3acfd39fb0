"""Separation: how far the responses to one class stand from the others.

Each measure is a function of the number of stimuli, the mean and the variance of every class. These
moments are all that a permutation of the labels changes, and one pass over the stimuli gives them.

- `d_prime`: (mu_A - mu_rest) / sqrt((var_A + var_rest) / 2). Green & Swets, "Signal detection
  theory and psychophysics" (1966), with the two variances averaged.
- `class_correlation`: Pearson's r of the response and the membership in class A, the point-biserial
  correlation; or the probability of A, as in Zhou, Sun, Bau & Torralba, "Revisiting the importance
  of individual units in CNNs via ablation" (arXiv:1806.02891).
- `anova_f`, `eta_squared`: the ratio of the variance between classes to that within, and its share
  of all. Fisher, "Statistical methods for research workers" (1925).

The parameters that all functions share are described in `unitprobe.metrics`. The functions that end
in ``_from_moments`` take the ``counts`` (class_name,) or (..., class_name) of stimuli, and the
``means`` and population ``variances`` (..., class_name, unit), NaN for a class without stimuli.
They return NaN for a unit whose standard deviation over all stimuli is below 4096 machine epsilons
of its largest mean: it is constant but for rounding. They raise a ResponseError where the moments
have fewer than two dimensions, or differ in shape.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from unitprobe.errors import LabelError, OptionError
from unitprobe.metrics._arrays import as_responses, centred, divide, full_precision, safely_scaled
from unitprobe.metrics._moments import labelled_moments, pool_classes
from unitprobe.metrics.classes import (
    Reduction,
    check_reduction,
    reduce_classes,
    require_two_classes,
)
from unitprobe.typing import Array


def d_prime(
    responses: Array,
    labels: Array,
    *,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Sensitivity index of each unit for its best class, or for every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), signed, in standard deviations. Infinite where neither the class nor the rest
        varies; NaN for a unit that responds alike to every stimulus. With ``reduce=None``
        (class_name, unit), negative for a class below the rest.

    Raises
    ------
    ResponseError, LabelError, OptionError
        See `unitprobe.metrics`.

    Notes
    -----
    The rest are all other *stimuli*, not classes. The largest of several noisy values is biased
    upwards: it needs its permutation null. A variance below 64 machine epsilons of that over all
    stimuli is rounding, and counts as 0; so no finite value exceeds about 2e7.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[4.0, 7.0], [6.0, 7.0], [0.0, 7.0], [2.0, 7.0]])
    >>> d_prime(responses, np.array([0, 0, 1, 1]))
    array([ 4., nan])
    >>> d_prime(responses, np.array([0, 0, 1, 1]), reduce=None)[:, 0]
    array([ 4., -4.])
    """
    check_reduction(reduce, labels, "d_prime")
    by_class = d_prime_from_moments(*labelled_moments(responses, labels, class_count))
    return reduce_classes(by_class, reduce)


def class_correlation(
    responses: Array,
    labels: Array | None = None,
    *,
    probabilities: Array | None = None,
    class_count: int | None = None,
    reduce: Reduction | None = "best",
) -> Array:
    """Correlation of each unit's response with its best class, or with every class.

    Parameters
    ----------
    responses, labels, class_count, reduce
        See `unitprobe.metrics`. Responses of any sign. Either labels or `probabilities` must be
        given, not both.
    probabilities : array, optional
        (stimulus, class_name), what the network gives each class, instead of membership.

    Returns
    -------
    array
        (unit,), signed, -1 to 1. NaN for a unit that responds alike to every stimulus. With
        ``reduce=None`` (class_name, unit), NaN too for a class of constant probability.

    Raises
    ------
    ResponseError
        See `unitprobe.metrics`.
    LabelError
        See `unitprobe.metrics`; or the probabilities do not fit.
    OptionError
        Neither labels nor probabilities were given, or both, or `reduce` is unknown.

    Notes
    -----
    Its size is bounded by how rare the class is, unless the response is binary.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[2.0, 7.0], [0.0, 7.0], [0.0, 7.0]])
    >>> class_correlation(responses, np.array([0, 1, 2]))
    array([ 1., nan])
    >>> probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.5, 0.5]])
    >>> class_correlation(np.array([[0.0], [1.0], [2.0]]), probabilities=probabilities, reduce=None)
    array([[ 1.],
           [-1.]])
    """
    if labels is not None:
        check_reduction(reduce, labels, "class_correlation")
    if (labels is None) == (probabilities is None):
        raise OptionError("class_correlation needs either labels or probabilities")
    if probabilities is None:
        moments = labelled_moments(responses, labels, class_count)
        return reduce_classes(class_correlation_from_moments(*moments), reduce)
    by_class = _correlation(as_responses(responses), as_responses(probabilities, "probabilities"))
    return reduce_classes(by_class, reduce)


def anova_f(responses: Array, labels: Array) -> Array:
    """F statistic of each unit in a one-way analysis of variance over classes.

    Parameters
    ----------
    responses, labels
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), from 0; around 1 if classes do not matter, infinite if nothing varies within
        classes. NaN for a unit that responds alike to every stimulus, and if no class has two
        stimuli.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

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


def eta_squared(responses: Array, labels: Array) -> Array:
    """Share of the variance of each unit that lies between classes.

    Parameters
    ----------
    responses, labels
        See `unitprobe.metrics`. Responses of any sign.

    Returns
    -------
    array
        (unit,), 0 (the same mean response to every class) to 1 (the same response to all stimuli
        of a class). NaN for a unit that responds alike to every stimulus.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.

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


def d_prime_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """Return `d_prime` of every class, (..., class_name, unit), from the moments of the classes.

    Examples
    --------
    >>> d_prime_from_moments([2, 2], [[5.0], [1.0]], [[1.0], [1.0]])
    array([[ 4.],
           [-4.]])
    """
    classes = pool_classes(counts, means, variances)
    xp = array_namespace(classes.deviations)
    counts, rest, stimuli = classes.counts, classes.stimuli - classes.counts, classes.stimuli
    # The rest is the whole less the class: its sum of squares about its own mean follows from
    # the deviations adding up to 0.
    between = counts * divide(stimuli, rest) * classes.deviations**2
    squares = (classes.within + classes.between) - counts * classes.variances - between
    variance_of_rest = divide(xp.clip(squares, min=0.0), rest)
    pooled = (classes.variances + variance_of_rest) / 2.0
    difference = classes.deviations * divide(stimuli, rest)

    flat = pooled <= classes.negligible_variance
    d = difference / xp.sqrt(xp.where(flat, 1.0, pooled))
    d = xp.where(flat, xp.where(difference < 0, -xp.inf, xp.inf), d)
    return xp.where(classes.varies & (counts > 0) & (rest > 0), d, xp.nan)


def class_correlation_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """Return `class_correlation` of every class, (..., class_name, unit), from the moments.

    Examples
    --------
    >>> class_correlation_from_moments([1, 1], [[5.0], [1.0]], [[0.0], [0.0]])
    array([[ 1.],
           [-1.]])
    """
    classes = pool_classes(counts, means, variances)
    xp = array_namespace(classes.deviations)
    counts, rest = classes.counts, classes.stimuli - classes.counts
    variance = (classes.within + classes.between) / classes.stimuli
    deviation = xp.sqrt(xp.where(classes.varies, variance, 1.0))
    r = classes.deviations * xp.sqrt(divide(counts, rest)) / deviation
    return xp.where(classes.varies & (counts > 0), xp.clip(r, min=-1.0, max=1.0), xp.nan)


def anova_f_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """Return `anova_f`, (..., unit), from the moments of the classes.

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


def eta_squared_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """Return `eta_squared`, (..., unit), from the moments of the classes.

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


def _correlation(responses: Array, probabilities: Array) -> Array:
    xp = array_namespace(responses)
    if probabilities.shape[0] != responses.shape[0]:
        raise LabelError(
            f"probabilities of {probabilities.shape[0]} stimuli do not fit responses to "
            f"{responses.shape[0]}"
        )
    x = centred(safely_scaled(responses))
    p = centred(xp.asarray(probabilities, device=device(x)))
    with full_precision(x):
        products = p.T @ x
    norms = [xp.sqrt(xp.sum(v * v, axis=0)) for v in (p, x)]
    r = divide(products, norms[0][:, None] * norms[1][None, :])
    return xp.clip(r, min=-1.0, max=1.0)
