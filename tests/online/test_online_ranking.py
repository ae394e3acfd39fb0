"""Measures of the top of the ranking in one pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import metrics, online
from unitprobe.errors import OptionError

CLASSES = 4


def normal(rng, shape):
    return rng.normal(size=shape)


def rectified(rng, shape):
    return np.maximum(rng.normal(size=shape) - 0.3, 0.0)


def tied(rng, shape):
    return rng.integers(-2, 4, size=shape).astype(float)


def heavy_tailed(rng, shape):
    """Sizes over six orders of magnitude, of either sign, a third exactly 0."""
    responses = np.exp(3 * rng.normal(size=shape)) * rng.choice([-1, 1], size=shape)
    responses[rng.random(shape) < 0.3] = 0.0
    return responses


def crowded(rng, shape):
    """Nearly alike, so that a bin holds many different responses."""
    return 1.0 + 0.1 * rng.random(shape)


DATA = (normal, rectified, tied, heavy_tailed, crowded)


def draw(kind, stimuli, seed):
    """Responses of 5 units, one dead and one constant, to classes of which one has no stimulus."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 2, 3], size=stimuli, p=[0.2, 0.3, 0.5])
    labels[:2] = [0, 2]
    responses = kind(rng, (stimuli, 5))
    responses[:, 2] += np.where(labels == 2, responses[:, 2].std(), 0.0)
    responses[:, 3], responses[:, 4] = 0.0, 2.5
    return responses, labels


MANY = settings(deadline=None, max_examples=60)


@MANY
@given(
    kind=st.sampled_from(DATA),
    stimuli=st.integers(4, 60),
    k=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_the_top_of_the_ranking_is_exact(kind, stimuli, k, seed):
    responses, labels = draw(kind, stimuli, seed)
    top, run = online.TopClasses(CLASSES, k=min(k, stimuli)), online.TopRun(CLASSES)
    order = np.random.default_rng(seed).permutation(stimuli)
    for part in np.array_split(order, 4):
        top.update(responses[part], labels[part])
        run.update(responses[part], labels[part])
    np.testing.assert_allclose(
        top.precision_at_k(),
        metrics.precision_at_k(
            responses, labels, class_count=CLASSES, k=min(k, stimuli), reduce=None
        ),
        rtol=1e-12,
    )
    np.testing.assert_array_equal(
        run.top_class_selectivity(),
        metrics.top_class_selectivity(responses, labels, class_count=CLASSES, reduce=None),
    )


def test_stimuli_in_the_order_of_their_classes_leave_only_the_run():
    labels = np.repeat(np.arange(4), 50)
    responses = np.random.default_rng(0).random((200, 6))
    run = online.TopRun(4)
    for part in np.split(np.arange(200), 10):
        run.update(responses[part], labels[part])
    longest = metrics.top_class_selectivity(responses, labels).max()
    assert run._run.shape == (longest, 6)


def test_more_ranks_than_stimuli_are_refused():
    top = online.TopClasses(2, k=3)
    top.update(np.ones((2, 1)), np.array([0, 1]))
    with pytest.raises(OptionError, match="k=3 is not between 1 and the 2 stimuli"):
        top.precision_at_k()
