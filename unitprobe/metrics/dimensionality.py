"""Dimensionality: over how many directions the responses of a layer spread.

Every measure here is a function of the eigenvalues of the covariance between units, and so the same
for any rotation of the units. Each comes twice: from responses, and, ending in ``_from_spectrum``,
from `covariance_spectrum`, which is the costly part and need be computed but once. All depend on
the number of stimuli, which bounds them; compare them only at equal numbers.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import (
    as_array,
    as_responses,
    centred,
    divide,
    full_precision,
    safely_scaled,
    widen,
)
from unitprobe.typing import Array

_STIMULI_AT_A_TIME = 8192


def covariance_spectrum(responses: Array) -> Array:
    """Eigenvalues of the covariance between units.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (component,), the variance along each principal component, descending, min(stimuli, units)
        of them, in squared units of the responses. Those that rounding cannot tell from 0 are 0.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    With X the n x d responses less each unit's mean, X'X/(n - 1) and XX'/(n - 1) have the same
    eigenvalues but for zeros; the smaller is decomposed. 0 is what lies below
    max(n, d) * machine epsilon * largest eigenvalue.

    Examples
    --------
    >>> import numpy as np
    >>> covariance_spectrum(np.array([[0.0, 0.0, 5.0], [2.0, 0.0, 5.0], [1.0, 3.0, 5.0]]))
    array([3., 1., 0.])
    """
    x = as_responses(responses)
    xp = array_namespace(x)
    stimuli, units = x.shape
    with full_precision(x):
        if units <= stimuli:
            gram = _products_of_units(x)
        else:
            x = centred(x)
            gram = x @ x.T
    # One stimulus has no variance: 0 over anything is 0.
    eigenvalues = xp.flip(xp.linalg.eigvalsh(gram / max(stimuli - 1, 1)), axis=0)
    noise = max(stimuli, units) * xp.finfo(x.dtype).eps * eigenvalues[0]
    return xp.where(eigenvalues > noise, eigenvalues, 0.0)


def _scale_free_spectrum(responses: Array) -> Array:
    """Return `covariance_spectrum`, of responses times a power of 2 if they are of extreme size."""
    return covariance_spectrum(safely_scaled(as_responses(responses), axis=None))


def _products_of_units(responses: Array) -> Array:
    """Return (unit, unit) sums of products of the responses less each unit's mean.

    Some stimuli at a time: copies of all responses cost as much as half of the products.
    """
    xp = array_namespace(responses)
    stimuli = responses.shape[0]
    starts = range(0, stimuli, _STIMULI_AT_A_TIME)
    blocks = [responses[start : start + _STIMULI_AT_A_TIME, :] for start in starts]
    # The mean of n equal numbers is not always that number; the mean of n zeros is 0.
    first = responses[:1, :]
    shifts = sum(xp.sum(block - first, axis=0, keepdims=True) for block in blocks)
    mean = first + shifts / stimuli
    products: Array = 0.0
    for block in blocks:
        deviations = block - mean
        products = products + deviations.T @ deviations
    return products


def participation_ratio(responses: Array) -> Array:
    """Participation ratio of the principal components.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (), 1 (all variance along one direction) to min(stimuli - 1, units) (equal variance along
        all). NaN if no unit varies.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    (sum_i l_i)^2 / sum_i l_i^2, with l the eigenvalues of the covariance: Gao, Trautmann, Yu,
    Santhanam, Ryu, Shenoy & Ganguli, "A theory of multineuronal dimensionality, dynamics and
    measurement" (2017).

    Examples
    --------
    >>> import numpy as np
    >>> float(participation_ratio(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])))
    1.0
    """
    return participation_ratio_from_spectrum(_scale_free_spectrum(responses))


def participation_ratio_from_spectrum(eigenvalues: Array) -> Array:
    """`participation_ratio` from `covariance_spectrum`.

    Parameters
    ----------
    eigenvalues : array
        (component,), none negative.

    Returns
    -------
    array
        (), as `participation_ratio`.

    Examples
    --------
    >>> float(participation_ratio_from_spectrum([2.0, 2.0, 0.0]))
    2.0
    """
    shares = _shares(eigenvalues)
    return 1.0 / array_namespace(shares).sum(shares**2)


def effective_rank(responses: Array) -> Array:
    """Effective rank of the centred responses.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.

    Returns
    -------
    array
        (), 1 (all variance along one direction) to min(stimuli - 1, units) (equal variance along
        all). NaN if no unit varies.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    exp(-sum_i p_i log p_i) with p_i = s_i / sum_j s_j, s the *singular values* of the responses
    less each unit's mean, that is, the roots of the eigenvalues of the covariance: Roy & Vetterli,
    "The effective rank: a measure of effective dimensionality" (EUSIPCO 2007).

    Examples
    --------
    >>> import numpy as np
    >>> float(effective_rank(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])))
    2.0
    """
    return effective_rank_from_spectrum(_scale_free_spectrum(responses))


def effective_rank_from_spectrum(eigenvalues: Array) -> Array:
    """`effective_rank` from `covariance_spectrum`.

    Parameters
    ----------
    eigenvalues : array
        (component,), none negative.

    Returns
    -------
    array
        (), as `effective_rank`.

    Examples
    --------
    >>> float(effective_rank_from_spectrum([2.0, 2.0, 0.0]))
    2.0
    """
    eigenvalues = widen(as_array(eigenvalues))
    xp = array_namespace(eigenvalues)
    shares = _shares(xp.sqrt(eigenvalues))
    # The limit of p log p at 0 is 0.
    return xp.exp(-xp.sum(shares * xp.log(xp.where(shares == 0, 1.0, shares))))


def components_for(responses: Array, share: float) -> int:
    """Count the principal components that hold a share of the variance.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    share : float
        The share of the variance, above 0, at most 1.

    Returns
    -------
    int
        The smallest number of leading components that together hold the share, 1 to
        min(stimuli - 1, units); 0 if no unit varies.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    OptionError
        The share is not above 0 and at most 1.

    Notes
    -----
    min k such that sum_{i<=k} l_i / sum_i l_i >= share, with l the eigenvalues of the covariance:
    the dimensionality of Leavitt & Morcos, "On the relationship between class selectivity,
    dimensionality, and robustness" (arXiv:2007.04440).

    Examples
    --------
    >>> import numpy as np
    >>> components_for(np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 0.9)
    1
    """
    return components_from_spectrum(_scale_free_spectrum(responses), share)


def components_90(responses: Array) -> int:
    """Count the principal components that hold 90% of the variance: see `components_for`.

    Examples
    --------
    >>> import numpy as np
    >>> components_90(np.eye(10))
    9
    """
    return components_for(responses, 0.90)


def components_95(responses: Array) -> int:
    """Count the principal components that hold 95% of the variance: see `components_for`.

    Examples
    --------
    >>> import numpy as np
    >>> components_95(np.eye(41))
    38
    """
    return components_for(responses, 0.95)


def components_from_spectrum(eigenvalues: Array, share: float) -> int:
    """`components_for` from `covariance_spectrum`.

    Parameters
    ----------
    eigenvalues : array
        (component,), none negative, descending.
    share : float
        The share of the variance, above 0, at most 1.

    Returns
    -------
    int
        As `components_for`.

    Raises
    ------
    OptionError
        The share is not above 0 and at most 1.

    Examples
    --------
    >>> components_from_spectrum([5.0, 4.0, 1.0], 0.9)
    2
    """
    if not 0 < share <= 1:
        raise OptionError(f"share={share} must be above 0 and at most 1, such as 0.9")
    shares = _shares(eigenvalues)
    xp = array_namespace(shares)
    # A sum of ten tenths may fall short of 1 by rounding, and must not ask for an eleventh.
    short = xp.cumulative_sum(shares) < share - 1e-12
    return 0 if xp.any(xp.isnan(shares)) else int(xp.sum(short)) + 1


def _shares(values: Array) -> Array:
    """Return each value's share of their sum; NaN if the sum is 0."""
    values = widen(as_array(values))
    return divide(values, array_namespace(values).sum(values))
