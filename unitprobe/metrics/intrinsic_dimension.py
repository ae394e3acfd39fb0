"""Intrinsic dimension: on how many coordinates the responses lie, straight or curved.

Both measures look at how distances to the nearest neighbours grow, so that a curved sheet has two
dimensions in any number of units. Both need more stimuli the higher the dimension is, and come out
too low where these are few; compare them only at equal numbers. Computed in NumPy.
"""

from __future__ import annotations

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import run_in_threads
from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import as_responses, safely_scaled
from unitprobe.metrics._neighbours import nearest_distances
from unitprobe.typing import Array, FloatArray

_ROWS = 512  # stimuli that a thread looks at at a time, in the cache of its processor


def twonn_dimension(responses: Array) -> float:
    """Intrinsic dimension from the two nearest neighbours of each stimulus.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite. Of stimuli with equal responses one is kept.

    Returns
    -------
    float
        Above 0; not bounded by the number of units. NaN with fewer than 3 distinct stimuli, and
        where every stimulus is as far from its second neighbour as from its first.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.

    Notes
    -----
    With mu_(i) the i-th smallest ratio of the distances to the second and the first neighbour, and
    F_i = i/n, the slope of -log(1 - F_i) on log mu_(i), the line drawn through the origin and the
    largest 10% of the ratios left out: Facco, d'Errico, Rodriguez & Laio, "Estimating the intrinsic
    dimension of datasets by a minimal neighborhood information" (Scientific Reports 2017).
    Distances are exact, their search takes about n^2 * units operations.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 2000)
    >>> round(twonn_dimension(np.stack([np.cos(angle), np.sin(angle)], axis=1)), 1)
    1.0
    """
    points = _distinct(responses)
    if len(points) < 3:
        return float("nan")
    distances = nearest_distances(points, 2)
    ratios = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = ratios[: len(ratios) * 9 // 10]
    expected = -np.log1p(-np.arange(1, len(kept) + 1) / len(ratios))
    squares = kept @ kept
    return float(kept @ expected / squares) if squares > 0 else float("nan")


def mle_dimension(responses: Array, *, neighbours: int = 20) -> float:
    """Maximum likelihood estimate of the intrinsic dimension.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite. Of stimuli with equal responses one is kept.
    neighbours : int
        Nearest neighbours of each stimulus that are looked at, k, at least 2.

    Returns
    -------
    float
        Above 0; not bounded by the number of units. NaN with no more distinct stimuli than
        `neighbours`, and where all neighbours of every stimulus are equally far.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    OptionError
        The number of neighbours is below 2.

    Notes
    -----
    ``1/m = mean_i 1/(k - 1) sum_{j<k} log(T_k(i) / T_j(i))``, with T_j(i) the distance of stimulus
    i to its j-th neighbour: Levina & Bickel, "Maximum likelihood estimation of intrinsic dimension"
    (NeurIPS 2004), whose local estimates are averaged by their inverses, as MacKay & Ghahramani's
    comment on it (2005) shows to be right. Distances are exact, their search takes about
    n^2 * units operations.

    Examples
    --------
    >>> import numpy as np
    >>> plane = np.random.default_rng(0).normal(size=(2000, 2))
    >>> round(mle_dimension(plane @ np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])), 1)
    2.0
    """
    if neighbours < 2:
        raise OptionError(f"neighbours={neighbours} must be at least 2, such as 20")
    points = _distinct(responses)
    if len(points) <= neighbours:
        return float("nan")
    logs = np.log(nearest_distances(points, neighbours))
    inverse = np.mean(logs[:, -1:] - logs[:, :-1])
    return float(1.0 / inverse) if inverse > 0 else float("nan")


def _distinct(responses: Array) -> FloatArray:
    """Return the responses in NumPy, safe to square, each row once."""
    wide = safely_scaled(as_responses(responses), axis=None)
    if array_api_compat.is_torch_array(wide):
        wide = wide.detach().cpu()
    points = np.ascontiguousarray(wide, dtype=np.float64)
    if len(np.unique(_sums_of_bits(points))) == len(points):
        return points
    points = points + 0.0  # of -0.0 and 0.0 makes one
    rows = points.view(np.dtype((np.void, points.itemsize * points.shape[1])))[:, 0]
    return points[np.sort(np.unique(rows, return_index=True)[1])]


def _sums_of_bits(points: FloatArray) -> NDArray[np.uint64]:
    """Return a number of each row, the same for equal rows and seldom for others."""
    weights = np.random.default_rng(0).integers(2**64, size=points.shape[1], dtype=np.uint64)
    sums = np.empty(len(points), dtype=np.uint64)

    def add(start: int) -> None:
        rows = slice(start, start + _ROWS)
        sums[rows] = np.einsum("ij,j->i", (points[rows] + 0.0).view(np.uint64), weights)

    run_in_threads(add, range(0, len(points), _ROWS))
    return sums
