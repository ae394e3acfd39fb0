"""Manifold geometry: how separable the clouds of responses to each class are, and why.

Mean-field theory of Chung, Lee & Sompolinsky, "Classification and geometry of general perceptual
manifolds" (Physical Review X 2018), applied to networks by Cohen, Chung, Lee & Sompolinsky,
"Separability and geometry of object manifolds in deep neural networks" (Nature Communications
2020). Computed in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unitprobe.errors import OptionError
from unitprobe.metrics._arrays import as_labels, as_responses
from unitprobe.metrics.manifold_centres import shared_centre_directions
from unitprobe.metrics.tuning import class_counts
from unitprobe.typing import Array, FloatArray


@dataclass(frozen=True)
class ManifoldGeometry:
    """The geometry of each class manifold; every array is (class_name,).

    Attributes
    ----------
    capacity : array
        Manifolds of this shape that a linear readout can separate at random labels, per unit of
        the layer; at most that of single points, which at margin 0 is 2.
    radius : array
        Size of the part of the manifold that the separation rests on, in distances of its centre
        from the mean response; 0 for a point.
    dimension : array
        Number of directions that this part extends in; 0 for a point.
    projected_directions : int
        Number of directions shared by the centres that were projected out; 0 if none were asked to
        be.
    """

    capacity: FloatArray
    radius: FloatArray
    dimension: FloatArray
    projected_directions: int = 0

    @property
    def layer_capacity(self) -> float:
        """Capacity for all manifolds together, 1 / mean(1 / capacity); NaN classes left out."""
        known = self.capacity[~np.isnan(self.capacity)]
        return float(1.0 / np.mean(1.0 / known)) if known.size else float("nan")


def manifold_geometry(
    responses: Array,
    labels: Array,
    *,
    margin: float = 0.0,
    project_centres: bool = False,
    directions: int = 200,
    seed: int = 0,
) -> ManifoldGeometry:
    """Capacity, radius and dimension of each class manifold.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite. They may be signed.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    margin : float
        Least distance of the manifolds from the separating plane, kappa, at least 0, in units of
        the distance of each manifold's centre from the mean response.
    project_centres : bool
        Whether directions that the centres share are projected out of the responses first, as
        Cohen et al. do; see `unitprobe.metrics.manifold_centres.shared_centre_directions`. It needs
        centres of at least 3 dimensions.
    directions : int
        Random directions that each manifold is averaged over, at least 1. The standard error of
        the result falls with its root.
    seed : int
        The same seed gives the same directions.

    Returns
    -------
    ManifoldGeometry
        Each field (class_name,). NaN for a class without stimuli, or whose mean is the mean of all
        responses.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    OptionError
        The number of directions is below 1, or the margin is not finite or below 0.

    Notes
    -----
    The mean of all responses is subtracted, and each manifold measured in units of the distance of
    its centre, with one coordinate, equal to 1, along the centre: points s_k. For each Gaussian
    direction t, v is the nearest point to t with v.s_k <= -kappa for all k. Because the coordinate
    along the centre is 1, t - v is the nearest point to t, moved by kappa along it, of the cone of
    the s_k, sum_k a_k s_k with a_k >= 0: a non-negative least-squares problem. The anchor point is
    s = (t - v) / sum_k a_k, or, where t is itself such a v, the s_k that t comes nearest to. With
    means over t (equations 16, 28 and 29 of Chung et al.):

    - ``1 / capacity = <|t - v|^2>``;
    - ``radius^2 = <|s - <s>|^2>``, without the coordinate along the centre;
    - ``dimension = <(t . s/|s|)^2>``, likewise.

    The authors' code has for the dimension ``D <t/|t| . s/|s|>^2``, with D the number of
    coordinates, which is equal for large D only; for D of 10 to 20 it is 2 to 3% lower. Otherwise
    its formulas, with the solver that it takes (cvxopt), give the same from the same directions to
    5e-9, on six sets of 25 to 40 manifolds at margins 0 and 0.3. The theory takes centres for
    uncorrelated; those of a trained layer are not, and `project_centres` brings them closer to it.

    Examples
    --------
    Two classes of identical responses are two points:

    >>> import numpy as np
    >>> geometry = manifold_geometry(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
    >>> geometry.radius, geometry.dimension
    (array([0., 0.]), array([0., 0.]))
    """
    if directions < 1:
        raise OptionError(f"directions={directions} must be at least 1")
    if not 0 <= margin < np.inf:
        raise OptionError(f"margin={margin} must be a finite number, at least 0")
    points: FloatArray = as_responses(np.asarray(responses))
    classes = as_labels(np.asarray(labels), responses=points)
    points = points - points.mean(axis=0)
    present = np.unique(classes)
    shared = np.zeros((0, points.shape[1]))
    if project_centres:
        centres = np.stack([points[classes == c].mean(axis=0) for c in present])
        shared = shared_centre_directions(centres, np.random.default_rng(seed))
        points = points - (points @ shared.T) @ shared
    geometry = np.full((class_counts(classes).size, 3), np.nan)
    for c in present:
        # Each class has its own stream, so that it does not depend on the others.
        rng = np.random.default_rng([seed, c])
        geometry[c] = _geometry(points[classes == c], margin, directions, rng)
    capacity, radius, dimension = geometry.T
    return ManifoldGeometry(capacity, radius, dimension, projected_directions=len(shared))


def _geometry(
    points: FloatArray, margin: float, directions: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return capacity, radius and dimension of one manifold of (stimulus, unit) points."""
    from scipy.optimize import nnls

    centre = points.mean(axis=0)
    distance = np.linalg.norm(centre)
    if distance <= 1e-12 * np.abs(points).max():
        return np.nan, np.nan, np.nan
    shape = _own_coordinates((points - centre) / distance)
    manifold = np.vstack([shape.T, np.ones(len(shape))])  # (coordinate, point)

    t = rng.standard_normal((directions, manifold.shape[0]))
    t[:, -1] += margin
    toward = np.empty_like(t)  # t - v
    anchors = np.empty_like(t)
    for i in range(directions):
        multipliers = nnls(manifold, t[i])[0]
        toward[i] = manifold @ multipliers
        total = multipliers.sum()
        touching = manifold[:, np.argmax(t[i] @ manifold)]
        anchors[i] = toward[i] / total if total > 0 else touching

    within = anchors[:, :-1]
    size = np.linalg.norm(within, axis=1)
    along = np.sum(t[:, :-1] * within, axis=1) / np.where(size > 0, size, 1.0)
    capacity = 1.0 / np.mean(np.sum(toward**2, axis=1))
    radius = np.sqrt(np.mean(np.sum((within - within.mean(axis=0)) ** 2, axis=1)))
    return float(capacity), float(radius), float(np.mean(along**2))


def _own_coordinates(points: FloatArray) -> FloatArray:
    """Return the points in no more coordinates than there are points, their distances kept."""
    if points.shape[1] <= points.shape[0]:
        return points
    # The symmetric root of the Gram matrix does not depend on the axes of the layer.
    eigenvalues, vectors = np.linalg.eigh(points @ points.T)
    root: FloatArray = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
    return root
