"""Intrinsic dimension against literal versions and planted manifolds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import special_ortho_group

from unitprobe import metrics
from unitprobe.errors import OptionError, ResponseError

DIMENSIONS = {"twonn": metrics.twonn_dimension, "mle": metrics.mle_dimension}
each = pytest.mark.parametrize("dimension", DIMENSIONS.values(), ids=DIMENSIONS.keys())


def literal_distances(points, count):
    return np.sort(cdist(points, points), axis=1)[:, 1 : count + 1]


def literal_twonn(points):
    n = len(points)
    ratios = sorted(r2 / r1 for r1, r2 in literal_distances(points, 2))
    x, y = [], []
    for i in range(1, int(n * 0.9) + 1):
        x.append(np.log(ratios[i - 1]))
        y.append(-np.log(1 - i / n))
    return np.linalg.lstsq(np.array(x)[:, None], np.array(y), rcond=None)[0][0]


def literal_mle(points, k):
    inverses = []
    for distances in literal_distances(points, k):
        inverses.append(sum(np.log(distances[-1] / d) for d in distances[:-1]) / (k - 1))
    return 1 / np.mean(inverses)


def sheet(kind, n=3000, units=50, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "sphere":
        flat = rng.normal(size=(n, 3))
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    elif kind == "swiss roll":
        turn = 1.5 * np.pi * (1 + 2 * np.sqrt(rng.random(n)))
        flat = np.stack([turn * np.cos(turn), 60 * rng.random(n), turn * np.sin(turn)], axis=1)
    else:
        flat = rng.normal(size=(n, int(kind)))
    return flat @ special_ortho_group.rvs(units, random_state=seed)[: flat.shape[1]] + 5.0


@pytest.mark.parametrize("shape", [(40, 3), (400, 60), (31, 2)])
def test_the_estimates_are_those_of_the_formulas(shape):
    points = np.random.default_rng(1).normal(size=shape) ** 3
    assert metrics.twonn_dimension(points) == pytest.approx(literal_twonn(points), rel=1e-9)
    assert metrics.mle_dimension(points) == pytest.approx(literal_mle(points, 20), rel=1e-9)
    assert metrics.mle_dimension(points, neighbours=5) == pytest.approx(
        literal_mle(points, 5), rel=1e-9
    )


def test_the_estimates_are_those_of_scikit_dimension():
    reference = pytest.importorskip("skdim").id
    for units in (10, 40):
        points = np.random.default_rng(2).normal(size=(500, units))
        twonn = reference.TwoNN().fit(points).dimension_
        assert metrics.twonn_dimension(points) == pytest.approx(twonn, rel=1e-9)
        mle = reference.MLE().fit(points, n_neighbors=20).dimension_
        assert metrics.mle_dimension(points) == pytest.approx(mle, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "expected"), [("sphere", 2), ("swiss roll", 2), ("1", 1), ("5", 5)]
)
def test_a_planted_manifold_has_its_dimension_in_fifty_units(kind, expected):
    points = sheet(kind)
    assert metrics.twonn_dimension(points) == pytest.approx(expected, rel=0.07)
    assert metrics.mle_dimension(points) == pytest.approx(expected, rel=0.07)


@each
def test_rotation_scale_shift_and_order_do_not_matter(dimension):
    points = sheet("5", n=400)
    rng = np.random.default_rng(4)
    turn = special_ortho_group.rvs(50, random_state=5)
    moved = 1e-6 * (points @ turn)[rng.permutation(400)] + 3e-5
    assert dimension(moved) == pytest.approx(dimension(points), rel=1e-6)


@each
def test_stimuli_with_equal_responses_count_once(dimension):
    points = sheet("5", n=300)
    points[:, 3] = 0.0
    doubled = np.vstack([points, points[:100], points[:50]])
    doubled[320, 3] = -0.0
    assert dimension(doubled) == dimension(points)


@each
def test_where_neighbours_say_nothing_the_dimension_is_nan(dimension):
    for points in (np.zeros((40, 3)), np.ones((1, 3)), np.eye(40), np.eye(40)[[0, 1]]):
        assert np.isnan(dimension(points))


def test_the_smallest_number_of_stimuli():
    points = np.array([[0.0], [1.0], [3.0]])
    assert metrics.twonn_dimension(points) == pytest.approx(literal_twonn(points))
    assert metrics.mle_dimension(points, neighbours=2) == pytest.approx(literal_mle(points, 2))
    assert np.isnan(metrics.mle_dimension(points, neighbours=3))


@each
def test_a_tensor_gives_what_an_array_gives(dimension):
    points = sheet("5", n=200).astype(np.float32)
    tensor = torch.tensor(points, requires_grad=True)
    assert dimension(tensor.detach()) == dimension(points)
    assert dimension(tensor) == pytest.approx(dimension(points), rel=1e-6)


@each
def test_only_matrices_of_finite_numbers_are_accepted(dimension):
    with pytest.raises(ResponseError, match="pool over positions"):
        dimension(np.ones((4, 3, 2)))
    with pytest.raises(ResponseError, match="of 12 values 1 are NaN"):
        dimension(np.array([[np.nan, 1.0, 2.0]] + [[1.0, 2.0, 3.0]] * 3))


def test_fewer_than_two_neighbours_are_refused():
    with pytest.raises(OptionError, match="neighbours=1 must be at least 2"):
        metrics.mle_dimension(np.eye(4), neighbours=1)
