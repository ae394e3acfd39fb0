"""What the measures take, what they refuse, and in which precision they work."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from unitprobe import metrics
from unitprobe.errors import LabelError, OptionError, ResponseError

PER_LAYER = {
    "class_selectivity": lambda x: metrics.class_selectivity(x, np.arange(len(x)) % 2),
    "preferred_class": lambda x: metrics.preferred_class(x, np.arange(len(x)) % 2),
    "class_means": lambda x: metrics.class_means(x, np.arange(len(x)) % 2),
    "activity_ratio": metrics.activity_ratio,
    "lifetime_sparseness": metrics.lifetime_sparseness,
    "population_sparseness": metrics.population_sparseness,
    "hoyer_sparseness": metrics.hoyer_sparseness,
    "gini": metrics.gini,
    "kurtosis": metrics.kurtosis,
    "fraction_active": metrics.fraction_active,
    "dead": metrics.dead,
    "covariance_spectrum": metrics.covariance_spectrum,
    "participation_ratio": metrics.participation_ratio,
    "effective_rank": metrics.effective_rank,
    "components_90": metrics.components_90,
    "linear_cka": lambda x: metrics.linear_cka(x, x),
    "apply_sign_policy": lambda x: metrics.apply_sign_policy(x, "rectify"),
    "count_negative": metrics.count_negative,
}
every_measure = pytest.mark.parametrize("measure", PER_LAYER.values(), ids=PER_LAYER.keys())


@every_measure
def test_a_value_that_is_not_finite_is_refused_and_counted(measure):
    responses = np.ones((10, 4))
    responses[2, 1] = responses[3, 1] = np.nan
    responses[7, 0] = np.inf
    with pytest.raises(ResponseError, match="of 40 values 2 are NaN and 1 infinite"):
        measure(responses)


@every_measure
@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (np.ones((4, 3, 2, 2)), r"\(4, 3, 2, 2\); pool over positions"),
        (np.ones(4), r"got shape \(4,\)"),
        (np.ones((0, 3)), "0 stimuli, 3 units"),
        (np.ones((4, 3)) * 1j, "complex128"),
        (np.full((4, 3), "a"), "real numbers"),
    ],
)
def test_only_matrices_of_real_numbers_are_accepted(measure, responses, message):
    with pytest.raises(ResponseError, match=message):
        measure(responses)


@every_measure
@pytest.mark.parametrize(
    "responses",
    [np.zeros((6, 3)), np.ones((6, 3)), np.eye(6, 3), np.eye(6, 3, dtype=np.float32) * 1e-30],
    ids=["dead", "flat", "one-hot", "tiny"],
)
def test_no_warning_whatever_is_undefined(measure, responses):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(responses)


@every_measure
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.uint8, bool])
def test_every_dtype_is_computed_in_float64(measure, dtype):
    responses = (np.random.default_rng(0).normal(size=(12, 5)) > 0).astype(dtype)
    narrow, wide = measure(responses), measure(responses.astype(np.float64))
    np.testing.assert_array_equal(narrow, wide)


def test_sums_of_float32_do_not_lose_precision():
    # In float32, 2**24 + 1 is 2**24.
    responses = np.ones((3000, 1), dtype=np.float32)
    responses[0] = 2.0**24
    means = metrics.class_means(responses, np.zeros(3000, dtype=int))
    assert means.dtype == np.float64
    assert means[0, 0] == (2.0**24 + 2999) / 3000


def test_lists_and_transposed_views_are_taken():
    values = [[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]
    expected = metrics.class_selectivity(np.array(values), np.array([0, 1, 1]))
    np.testing.assert_array_equal(metrics.class_selectivity(values, [0, 1, 1]), expected)
    view = np.asfortranarray(values)
    np.testing.assert_array_equal(metrics.class_selectivity(view, [0, 1, 1]), expected)


def test_arguments_are_left_as_they_are():
    responses = np.random.default_rng(0).normal(size=(20, 4))
    before = responses.copy()
    for measure in PER_LAYER.values():
        measure(responses)
    for policy in ("allow", "rectify", "shift"):
        metrics.apply_sign_policy(responses, policy)
    np.testing.assert_array_equal(responses, before)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "3 labels do not fit 4 stimuli"),
        ([0, 1, -1, 1], "the lowest is -1"),
        ([0.0, 1.0, 0.0, 1.0], "float64"),
        ([True, False, True, False], "bool"),
        (["a", "b", "a", "b"], "integers"),
        ([[0, 1, 0, 1]], r"\(1, 4\)"),
        ([2, 2, 2, 2], "at least two classes"),
    ],
)
def test_labels_without_a_class_are_refused(labels, message):
    with pytest.raises(LabelError, match=message):
        metrics.class_selectivity(np.ones((4, 2)), np.array(labels))


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(LabelError, match=r"label 3 is not one of the classes 0\.\.2"):
        metrics.class_means(np.ones((2, 1)), np.array([0, 3]), class_count=3)
    with pytest.raises(LabelError, match=r"label 3"):
        metrics.class_counts(np.array([0, 3]), class_count=3)


def test_options_that_do_not_exist_are_refused():
    responses, labels = np.ones((4, 2)), np.array([0, 0, 1, 1])
    with pytest.raises(OptionError, match="'images'"):
        metrics.class_selectivity(responses, labels, weighting="images")
    with pytest.raises(OptionError, match="counts"):
        metrics.selectivity_index(np.ones((3, 2)), weighting="stimulus")
    with pytest.raises(ResponseError, match=r"\(3,\)"):
        metrics.selectivity_index(np.ones(3))
    for share in (0, 1.5, -0.1):
        with pytest.raises(OptionError, match="share"):
            metrics.components_for(responses, share)
    with pytest.raises(OptionError, match="'drop'"):
        metrics.apply_sign_policy(responses, "drop")
    with pytest.raises(ResponseError, match="got 4 and 3"):
        metrics.linear_cka(np.ones((4, 2)), np.ones((3, 2)))


def test_negative_responses_are_treated_as_asked():
    responses = np.array([[-1.0, 2.0], [3.0, 5.0]])
    assert metrics.count_negative(responses) == 1
    np.testing.assert_array_equal(metrics.apply_sign_policy(responses, "allow"), responses)
    rectified = metrics.apply_sign_policy(responses, "rectify")
    np.testing.assert_array_equal(rectified, [[0, 2], [3, 5]])
    # The second unit is nowhere negative and stays.
    shifted = metrics.apply_sign_policy(responses, "shift")
    np.testing.assert_array_equal(shifted, [[0, 2], [4, 5]])
    with pytest.raises(ResponseError, match="1 of 4 responses are negative"):
        metrics.apply_sign_policy(responses, "refuse")
    np.testing.assert_array_equal(metrics.apply_sign_policy(rectified, "refuse"), rectified)


def test_signed_responses_follow_the_formula():
    responses = np.array([[1.0], [-3.0]])
    assert metrics.class_selectivity(responses, np.array([0, 1])) == (1 + 3) / (1 - 3)
    # Where the denominator is 0 there is no value, and no division by it.
    assert np.isnan(metrics.class_selectivity(np.array([[1.0], [-1.0]]), np.array([0, 1])))


def test_too_few_classes_in_a_tuning_curve_give_nan():
    means = np.array([[1.0], [np.nan], [2.0]])
    assert metrics.selectivity_index(means) == pytest.approx(1 / 3)
    assert np.isnan(metrics.selectivity_index(means, np.array([4, 0, 0])))


@pytest.mark.process
def test_the_metrics_need_no_torch():
    # unitprobe itself imports torch, so the package is entered without its front door.
    code = (
        "import sys, types, importlib.util as u\n"
        "package = types.ModuleType('unitprobe')\n"
        "package.__path__ = list(u.find_spec('unitprobe').submodule_search_locations)\n"
        "sys.modules['unitprobe'] = package\n"
        "import numpy as np, unitprobe.metrics as m\n"
        "m.class_selectivity(np.eye(3), np.arange(3))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
