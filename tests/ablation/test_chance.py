"""The chance level of the largest class drop, against permutations one by one."""

import numpy as np
import pytest
from literal_ablation import Convolutional

import unitprobe as up
from unitprobe.ablation.chance import max_drop_chance

COUNT = np.array([12, 5, 0, 9])
INTACT = np.array([10, 2, 0, 6])


def literal_null(lost, gained, n_permutations, seed=0):
    """Largest class drops of ablations that hit stimuli irrespective of their class."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), COUNT)
    right = np.concatenate([np.arange(n) < k for n, k in zip(COUNT, INTACT, strict=True)])
    largest = []
    for _ in range(n_permutations):
        after = right.copy()
        after[rng.permutation(np.flatnonzero(right))[:lost]] = False
        after[rng.permutation(np.flatnonzero(~right))[:gained]] = True
        drops = [right[label == c].mean() - after[label == c].mean() for c in (0, 1, 3)]
        largest.append(max(drops))
    return np.array(largest)


def ablated_so(lost_by_class, gained_by_class):
    return INTACT - np.array(lost_by_class) + np.array(gained_by_class)


TARGETS = [  # lost and gained of each class
    ([4, 0, 0, 0], [0, 0, 0, 0]),
    ([0, 2, 0, 2], [0, 0, 0, 0]),
    ([3, 0, 0, 2], [1, 1, 0, 2]),
    ([0, 0, 0, 0], [0, 3, 0, 0]),
    ([0, 0, 0, 0], [0, 0, 0, 0]),
    ([10, 2, 0, 6], [0, 0, 0, 0]),
]


def chance(targets, n_permutations=4000, seed=0):
    lost, gained = (np.array(x) for x in zip(*targets, strict=True))
    ablated = np.stack([ablated_so(*target) for target in targets])
    return max_drop_chance(
        COUNT, INTACT, ablated, lost.sum(1), gained.sum(1), n_permutations=n_permutations, seed=seed
    )


def test_mean_and_p_are_those_of_a_loop_over_permutations():
    found = chance(TARGETS)
    for place, (lost, gained) in enumerate(TARGETS):
        null = literal_null(sum(lost), sum(gained), 4000)
        drop = max((INTACT - ablated_so(lost, gained))[[0, 1, 3]] / COUNT[[0, 1, 3]])
        assert found.mean[place] == pytest.approx(
            null.mean(), abs=4 * null.std() / 4000**0.5 + 1e-9
        )
        p = (1 + np.sum(null >= drop - 1e-12)) / 4001
        assert found.p[place] == pytest.approx(p, abs=4 * (p * (1 - p) / 2000) ** 0.5 + 1e-9)


def test_an_ablation_that_changes_nothing_or_everything_has_a_p_of_1():
    found = chance([TARGETS[4], TARGETS[5]])
    np.testing.assert_array_equal(found.p, [1, 1])
    np.testing.assert_allclose(found.mean, [0, max(INTACT[[0, 1, 3]] / COUNT[[0, 1, 3]])])


def test_targets_do_not_change_one_another_and_the_seed_decides():
    together, again = chance(TARGETS, 500, seed=3), chance(TARGETS, 500, seed=3)
    np.testing.assert_array_equal(together.p, again.p)
    np.testing.assert_array_equal(chance(TARGETS[::-1], 500, seed=3).p[::-1], together.p)
    assert (chance(TARGETS, 500, seed=4).mean != together.mean).any()


def test_blocks_of_draws_have_the_same_distribution(monkeypatch):
    monkeypatch.setattr("unitprobe.ablation.chance._BLOCK_NUMBERS", 1000)
    found = chance(TARGETS)
    null = literal_null(4, 0, 4000)
    assert found.mean[0] == pytest.approx(null.mean(), abs=0.01)


def test_where_stimuli_are_hit_at_random_p_is_not_small_too_often():
    """Under the null, p <= 0.1 in no more than about a tenth of the cases."""
    rng = np.random.default_rng(1)
    lost = rng.multivariate_hypergeometric(INTACT, 6, size=400)
    found = chance([(row, np.zeros(4, dtype=int)) for row in lost], n_permutations=999)
    assert np.mean(found.p <= 0.1) < 0.1 + 3 * (0.09 / 400) ** 0.5


def test_the_result_holds_it_beside_the_drop(stimuli):
    model = Convolutional().eval()
    tree = up.ablate(model, stimuli, layers="relu", n_permutations=200, seed=1)
    node = tree["relu"]
    for name in ("null_mean", "p"):
        assert node[f"max_class_accuracy_drop_{name}"].dims == ("unit",)
    p = node["max_class_accuracy_drop_p"]
    assert float(p.min()) >= 1 / 201
    assert float(p.max()) <= 1
    unchanged = node["changed_predictions"] == 0
    assert (p.where(unchanged, 1) == 1).all()
    assert tree.attrs["n_permutations"] == 200
    without = up.ablate(model, stimuli, layers="relu", n_permutations=0)["relu"]
    assert "max_class_accuracy_drop_p" not in without
