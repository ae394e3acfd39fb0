"""Manifold geometry against the published oracle, exact limits and a direct minimization."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from unitprobe import metrics
from unitprobe.errors import OptionError
from unitprobe.metrics import manifolds


def cloud(classes, each, units, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = rng.normal(size=(classes, units))
    return centres[labels] + spread * rng.normal(size=(labels.size, units)), labels


def test_gaussian_manifolds_have_the_published_geometry():
    # science.md, section 7: 100 Gaussian manifolds of 50 points in 5,000 units.
    rng = np.random.default_rng(0)
    responses = rng.standard_normal((5000, 5000), dtype=np.float32)
    geometry = metrics.manifold_geometry(responses, np.repeat(np.arange(100), 50), directions=40)
    assert geometry.layer_capacity == pytest.approx(0.04, rel=0.02)
    assert geometry.radius.mean() == pytest.approx(1.47, rel=0.02)
    assert geometry.dimension.mean() == pytest.approx(36.17, rel=0.02)


def test_points_have_the_capacity_two_of_a_perceptron():
    responses, labels = cloud(3, 5, 20, spread=0.0)
    geometry = metrics.manifold_geometry(responses, labels, directions=20_000)
    np.testing.assert_allclose(geometry.capacity, 2, rtol=0.05)
    np.testing.assert_allclose(geometry.radius, 0, atol=1e-6)


def test_the_nearest_point_is_that_of_a_direct_minimization():
    responses, labels = cloud(2, 4, 3, seed=1)
    geometry = metrics.manifold_geometry(responses, labels, directions=12, seed=3)
    points = responses - responses.mean(0)
    for c in (0, 1):
        own = points[labels == c]
        centre = own.mean(0)
        scaled = (own - centre) / np.linalg.norm(centre)
        s = np.column_stack([scaled, np.ones(4)])
        squares = []
        for t in np.random.default_rng([3, c]).standard_normal((12, 4)):
            found = scipy.optimize.minimize(
                lambda v, t=t: np.sum((v - t) ** 2),
                np.zeros(4),
                constraints={"type": "ineq", "fun": lambda v, s=s: -s @ v},
                method="SLSQP",
            )
            squares.append(found.fun)
        assert geometry.capacity[c] == pytest.approx(1 / np.mean(squares), rel=1e-4)


def test_scale_shift_and_rotation_do_not_matter():
    responses, labels = cloud(3, 6, 30)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))[0]
    before = metrics.manifold_geometry(responses, labels, directions=10)
    after = metrics.manifold_geometry(4.0 * responses @ rotation + 2.0, labels, directions=10)
    for name in ("capacity", "radius", "dimension"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-6)


def test_the_seed_decides():
    responses, labels = cloud(2, 5, 10)
    one, same, other = (
        metrics.manifold_geometry(responses, labels, directions=5, seed=s).capacity
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


def test_tighter_manifolds_are_smaller_and_easier_to_separate():
    tight, loose = (
        metrics.manifold_geometry(*cloud(4, 8, 50, spread=spread), directions=100)
        for spread in (0.2, 1.0)
    )
    assert (tight.capacity > 1.5 * loose.capacity).all()
    assert (tight.radius < 0.5 * loose.radius).all()


def test_a_class_without_stimuli_or_without_a_centre_is_nan_and_left_out_of_the_layer():
    responses = np.array([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0], [-2.0, -1.0], [0.0, 0.0]])
    geometry = metrics.manifold_geometry(responses, np.array([0, 0, 2, 3, 0]), directions=10)
    assert np.isnan(geometry.capacity).tolist() == [True, True, False, False]
    assert geometry.layer_capacity == pytest.approx(1 / np.mean(1 / geometry.capacity[2:]))
    none = manifolds.ManifoldGeometry(*np.full((3, 2), np.nan))
    assert np.isnan(none.layer_capacity)


def test_directions_below_one_are_refused():
    with pytest.raises(OptionError, match="directions=0"):
        metrics.manifold_geometry(np.eye(2), np.array([0, 1]), directions=0)
