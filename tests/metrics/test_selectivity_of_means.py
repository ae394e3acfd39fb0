"""Selectivity of many resamples: as the metric gives it, with numba and without."""

from __future__ import annotations

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.metrics import _selectivity_of_means as module

TUNING = {
    "noise": np.random.default_rng(0).normal(size=(3, 4, 5)),
    "ties": np.ones((2, 4, 1)),
    "silent": np.zeros((2, 4, 1)),
    "opposite": np.array([1.0, -1.0, -1.0, -1.0]).reshape(1, 4, 1),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("weighting", ["class", "stimulus"])
@pytest.mark.parametrize("counts", [[5, 5, 5, 5], [1, 9, 2, 4], [3, 0, 4, 1], [0, 2, 0, 0]])
@pytest.mark.parametrize("tuning", TUNING)
def test_it_is_the_metric(tuning, counts, weighting, compiled, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(module, "compile_loop", lambda function: None)
    counts = np.array(counts)
    means = np.where(counts[:, None] > 0, TUNING[tuning], np.nan)
    found = module.selectivity_of_means(means, counts, weighting)
    expected = metrics.selectivity_index(means, counts, weighting=weighting)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
