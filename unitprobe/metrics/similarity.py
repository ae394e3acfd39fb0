"""Similarity of two representations of the same stimuli."""

from __future__ import annotations

from array_api_compat import array_namespace

from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import Array, as_responses, centred, divide, full_precision


def linear_cka(x: Array, y: Array) -> Array:
    """Linear centred kernel alignment of two layers.

    Parameters
    ----------
    x, y : array
        (stimulus, unit) each, real and finite: the responses of two layers, which may have
        different numbers of units, to the same stimuli in the same order.

    Returns
    -------
    array
        (), 0 (no linear relation) to 1 (the same up to rotation, scale and shift). NaN if no
        unit of `x`, or none of `y`, varies.

    Raises
    ------
    ResponseError
        One is no (stimulus, unit) matrix of finite numbers, or the numbers of stimuli differ.

    Notes
    -----
    ``|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)``, with X and Y less each unit's mean: Kornblith, Norouzi, Lee &
    Hinton, "Similarity of neural network representations revisited" (ICML 2019). With fewer
    stimuli than units the same is computed from XX' and YY'. It is biased upwards where stimuli
    are few beside units.

    Examples
    --------
    A rotated and scaled copy is the same representation:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> rotation = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> round(float(linear_cka(x, 5.0 * x @ rotation)), 6)
    1.0
    """
    x, y = centred(as_responses(x, "x")), centred(as_responses(y, "y"))
    if x.shape[0] != y.shape[0]:
        raise ResponseError(
            f"both layers must have the same stimuli, got {x.shape[0]} and {y.shape[0]}"
        )
    xp = array_namespace(x, y)
    stimuli = x.shape[0]
    with full_precision(x):
        if stimuli < max(x.shape[1], y.shape[1]):
            of_x, of_y = x @ x.T, y @ y.T
            shared = xp.sum(of_x * of_y)
        else:
            of_x, of_y = x.T @ x, y.T @ y
            shared = xp.sum((y.T @ x) ** 2)
    return divide(shared, xp.sqrt(xp.sum(of_x**2)) * xp.sqrt(xp.sum(of_y**2)))
