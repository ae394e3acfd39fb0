"""Class sums under resampling batch by batch: the same resamples as with all responses."""

from __future__ import annotations

import numpy as np
import pytest
from accumulators import CLASSES, layer

from unitprobe import inference, online
from unitprobe.inference.resampling import draw_layouts, redraw, shuffle


@pytest.mark.parametrize(
    ("draw", "at_hand"),
    [
        (shuffle, inference.shuffled_class_means),
        (redraw, inference.bootstrapped_class_means),
    ],
)
@pytest.mark.parametrize("sizes", [[60], [1, 30, 29], [0, 60]])
def test_the_class_means_are_those_of_inference_for_the_same_seed(draw, at_hand, sizes):
    responses, labels = layer(60, 4, seed=5)
    counts = np.bincount(labels, minlength=CLASSES)
    drawn = online.Resamples(draw_layouts(draw, labels, counts, 12, 7), counts)
    sums = online.ResampledClassSums(len(drawn), counts)
    for part in np.split(np.arange(60), np.cumsum(sizes)[:-1]):
        if len(part):
            sums.update(responses[part], drawn.membership(part))
    expected = at_hand(responses, labels, resamples=12, seed=7, class_count=CLASSES)
    np.testing.assert_allclose(
        np.concatenate(list(sums.class_means())), np.concatenate(list(expected)), rtol=1e-6
    )


def test_more_classes_than_a_byte_counts():
    labels = np.arange(600) % 300
    counts = np.bincount(labels)
    drawn = online.Resamples(draw_layouts(shuffle, labels, counts, 2, 0), counts)
    assert [np.bincount(classes).tolist() for classes in drawn.classes] == [counts.tolist()] * 2


def test_a_stimulus_drawn_many_times_counts_as_often():
    drawn = online.Resamples([np.zeros(300, int)], counts=np.array([300]))
    sums = online.ResampledClassSums(1, drawn.counts)
    sums.update(np.array([[2.0], [5.0]]), drawn.membership(np.array([0, 1])))
    assert next(sums.class_means())[0, 0, 0] == 2.0


def test_class_means_come_in_blocks_of_bounded_size(monkeypatch):
    responses, labels = layer(60, 4, seed=5)
    counts = np.bincount(labels, minlength=CLASSES)
    drawn = online.Resamples(draw_layouts(shuffle, labels, counts, 10, 7), counts)
    sums = online.ResampledClassSums(len(drawn), counts)
    sums.update(responses, drawn.membership(np.arange(60)))
    (whole,) = sums.class_means()
    monkeypatch.setattr(online.resampled, "_BLOCK_BYTES", 8 * CLASSES * 4 * 3)
    blocks = list(sums.class_means())
    assert [len(block) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
