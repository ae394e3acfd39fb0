"""The walk down a ranking gives the measures of redrawn and of shuffled stimuli, sorted again."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.inference import class_measures_bootstrap, class_measures_null, ranking_walk
from unitprobe.inference.ranking_walk import WALKED, walk_resamples
from unitprobe.inference.resampling import draw_layouts, redraw, shuffle


@pytest.fixture(scope="module")
def layer():
    """Rectified noise, a dead, a constant and a selective unit; one class is absent."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat([0, 1, 3], [60, 20, 7]))
    responses = np.maximum(rng.normal(size=(87, 5)), 0)
    responses[:, 1], responses[:, 2] = 0.0, 3.0
    responses[:, 3] += 4.0 * (labels == 1)
    return responses, labels


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    """Run what is compiled, and the same statements in Python."""
    if request.param == "plain":
        monkeypatch.setattr(ranking_walk, "compile_loop", lambda loop: loop)
    elif ranking_walk.compile_loop(ranking_walk._walk) is None:
        pytest.skip("without numba there are no compiled loops")


def walk(draw, layer, resamples=3):
    responses, labels = layer
    counts = np.bincount(labels)
    layouts = draw_layouts(draw, labels, counts, resamples, seed=1)
    return walk_resamples(responses, counts, layouts, WALKED), counts


def test_redrawn_stimuli_are_measured_as_if_sorted_again(loops, layer):
    responses, labels = layer
    walked, counts = walk(redraw, layer)
    for row, layout in enumerate(draw_layouts(redraw, labels, counts, 3, seed=1)):
        for name, found in walked.items():
            expected = getattr(metrics, name)(responses[layout], labels[layout])
            np.testing.assert_allclose(found[row], expected, rtol=1e-12, err_msg=name)


def test_shuffled_labels_are_measured_as_if_sorted_again(loops, layer):
    responses, labels = layer
    walked, counts = walk(shuffle, layer)
    for row, layout in enumerate(draw_layouts(shuffle, labels, counts, 3, seed=1)):
        shuffled = np.empty_like(labels)
        shuffled[layout] = np.repeat(np.arange(counts.size), counts)
        for name, found in walked.items():
            expected = getattr(metrics, name)(responses, shuffled)
            np.testing.assert_allclose(found[row], expected, rtol=1e-12, err_msg=name)


def test_blocks_of_resamples_do_not_matter(loops, layer, monkeypatch):
    whole, _ = walk(redraw, layer)
    monkeypatch.setattr(ranking_walk, "_BLOCK_BYTES", 1)
    for name, found in walk(redraw, layer)[0].items():
        np.testing.assert_array_equal(found, whole[name])


@pytest.mark.parametrize("measures", [class_measures_null, class_measures_bootstrap])
def test_without_compiled_loops_the_numbers_are_the_same(layer, monkeypatch, measures):
    asked = {"names": WALKED, "resamples": 3, "seed": 2}
    walked = measures(*layer, **asked)
    monkeypatch.setattr(ranking_walk, "compile_loop", lambda loop: None)
    for name, expected in measures(*layer, **asked).items():
        np.testing.assert_allclose(walked[name], expected, rtol=1e-12, err_msg=name)
