"""Canonical correlation analysis: what two layers hold in common, whatever linear mixes they hold.

Blind to any invertible linear map of either layer, and so to how much variance a direction has,
which SVCCA and PWCCA bring back in two ways. All need many more stimuli than units: with n stimuli,
layers of a and b dimensions share at least a + b - (n - 1) directions whatever they are.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from unitprobe.errors import OptionError, UnitprobeWarning
from unitprobe.metrics._arrays import as_array, centred, full_precision
from unitprobe.metrics.similarity import response_pair
from unitprobe.typing import Array


class _Components(NamedTuple):
    """Principal components of one layer, X = scores @ diag(sizes) @ loadings, none of them 0."""

    scores: Array  # (stimulus, component), orthonormal columns
    sizes: Array  # (component,), singular values, descending
    loadings: Array  # (component, unit), orthonormal rows


def canonical_correlations(x: Array, y: Array) -> Array:
    """Canonical correlations of two layers.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.

    Returns
    -------
    array
        (component,), descending, 0 to 1: as many as the layer of fewer dimensions has; none if no
        unit of it varies.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.

    Warns
    -----
    UnitprobeWarning
        The stimuli are so few that some correlations are 1 whatever the layers are.

    Notes
    -----
    The singular values of Qx'Qy, with Qx and Qy orthonormal bases of the responses less each unit's
    mean: Bjorck & Golub, "Numerical methods for computing angles between linear subspaces" (1973).
    Directions that rounding may have made are left out, or each would count as much as a true
    one: those with a singular value below machine epsilon, of the type that `x` or `y` came in,
    times the root of the sum of its squared responses. An output layer with more units than
    its input is such a case.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> canonical_correlations(x, x[:, :2] @ np.array([[1.0, 5.0], [0.0, 2.0]])).round(6)
    array([1., 1.])
    """
    of_x, of_y = _component_pair(x, y)
    return _correlate(of_x, of_y)[1]


def svcca(x: Array, y: Array, *, share: float = 0.99) -> Array:
    """Singular vector canonical correlation analysis of two layers.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.
    share : float
        Share of the variance of each layer that the principal components kept hold at least,
        above 0, at most 1.

    Returns
    -------
    array
        (), 0 (no linear relation) to 1 (the components of one layer are linear in those of the
        other). NaN if no unit of `x`, or none of `y`, varies.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.
    OptionError
        The share is not above 0 and at most 1.

    Warns
    -----
    UnitprobeWarning
        The stimuli are so few that some correlations are 1 whatever the layers are.

    Notes
    -----
    The mean of the canonical correlations of the fewest leading principal components that hold the
    share: Raghu, Gilmer, Yosinski & Sohl-Dickstein, "SVCCA" (NeurIPS 2017). Noise makes every
    canonical correlation positive, by about the root of components/stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> mixed = x @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    >>> round(float(svcca(x, mixed)), 6)
    1.0
    """
    if not 0 < share <= 1:
        raise OptionError(f"share={share} must be above 0 and at most 1, such as 0.99")
    of_x, of_y = _component_pair(x, y)
    correlations = _correlate(_leading(of_x, share), _leading(of_y, share))[1]
    return _mean(correlations, correlations * 0.0 + 1.0)


def pwcca(x: Array, y: Array) -> Array:
    """Projection weighted canonical correlation analysis of two layers.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.

    Returns
    -------
    array
        (), 0 (no linear relation) to 1 (the layer of fewer dimensions is linear in the other). NaN
        if no unit of `x`, or none of `y`, varies.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.

    Warns
    -----
    UnitprobeWarning
        The stimuli are so few that some correlations are 1 whatever the layers are.

    Notes
    -----
    ``sum_i w_i rho_i / sum_i w_i`` over the canonical correlations rho_i, with
    ``w_i = sum_j |h_i . z_j|``, h_i the i-th canonical variate of the layer of fewer dimensions, of
    length 1, and z_j the responses of its j-th unit less their mean: Morcos, Raghu & Bengio,
    "Insights on representational similarity in neural networks with canonical correlation"
    (NeurIPS 2018). Of two layers of as many dimensions `x` is taken, so exchanging them may then
    change the value.

    It is not the value of the code published with the paper (google/svcca), which weights by
    variates of `x` where `y` is the smaller layer, and by responses with their means.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> mixed = x @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    >>> round(float(pwcca(mixed, x)), 6)
    1.0
    """
    smaller, larger = _component_pair(x, y)
    if larger.sizes.shape[0] < smaller.sizes.shape[0]:
        smaller, larger = larger, smaller
    xp = array_namespace(smaller.scores)
    with full_precision(smaller.scores):
        rotation, correlations = _correlate(smaller, larger)
        # The variates are scores @ rotation, so that their products with the responses need none
        # of the stimuli.
        products = rotation.T @ (smaller.sizes[:, None] * smaller.loadings)
    return _mean(correlations, xp.sum(xp.abs(products), axis=1))


def _component_pair(x: Array, y: Array) -> tuple[_Components, _Components]:
    wide_x, wide_y = response_pair(x, y)
    return _components(wide_x, as_array(x).dtype), _components(wide_y, as_array(y).dtype)


def _components(responses: Array, given: Any) -> _Components:
    """Return the components of responses, centred, that rounding to `given` cannot explain."""
    xp = array_namespace(responses)
    with full_precision(responses):
        scores, sizes, loadings = xp.linalg.svd(centred(responses), full_matrices=False)
    epsilon = xp.finfo(responses.dtype).eps
    noise = max(responses.shape) * epsilon * sizes[0]
    if xp.isdtype(given, "real floating"):
        noise = max(noise, xp.finfo(given).eps * xp.sqrt(xp.sum(responses**2)))
    count = int(xp.sum(xp.astype(sizes > noise, xp.int64)))
    return _Components(scores[:, :count], sizes[:count], loadings[:count, :])


def _leading(components: _Components, share: float) -> _Components:
    scores, sizes, loadings = components
    xp = array_namespace(sizes)
    held = xp.cumulative_sum(sizes**2)
    # A sum of ten tenths may fall short of 1 by rounding, and must not ask for an eleventh.
    short = held < (share - 1e-12) * xp.sum(sizes**2)
    count = min(int(xp.sum(xp.astype(short, xp.int64))) + 1, sizes.shape[0])
    return _Components(scores[:, :count], sizes[:count], loadings[:count, :])


def _correlate(x: _Components, y: _Components) -> tuple[Array, Array]:
    """Return the rotation of `x` into its canonical variates, and their correlations.

    The rotation is (component of `x`, canonical component), with no more of these than `x` or `y`
    has components.
    """
    xp = array_namespace(x.scores, y.scores)
    stimuli, of_x = x.scores.shape
    of_y = y.scores.shape[1]
    certain = of_x + of_y - (stimuli - 1)
    if certain > 0:
        warnings.warn(
            f"{stimuli} stimuli are too few to correlate layers of {of_x} and {of_y} dimensions: "
            f"at least {certain} of {min(of_x, of_y)} canonical correlations are 1 whatever the "
            f"layers are; take many more stimuli than units",
            UnitprobeWarning,
            stacklevel=3,
        )
    if not of_x or not of_y:
        return x.scores[:0, :0], x.sizes[:0]
    with full_precision(x.scores):
        rotation, correlations, _ = xp.linalg.svd(x.scores.T @ y.scores, full_matrices=False)
    return rotation, xp.clip(correlations, 0.0, 1.0)


def _mean(values: Array, weights: Array) -> Array:
    xp = array_namespace(values)
    if values.shape[0] == 0:
        return xp.sum(values) * xp.nan
    return xp.sum(weights * values) / xp.sum(weights)
