"""Directions that the centres of class manifolds share, which the mean-field theory cannot hold.

After Cohen, Chung, Lee & Sompolinsky, "Separability and geometry of object manifolds in deep neural
networks" (Nature Communications 2020), methods, and the code published by its authors
(schung039/neural_manifolds_replicaMFT).
"""

from __future__ import annotations

import numpy as np

from unitprobe.typing import FloatArray

_STARTS = 3  # of each minimization; the authors' code takes 10
_STEPS = 400  # of each minimization; after 100 the correlations still fell by up to 4%
_BEYOND = 11  # directions tried beyond the last that leaves out 5% of the variance of centres


def shared_centre_directions(centres: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Find the few directions without which the centres are least correlated.

    Parameters
    ----------
    centres : array
        (class_name, unit), finite.
    rng : Generator
        Draws where minimizations start.

    Returns
    -------
    array
        (component, unit), orthonormal rows. None with centres of fewer than 3 dimensions, of which
        none can be given up.

    Notes
    -----
    For K = 1, 2, ... the K directions minimize the sum, over pairs of centres less their mean and
    these directions, of the squared correlation; each minimization starts from the K - 1 directions
    before and a random one. Of several starts, the one is kept whose most shortened centre is
    shortened least, and of all K the one with the least mean absolute correlation. The
    search ends after three steps up in a row, or beyond the directions with 95% of the variance.
    The minima are local and depend on the start, as those of the authors' code do. Its formulas,
    minimized with the solver that it takes (pymanopt, 5 starts), on six sets of 25 to 40 manifolds:
    a mean correlation, of 0.06 to 0.11, within 2% of that found here, and as many directions, 3 to
    10, give or take one. Where a few stand out (two sets) they are the same; else the capacity of
    the layer without them differed by up to 8%, as it does between seeds.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centres = rng.normal(size=(30, 40))
    >>> centres[:, 0] += 20 * rng.normal(size=30)
    >>> bool(np.linalg.norm(shared_centre_directions(centres, rng)[:, 0]) > 0.9)
    True
    """
    within = centres - centres.mean(axis=0)
    _, sizes, basis = np.linalg.svd(within, full_matrices=False)
    rank = int(np.sum(sizes > max(within.shape) * np.finfo(np.float64).eps * sizes[0]))
    basis = basis[:rank]
    points = within @ basis.T
    held = np.cumsum(sizes**2) / max(np.sum(sizes**2), np.finfo(np.float64).tiny)
    most = min(max(int(np.sum(held < 0.95)) - 1, 0) + _BEYOND, rank - 2)
    found = np.zeros((rank, 0))
    candidates: list[FloatArray] = []
    correlations: list[float] = []
    for count in range(1, most + 1):
        mixes = rng.normal(size=(_STARTS, len(points)))
        ends = [_least_correlated(np.column_stack([mix @ points, found]), points) for mix in mixes]
        found = max(ends, key=lambda directions: _least_kept(directions, points))
        candidates.append(found)
        correlations.append(_mean_correlation(found, points))
        if count > 4 and correlations[-4] < correlations[-3] < correlations[-2] < correlations[-1]:
            break
    if not candidates:
        return np.zeros((0, centres.shape[1]))
    shared: FloatArray = candidates[int(np.argmin(correlations))].T @ basis
    return shared


def _least_correlated(start: FloatArray, points: FloatArray) -> FloatArray:
    """Return the (coordinate, component) directions at the minimum that a start leads to."""
    shape = start.shape

    def cost(flat: FloatArray) -> tuple[float, FloatArray]:
        # Only the space that the columns span matters, so any matrix may stand for it.
        directions, triangle = np.linalg.qr(flat.reshape(shape))
        unit, lengths = _residuals(directions, points)
        correlations = unit @ unit.T
        pull = 2.0 * correlations @ unit
        pull -= np.sum(pull * unit, axis=1, keepdims=True) * unit
        of_directions = -(pull / lengths).T @ (points @ directions)
        gradient: FloatArray = np.linalg.solve(triangle, of_directions.T).T
        return 0.5 * float(np.sum(correlations**2)), gradient.ravel()

    first = np.linalg.qr(start)[0]
    from scipy.optimize import minimize

    found = minimize(
        cost, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "ftol": 1e-7}
    )
    directions: FloatArray = np.linalg.qr(found.x.reshape(shape))[0]
    return directions


def _residuals(directions: FloatArray, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the points without these directions, at length 1, and their lengths as a column."""
    rest = points - (points @ directions) @ directions.T
    lengths = np.linalg.norm(rest, axis=1, keepdims=True)
    lengths = np.maximum(lengths, np.finfo(np.float64).tiny)
    return rest / lengths, lengths


def _least_kept(directions: FloatArray, points: FloatArray) -> float:
    lengths = _residuals(directions, points)[1][:, 0]
    whole = np.maximum(np.linalg.norm(points, axis=1), np.finfo(np.float64).tiny)
    return float(np.min(lengths / whole))


def _mean_correlation(directions: FloatArray, points: FloatArray) -> float:
    unit = _residuals(directions, points)[0]
    count = len(unit)
    return float((np.sum(np.abs(unit @ unit.T)) - count) / (count * (count - 1)))
