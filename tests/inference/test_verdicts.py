"""Verdicts: an interval supports, refutes or leaves open, and never by accident."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe.errors import OptionError
from unitprobe.inference import Prediction, mean_over_units, verdict, verdict_of_all

finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("direction", "low", "high", "expected"),
    [
        ("greater", 2.1, 3.0, "supported"),
        ("greater", 1.0, 1.9, "refuted"),
        ("greater", 1.0, 3.0, "inconclusive"),
        ("less", 1.0, 1.9, "supported"),
        ("less", 2.1, 3.0, "refuted"),
        ("less", 1.0, 3.0, "inconclusive"),
        ("greater", 2.0, 3.0, "inconclusive"),
        ("less", 1.0, 2.0, "inconclusive"),
        ("greater", 2.1, np.inf, "supported"),
    ],
)
def test_the_whole_interval_decides(direction, low, high, expected):
    middle = low if np.isinf(high) else (low + high) / 2
    assert verdict(Prediction("effect", direction, 2.0), middle, low, high) == expected


@pytest.mark.parametrize("numbers", [(np.nan, 3, 4), (3.5, np.nan, 4), (3.5, 3, np.nan)])
def test_without_a_number_nothing_is_concluded(numbers):
    for direction in ("greater", "less"):
        assert verdict(Prediction("effect", direction, 2.0), *numbers) == "inconclusive"


def test_an_interval_that_misses_its_own_estimate_is_not_believed_where_they_disagree():
    assert verdict(Prediction("effect", "greater", 2.0), 1.9, 2.1, 3.0) == "inconclusive"
    assert verdict(Prediction("effect", "greater", 2.0), 2.05, 2.1, 3.0) == "supported"


@given(finite, finite, finite, finite)
@settings(deadline=None, max_examples=100)
def test_mirroring_everything_leaves_the_verdict(threshold, a, b, c):
    low, estimate, high = sorted([a, b, c])
    found = verdict(Prediction("effect", "greater", threshold), estimate, low, high)
    mirrored = Prediction("effect", "less", -threshold)
    assert found == verdict(mirrored, -estimate, -high, -low)
    swapped = verdict(Prediction("effect", "less", threshold), estimate, low, high)
    opposite = {"supported": "refuted", "refuted": "supported", "inconclusive": "inconclusive"}
    assert swapped == opposite[found]


def test_what_cannot_be_a_prediction_is_refused():
    with pytest.raises(OptionError, match=r"'gain'.*'more'"):
        Prediction("gain", "more", 0.0)
    with pytest.raises(OptionError, match="nan"):
        Prediction("gain", "less", float("nan"))
    with pytest.raises(OptionError, match=r"3.0 to 1.0"):
        verdict(Prediction("gain", "less", 0.0), 2.0, 3.0, 1.0)


def test_a_true_claim_of_six_predictions_is_refuted_in_at_most_five_percent():
    random = np.random.default_rng(0)
    at_zero = Prediction("effect", "greater", 0.0)
    refuted = {"corrected": 0, "uncorrected": 0}
    for _ in range(200):
        plain, strict = [], []
        for sample in random.normal(size=(6, 100)):
            ends = [mean_over_units(sample, level=level) for level in (0.95, 1 - 0.05 / 6)]
            bounds = [(each.low, each.high) for each in ends]
            plain.append(verdict(at_zero, ends[0].value, *bounds[0]))
            strict.append(verdict(at_zero, ends[0].value, *bounds[0], refuting=bounds[1]))
        refuted["uncorrected"] += verdict_of_all(plain) == "refuted"
        refuted["corrected"] += verdict_of_all(strict) == "refuted"
    assert refuted["corrected"] / 200 < 0.07 < 0.1 < refuted["uncorrected"] / 200


def test_a_claim_holds_only_if_all_its_predictions_do():
    assert verdict_of_all([]) == "inconclusive"
    assert verdict_of_all(["supported", "supported"]) == "supported"
    assert verdict_of_all(["supported", "inconclusive"]) == "inconclusive"
    assert verdict_of_all(["supported", "inconclusive", "refuted"]) == "refuted"
