"""The registry of measures: complete, consistent, and the source of every attribute."""

from __future__ import annotations

import inspect
from math import inf

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.errors import OptionError
from unitprobe.metrics.registry import (
    MEASURES,
    Measure,
    default_metrics,
    get_measure,
    measures,
    register,
    registered,
    variable_attributes,
)

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [30, 25, 45]))
RESPONSES = np.maximum(RNG.normal(size=(3, 6))[LABELS] + RNG.normal(size=(100, 6)), 0)
every_measure = pytest.mark.parametrize("name", MEASURES)


@every_measure
def test_values_have_the_shape_of_the_kind_and_lie_in_the_range(name):
    measure = MEASURES[name]
    values = np.asarray(measure.compute(RESPONSES, LABELS, 3))
    expected = {"tuning": (3, 6), "stimulus": (100,), "layer": ()}.get(measure.kind, (6,))
    assert values.shape == ((3, 6) if measure.has_classes else expected)
    low, high = measure.valid_range or measure.range
    known = values[~np.isnan(values)]
    assert known.size
    assert (known >= low).all()
    assert (known <= high).all()


@every_measure
def test_what_a_measure_needs_is_enough_to_compute_it(name):
    measure = MEASURES[name]
    assert (measure.of is None) == (measure.needs in ("responses", "distances"))
    moments = (
        metrics.class_counts(LABELS),
        metrics.class_means(RESPONSES, LABELS),
        metrics.class_variances(RESPONSES, LABELS),
    )
    needed = {
        "means": moments[1::-1],
        "moments": moments,
        "extremes": metrics.class_extremes(RESPONSES, LABELS),
        "spectrum": (metrics.covariance_spectrum(RESPONSES),),
    }.get(measure.needs)
    if needed is not None:
        if measure.needs == "means":  # takes resamples before
            needed = needed[0][None], needed[1]
        found = np.asarray(measure.of(*needed))
        expected = np.asarray(measure.compute(RESPONSES, LABELS, 3))
        np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-12)


@every_measure
def test_options_are_the_defaults_of_the_function(name):
    measure = MEASURES[name]
    parameters = inspect.signature(measure.function).parameters
    for option, default in measure.options.items():
        assert parameters[option].default == default
    assert ("reduce" in parameters) == measure.has_classes


@every_measure
def test_every_variable_has_attributes(name):
    endings = [""]
    if MEASURES[name].kind == "class":
        endings += ["_null_mean", "_z", "_p", "_q", "_corrected", "_low", "_high"]
    for ending in endings:
        attributes = variable_attributes(name + ending)
        assert attributes["long_name"].startswith(MEASURES[name].long_name)
        assert attributes["units"]


def test_attributes_follow_from_those_of_the_measure():
    assert variable_attributes("top_class_selectivity_low")["units"] == "stimuli"
    assert variable_attributes("d_prime_p")["units"] == "1"
    assert variable_attributes("d_prime_p")["valid_range"] == [0, 1]
    assert variable_attributes("anova_f_high")["valid_range"] == [0, inf]
    assert "valid_range" not in variable_attributes("roc_auc_z")
    assert "valid_range" not in variable_attributes("class_selectivity", bounded=False)
    assert variable_attributes("d_prime", bounded=False) == variable_attributes("d_prime")
    assert variable_attributes("max_informedness_threshold")["units"] == "response"
    assert variable_attributes("dead_share")["units"] == "1"
    assert variable_attributes("somebody_elses") == {}


def test_few_stimuli_leave_out_what_needs_more():
    assert default_metrics(100) == measures()
    assert set(measures()) - set(default_metrics(21)) == {"precision_at_k", "mle_dimension"}


def test_measures_are_found_by_kind_and_by_what_they_need():
    assert measures("tuning") == ["tuning_curve", "class_variance", "class_fraction_active"]
    assert measures(needs=["means"]) == ["class_selectivity", "ccmas"]
    assert get_measure("gini").kind == "unit"
    with pytest.raises(OptionError, match="'ginni' is not known; the nearest are gini"):
        get_measure("ginni")
    with pytest.raises(OptionError, match="'gini' is not of kind 'class'"):
        get_measure("gini", "class")


def test_a_measure_stays_registered_for_as_long_as_is_said():
    measure = Measure(name="largest", kind="unit", function=np.max, long_name="largest response")
    with registered(measure):
        assert get_measure("largest") is measure
        with pytest.raises(OptionError, match="there is a measure 'largest'"):
            register(measure)
    assert "largest" not in MEASURES
