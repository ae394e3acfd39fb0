"""Similarity of two representations of the same stimuli."""

from __future__ import annotations

from typing import Literal, get_args

from array_api_compat import array_namespace, device

from unitprobe.errors import OptionError, ResponseError
from unitprobe.metrics._arrays import as_responses, centred, divide, full_precision, safely_scaled
from unitprobe.typing import Array

#: Distance between the responses to two stimuli; see `representational_similarity`.
StimulusDistance = Literal["correlation", "euclidean"]


def response_pair(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the responses of two layers to the same stimuli in full precision, safe to square.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.
    """
    x, y = as_responses(x, "x"), as_responses(y, "y")
    if x.shape[0] != y.shape[0]:
        raise ResponseError(
            f"both layers must have the same stimuli, got {x.shape[0]} and {y.shape[0]}"
        )
    return safely_scaled(x, axis=None), safely_scaled(y, axis=None)


def linear_cka(x: Array, y: Array, *, unbiased: bool = False) -> Array:
    """Linear centred kernel alignment of two layers.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.
    unbiased : bool
        Whether each term is estimated without bias, so that layers that have nothing in common are
        around 0 whatever the number of stimuli.

    Returns
    -------
    array
        (), 0 (no linear relation) to 1 (the same up to rotation, scale and shift); if unbiased,
        from -1. NaN if no unit of `x`, or none of `y`, varies; if unbiased, also with fewer than 4
        stimuli, and where all pairs of stimuli are equally alike, as for one unit a stimulus.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.

    Notes
    -----
    ``|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)``, with X and Y less each unit's mean: Kornblith, Norouzi, Lee &
    Hinton, "Similarity of neural network representations revisited" (ICML 2019). With fewer
    stimuli than units the same is computed from XX' and YY'. It is biased upwards where stimuli
    are few beside units.

    If unbiased, the numerator and both squares under the root are the unbiased estimator of the
    Hilbert-Schmidt independence criterion, on the kernels K = XX' and L = YY' without their
    diagonals: Song, Smola, Gretton, Bedo & Borgwardt, "Feature selection via dependence
    maximization" (JMLR 2012), equation 5; in a CKA, Nguyen, Raghu & Kornblith, "Do wide and deep
    networks learn the same things?" (ICLR 2021). As the rows of K sum to 0, up to a factor that
    cancels it is ``tr KL - n/(n - 2) k.l + sum(k) sum(l) / ((n - 1)(n - 2))``, with k and l the
    diagonals and n the number of stimuli.

    Examples
    --------
    A rotated and scaled copy is the same representation:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> round(float(linear_cka(x, 5.0 * x @ rotation)), 6)
    1.0

    Noise has nothing in common with noise:

    >>> x, y = np.random.default_rng(1).normal(size=(2, 100, 50))
    >>> round(float(linear_cka(x, y)), 2), round(float(linear_cka(x, y, unbiased=True)), 2)
    (0.34, 0.01)
    """
    x, y = map(centred, response_pair(x, y))
    xp = array_namespace(x, y)
    stimuli = x.shape[0]
    with full_precision(x):
        if stimuli < max(x.shape[1], y.shape[1]):
            of_x, of_y = x @ x.T, y @ y.T
            shared = xp.sum(of_x * of_y)
        else:
            of_x, of_y = x.T @ x, y.T @ y
            shared = xp.sum((y.T @ x) ** 2)
    within_x, within_y = xp.sum(of_x**2), xp.sum(of_y**2)
    if unbiased:
        diagonal_x, diagonal_y = xp.sum(x**2, axis=1), xp.sum(y**2, axis=1)
        shared = _unbiased(shared, diagonal_x, diagonal_y)
        within_x = _above_rounding(_unbiased(within_x, diagonal_x, diagonal_x), within_x)
        within_y = _above_rounding(_unbiased(within_y, diagonal_y, diagonal_y), within_y)
    return divide(shared, xp.sqrt(within_x) * xp.sqrt(within_y))


def _unbiased(product: Array, diagonal_x: Array, diagonal_y: Array) -> Array:
    """Return the unbiased estimate from tr KL and the diagonals of both kernels."""
    xp = array_namespace(product)
    n = diagonal_x.shape[0]
    if n < 4:
        return product * 0.0
    of_sums = xp.sum(diagonal_x) * xp.sum(diagonal_y) / ((n - 1) * (n - 2))
    return product - n / (n - 2) * xp.sum(diagonal_x * diagonal_y) + of_sums


def _above_rounding(difference: Array, terms: Array) -> Array:
    """Return a difference, 0 where it is no more than the rounding of its terms."""
    xp = array_namespace(difference)
    return xp.where(difference > 1024 * xp.finfo(difference.dtype).eps * terms, difference, 0.0)


def procrustes_similarity(x: Array, y: Array) -> Array:
    """Orthogonal Procrustes similarity of two layers: how well a rotation maps one to the other.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.

    Returns
    -------
    array
        (), 0 (no linear relation) to 1 (the same up to rotation, reflection, scale and shift). NaN
        if no unit of `x`, or none of `y`, varies.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.

    Notes
    -----
    ``|Y'X|_* / (|X|_F |Y|_F)``, with X and Y less each unit's mean and ``|.|_*`` the sum of the
    singular values. With X and Y scaled to ``|X|_F = |Y|_F = 1``, and the smaller layer given units
    that are 0, it is ``1 - min_Q |X - YQ|_F^2 / 2`` over orthogonal Q: Schoenemann (1966); as a
    measure of similarity, Ding, Denain & Steinhardt, "Grounding representation similarity with
    statistical testing" (NeurIPS 2021). `scipy.spatial.procrustes` gives 1 less its square. It is
    biased upwards where stimuli are few beside units.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> rotation = np.array([[0.6, -0.8], [0.8, 0.6]])
    >>> round(float(procrustes_similarity(x, 3.0 * x @ rotation)), 6)
    1.0
    >>> round(float(procrustes_similarity(x, x[:, :1])), 6)
    0.707107
    """
    x, y = map(centred, response_pair(x, y))
    xp = array_namespace(x, y)
    sizes = xp.sqrt(xp.sum(x**2)) * xp.sqrt(xp.sum(y**2))
    with full_precision(x):
        product = _in_few_units(y).T @ _in_few_units(x)
        nuclear = xp.sum(xp.linalg.svdvals(product))
    return divide(nuclear, sizes)


def _in_few_units(x: Array) -> Array:
    """Return the same stimuli, rotated into no more units than there are stimuli."""
    if x.shape[1] <= x.shape[0]:
        return x
    return array_namespace(x).linalg.qr(x.T).R.T


def representational_similarity(
    x: Array, y: Array, *, distance: StimulusDistance = "correlation"
) -> Array:
    """Representational similarity analysis: whether two layers find the same stimuli alike.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.
    distance : {"correlation", "euclidean"}
        Distance between the responses to two stimuli: 1 less their Pearson correlation over units,
        or Euclidean.

    Returns
    -------
    array
        (), -1 to 1 (pairs of stimuli stand in the same order of distance). NaN if one layer holds
        all pairs equally far apart, as with fewer than 3 stimuli; with distance "correlation",
        also if a stimulus has the same response in every unit, so that nothing correlates with it.

    Raises
    ------
    ResponseError
        One is not a (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.
    OptionError
        The distance is not known.

    Notes
    -----
    Spearman's rank correlation of the distances of all pairs of stimuli in `x` with those in `y`,
    tied distances sharing their mean rank: Kriegeskorte, Mur & Bandettini, "Representational
    similarity analysis" (2008). Distances, squared if Euclidean, that differ by less than 1e-12 of
    the largest are ties, because rounding would order them. It holds the stimuli's distances in
    memory, 8 bytes for each pair a few times.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [5.0, 1.0, 0.0], [4.0, 1.0, 2.0]])
    >>> round(float(representational_similarity(x, 2.0 * x + 1.0)), 6)
    1.0
    """
    if distance not in get_args(StimulusDistance):
        known = ", ".join(get_args(StimulusDistance))
        raise OptionError(f"distance={distance!r} is not known; choose one of {known}")
    x, y = response_pair(x, y)
    xp = array_namespace(x, y)
    a, b = (_ranked_distances(layer, distance) for layer in (x, y))
    return divide(xp.sum(a * b), xp.sqrt(xp.sum(a**2)) * xp.sqrt(xp.sum(b**2)))


def _ranked_distances(responses: Array, distance: StimulusDistance) -> Array:
    """Return the rank of each pair of stimuli by distance, less the mean rank; NaN if undefined."""
    xp = array_namespace(responses)
    if distance == "correlation":
        patterns = centred(responses.T).T
        patterns = divide(patterns, xp.sqrt(xp.sum(patterns**2, axis=1, keepdims=True)))
    else:
        patterns = centred(responses)
    squares = xp.sum(patterns**2, axis=1)
    with full_precision(patterns):
        distances = squares[:, None] + squares[None, :] - 2.0 * (patterns @ patterns.T)
    stimuli = distances.shape[0]
    above = xp.triu(xp.ones((stimuli, stimuli), dtype=xp.bool, device=device(distances)), k=1)
    pairs = distances[above]
    if pairs.shape[0] == 0 or xp.any(xp.isnan(pairs)):
        return pairs * xp.nan
    largest = xp.max(pairs)
    levels = xp.round(pairs / xp.where(largest > 0, largest, 1.0) * 1e12)
    _, places = xp.unique_inverse(levels)
    _, counts = xp.unique_counts(levels)
    counts = xp.astype(counts, distances.dtype)
    ranks = xp.cumulative_sum(counts) - (counts - 1.0) / 2.0
    return ranks[places] - (pairs.shape[0] + 1) / 2.0
