"""Manifold geometry against the published oracle, exact limits and a direct minimization."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from unitprobe import metrics
from unitprobe.errors import OptionError
from unitprobe.metrics import manifold_centres, manifolds


def cloud(classes, each, units, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = rng.normal(size=(classes, units))
    return centres[labels] + spread * rng.normal(size=(labels.size, units)), labels


@pytest.mark.slow
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


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_points_have_gardners_capacity_at_a_margin(margin):
    responses, labels = cloud(3, 5, 20, spread=0.0)
    geometry = metrics.manifold_geometry(responses, labels, margin=margin, directions=20_000)
    normal = scipy.stats.norm
    expected = 1 / ((1 + margin**2) * normal.cdf(margin) + margin * normal.pdf(margin))
    np.testing.assert_allclose(geometry.capacity, expected, rtol=0.05)


def test_a_margin_is_kept_by_the_nearest_point_of_a_direct_minimization():
    responses, labels = cloud(2, 4, 3, seed=1)
    found = metrics.manifold_geometry(responses, labels, margin=0.7, directions=12, seed=3)
    points = responses - responses.mean(0)
    for c in (0, 1):
        own = points[labels == c]
        centre = own.mean(0)
        s = np.column_stack([(own - centre) / np.linalg.norm(centre), np.ones(4)])
        squares, anchors = [], []
        for t in np.random.default_rng([3, c]).standard_normal((12, 4)):
            v = scipy.optimize.minimize(
                lambda v, t=t: np.sum((v - t) ** 2),
                np.zeros(4),
                constraints={"type": "ineq", "fun": lambda v, s=s: -s @ v - 0.7},
                method="SLSQP",
                options={"ftol": 1e-12},
            ).x
            squares.append(np.sum((v - t) ** 2))
            touching = s[np.argmax(s @ t)]
            # t - v is a multiple of a point of the manifold, whose last coordinate is 1.
            anchors.append((t - v) / (t - v)[-1] if squares[-1] > 1e-8 else touching)
        assert found.capacity[c] == pytest.approx(1 / np.mean(squares), rel=1e-4)
        within = np.array(anchors)[:, :3]
        radius = np.sqrt(np.mean(np.sum((within - within.mean(0)) ** 2, axis=1)))
        assert found.radius[c] == pytest.approx(radius, rel=1e-3)


def test_a_wider_margin_separates_fewer_manifolds():
    responses, labels = cloud(4, 8, 50)
    capacities = [
        metrics.manifold_geometry(responses, labels, margin=margin).capacity
        for margin in (0.0, 0.3, 1.0)
    ]
    assert (np.diff(capacities, axis=0) < 0).all()


def shared_cloud(strength, seed=0):
    """Clouds whose centres all lie far out along the first two units."""
    responses, labels = cloud(25, 6, 60, seed)
    far = strength * np.random.default_rng(seed + 1).normal(size=(25, 2))
    responses[:, :2] += far[labels]
    return responses, labels


def test_projecting_centres_takes_out_the_directions_that_they_share():
    plain, _ = shared_cloud(0.0)
    responses, labels = shared_cloud(30.0)
    before = metrics.manifold_geometry(responses, labels, directions=50)
    after = metrics.manifold_geometry(responses, labels, directions=50, project_centres=True)
    assert before.projected_directions == 0
    assert 2 <= after.projected_directions < 10
    # Far out, clouds look small, though the centres span but two dimensions.
    reference = metrics.manifold_geometry(plain[:, 2:], labels, directions=50)
    assert before.radius.mean() < 0.5 * reference.radius.mean()
    assert after.radius.mean() == pytest.approx(reference.radius.mean(), rel=0.25)
    assert after.layer_capacity == pytest.approx(reference.layer_capacity, rel=0.25)


def test_the_shared_directions_are_orthonormal_and_a_minimum_of_the_correlations():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 20)) + 5 * rng.normal(size=(12, 1)) * rng.normal(size=20)
    shared = manifold_centres.shared_centre_directions(centres, np.random.default_rng(0))
    np.testing.assert_allclose(shared @ shared.T, np.eye(len(shared)), atol=1e-10)

    def squared_correlations(directions):
        q = np.linalg.qr(directions.reshape(shared.shape).T)[0]
        rest = centres - centres.mean(0)
        rest = rest - rest @ q @ q.T
        return np.sum(np.corrcoef(np.hstack([rest, -rest]))[:12, :12] ** 2)

    least = squared_correlations(shared)
    for _ in range(20):
        nearby = squared_correlations(shared + 0.02 * rng.normal(size=shared.shape))
        assert nearby > least
    principal = np.linalg.svd(centres - centres.mean(0))[2][: len(shared)]
    assert squared_correlations(principal) > least


def test_too_few_centres_share_nothing_that_could_be_given_up():
    responses, labels = cloud(3, 5, 20)
    plain = metrics.manifold_geometry(responses, labels, directions=5)
    projected = metrics.manifold_geometry(responses, labels, directions=5, project_centres=True)
    assert projected.projected_directions == 0
    np.testing.assert_array_equal(projected.capacity, plain.capacity)


@pytest.mark.parametrize("margin", [-0.1, np.nan, np.inf])
def test_an_invalid_margin_is_refused(margin):
    with pytest.raises(OptionError, match="margin="):
        metrics.manifold_geometry(np.eye(2), np.array([0, 1]), margin=margin)


def test_directions_below_one_are_refused():
    with pytest.raises(OptionError, match="directions=0"):
        metrics.manifold_geometry(np.eye(2), np.array([0, 1]), directions=0)
