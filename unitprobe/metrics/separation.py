"""Separation: how far the responses to one class stand from the others.

Each measure is a function of the number of stimuli, the mean and the variance of every class, and
so comes twice: from responses, and, ending in ``_from_moments``, from those. The moments are all
that a label shuffle changes, and they can be gathered in one pass.
"""

from __future__ import annotations

from array_api_compat import array_namespace, device

from unitprobe.errors import LabelError, OptionError
from unitprobe.metrics._arrays import as_responses, centred, divide, full_precision
from unitprobe.metrics._moments import labelled_moments, pool_classes
from unitprobe.metrics.classes import best_over_classes, require_two_classes
from unitprobe.typing import Array


def d_prime(responses: Array, labels: Array) -> Array:
    """Sensitivity index of each unit for its best class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.

    Returns
    -------
    array
        (unit,), the largest, signed value over classes, in standard deviations. Infinite where
        neither the best class nor the rest varies; NaN for a unit that responds alike to every
        stimulus.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes.

    See Also
    --------
    d_prime_by_class : The value of each class.

    Notes
    -----
    d' = (mu_A - mu_rest) / sqrt((var_A + var_rest) / 2), with the mean and the population variance
    over the stimuli of class A and over all other *stimuli*: Green & Swets, "Signal detection
    theory and psychophysics" (1966), with the two variances averaged. The largest of several noisy
    values is biased upwards: it needs its null.

    A variance that rounding cannot tell from 0, below 64 machine epsilons of that over all
    stimuli, is 0; so no finite value exceeds about 2e7.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[4.0, 7.0], [6.0, 7.0], [0.0, 7.0], [2.0, 7.0]])
    >>> d_prime(responses, np.array([0, 0, 1, 1]))
    array([ 4., nan])
    """
    require_two_classes(labels, "d_prime")
    return best_over_classes(d_prime_by_class(responses, labels))


def d_prime_by_class(responses: Array, labels: Array, class_count: int | None = None) -> Array:
    """Sensitivity index of each unit for each class against the rest.

    Parameters
    ----------
    responses, labels
        As `d_prime`.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), as `d_prime` and negative for a class below the rest. NaN too in the
        row of a class without stimuli, or with all of them.

    Raises
    ------
    ResponseError, LabelError
        As `class_means`.

    Examples
    --------
    >>> import numpy as np
    >>> d_prime_by_class(np.array([[4.0], [6.0], [0.0], [2.0]]), np.array([0, 0, 1, 1]))
    array([[ 4.],
           [-4.]])
    """
    return d_prime_from_moments(*labelled_moments(responses, labels, class_count))


def d_prime_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """`d_prime_by_class` from the moments of the classes.

    Parameters
    ----------
    counts : array
        (class_name,) or (..., class_name), the number of stimuli of each class.
    means : array
        (..., class_name, unit), with any dimensions before, such as resamples. NaN where the count
        is 0. Values are trusted, not looked at.
    variances : array
        (..., class_name, unit), population variances.

    Returns
    -------
    array
        (..., class_name, unit), as `d_prime_by_class`. NaN where the standard deviation over all
        stimuli is below 4096 machine epsilons of the largest mean: such a unit is constant but
        for rounding.

    Raises
    ------
    ResponseError
        The moments have fewer than two dimensions, or differ in shape.

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


def class_correlation(
    responses: Array, labels: Array | None = None, *, probabilities: Array | None = None
) -> Array:
    """Correlation of each unit's response with its best class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite; of any sign.
    labels : array, optional
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes. Either
        these or `probabilities` must be given, and not both.
    probabilities : array, optional
        (stimulus, class_name), what the network gives each class, instead of membership.

    Returns
    -------
    array
        (unit,), the largest, signed value over classes, -1 to 1. NaN for a unit that responds
        alike to every stimulus.

    Raises
    ------
    ResponseError
        The responses are no (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are no integers 0..C-1, one for each stimulus, or hold fewer than two classes;
        or the probabilities do not fit.
    OptionError
        Neither labels nor probabilities were given, or both.

    See Also
    --------
    class_correlation_by_class : The value of each class.

    Notes
    -----
    Pearson's r between the response and the membership in class A (1 for its stimuli, 0 for all
    others), which is the point-biserial correlation, or the probability of A as in Zhou, Sun, Bau
    & Torralba, "Revisiting the importance of individual units in CNNs via ablation"
    (arXiv:1806.02891). Its size is bounded by how rare the class is unless the response is binary.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[2.0, 7.0], [0.0, 7.0], [0.0, 7.0]])
    >>> class_correlation(responses, np.array([0, 1, 2]))
    array([ 1., nan])
    """
    if labels is not None:
        require_two_classes(labels, "class_correlation")
    by_class = class_correlation_by_class(responses, labels, probabilities=probabilities)
    return best_over_classes(by_class)


def class_correlation_by_class(
    responses: Array,
    labels: Array | None = None,
    class_count: int | None = None,
    *,
    probabilities: Array | None = None,
) -> Array:
    """Correlation of each unit's response with each class.

    Parameters
    ----------
    responses, labels, probabilities
        As `class_correlation`.
    class_count : int, optional
        The number of classes C of the labels. Without it, the highest label and one.

    Returns
    -------
    array
        (class_name, unit), -1 to 1. NaN for a unit that responds alike to every stimulus, for a
        class without stimuli or with all of them, and for one of constant probability.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `class_correlation`, save that one class is enough.

    Examples
    --------
    >>> import numpy as np
    >>> responses = np.array([[0.0], [1.0], [2.0]])
    >>> probabilities = np.array([[0.1, 0.9], [0.3, 0.7], [0.5, 0.5]])
    >>> class_correlation_by_class(responses, probabilities=probabilities)
    array([[ 1.],
           [-1.]])
    """
    if (labels is None) == (probabilities is None):
        raise OptionError("class_correlation needs either labels or probabilities")
    if probabilities is None:
        return class_correlation_from_moments(*labelled_moments(responses, labels, class_count))
    return _correlation(as_responses(responses), as_responses(probabilities, "probabilities"))


def class_correlation_from_moments(counts: Array, means: Array, variances: Array) -> Array:
    """`class_correlation_by_class`, for labels, from the moments of the classes.

    Parameters
    ----------
    counts, means, variances
        As `d_prime_from_moments`.

    Returns
    -------
    array
        (..., class_name, unit), as `class_correlation_by_class`; NaN for a unit that is constant
        but for rounding, as `d_prime_from_moments`.

    Raises
    ------
    ResponseError
        As `d_prime_from_moments`.

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


def _correlation(responses: Array, probabilities: Array) -> Array:
    xp = array_namespace(responses)
    if probabilities.shape[0] != responses.shape[0]:
        raise LabelError(
            f"probabilities of {probabilities.shape[0]} stimuli do not fit responses to "
            f"{responses.shape[0]}"
        )
    x = centred(responses)
    p = centred(xp.asarray(probabilities, device=device(x)))
    with full_precision(x):
        products = p.T @ x
    norms = [xp.sqrt(xp.sum(v * v, axis=0)) for v in (p, x)]
    r = divide(products, norms[0][:, None] * norms[1][None, :])
    return xp.clip(r, min=-1.0, max=1.0)
