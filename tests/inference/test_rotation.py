"""Rotation null: rotations are uniform, p exact for random axes, and tuned axes stand out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError
from unitprobe.inference import rotation, rotation_null


def tuned_layer(seed=0, units=6, stimuli=120):
    """Each unit responds to a class of its own."""
    labels = np.arange(stimuli) % units
    noise = np.random.default_rng(seed).normal(size=(stimuli, units))
    return 3 * np.eye(units)[labels] + noise, labels


def test_rotations_are_orthogonal_and_uniform():
    rng = np.random.default_rng(0)
    drawn = np.stack([rotation._random_rotation(3, rng) for _ in range(600)])
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), np.eye(3) + 0 * drawn, atol=1e-12)
    # A coordinate of a uniform direction in three dimensions is uniform (Archimedes).
    for entry in (drawn[:, 0, 0], drawn[:, 1, 2], drawn[:, 2, 0]):
        assert scipy.stats.kstest(entry, "uniform", (-1, 2)).pvalue > 0.01
    assert np.mean(np.linalg.det(drawn) > 0) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("measure", "rectify"), [(metrics.d_prime, False), (metrics.class_selectivity, True)]
)
def test_units_tuned_to_classes_of_their_own_stand_out(measure, rectify):
    null = rotation_null(*tuned_layer(), measure, rotations=39, rectify=rectify)
    assert null.p == 1 / 40
    assert null.z > 3
    assert null.units == 6
    assert null.rotated.shape == (39,)


def test_if_the_units_are_a_random_rotation_themselves_p_is_uniform():
    p = []
    for seed in range(60):
        responses, labels = tuned_layer(seed, units=4, stimuli=40)
        axes = rotation._random_rotation(4, np.random.default_rng(1000 + seed))
        p.append(rotation_null(responses @ axes, labels, rotations=19, seed=seed).p)
    # p has 20 steps; spreading each makes it continuous.
    spread = np.array(p) - np.random.default_rng(0).random(60) / 20
    assert scipy.stats.kstest(spread, "uniform").pvalue > 0.01


def test_the_observed_value_undergoes_what_the_rotated_do():
    responses, labels = tuned_layer()
    null = rotation_null(responses, labels, metrics.eta_squared, rotations=1)
    assert null.observed == pytest.approx(metrics.eta_squared(responses, labels).mean())
    assert np.isnan(null.z)
    centred = np.maximum(responses - responses.mean(0), 0)
    rectified = rotation_null(responses, labels, metrics.class_selectivity, rectify=True)
    assert rectified.observed == pytest.approx(metrics.class_selectivity(centred, labels).mean())


def test_an_offset_and_dead_units_change_nothing():
    responses, labels = tuned_layer()
    plain = rotation_null(responses, labels, rotations=5, seed=3)
    dead = np.concatenate([responses + 7.0, np.zeros((120, 1)), np.full((120, 1), 0.1)], axis=1)
    found = rotation_null(dead, labels, rotations=5, seed=3)
    assert found.units == 6
    np.testing.assert_allclose(found.rotated, plain.rotated)
    assert found.observed == pytest.approx(plain.observed)


def test_the_seed_decides():
    layer = tuned_layer()
    first, again = (rotation_null(*layer, rotations=3, seed=1).rotated for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (rotation_null(*layer, rotations=3, seed=2).rotated != first).all()


def test_wrong_arguments_are_refused():
    responses, labels = tuned_layer()
    with pytest.raises(OptionError, match="rotations=0"):
        rotation_null(responses, labels, rotations=0)
    with pytest.raises(ResponseError, match="1 units vary"):
        rotation_null(responses * [1, 0, 0, 0, 0, 0], labels)
    with pytest.raises(ResponseError, match=r"6 axes, got shape \(\)"):
        rotation_null(responses, labels, lambda x, labels: x.sum())
    with pytest.raises(LabelError, match="fit"):
        rotation_null(responses, labels[:-1])
