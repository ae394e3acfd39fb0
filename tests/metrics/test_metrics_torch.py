"""The same functions on PyTorch tensors: equal values, and gradients that never turn to NaN."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from unitprobe import metrics
from unitprobe.metrics._ranks import rank_responses
from unitprobe.metrics.information import bin_responses


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(11)
    labels = rng.permutation(np.repeat([0, 1, 3], [9, 4, 17]))
    responses = np.maximum(rng.normal(size=(4, 8))[labels] + rng.normal(size=(30, 8)), 0)
    responses[:, 2] = 0.0
    return responses, labels


MEASURES = {
    "class_means": lambda x, y: metrics.class_means(x, y, 5),
    "class_selectivity": metrics.class_selectivity,
    "ccmas": metrics.ccmas,
    "preferred_class": metrics.preferred_class,
    "class_variances": lambda x, y: metrics.class_variances(x, y, 5),
    "class_fraction_active": lambda x, y: metrics.class_fraction_active(x, y, 5),
    "top_stimuli": lambda x, y: metrics.top_stimuli(x, 7),
    "d_prime": metrics.d_prime,
    "class_correlation": metrics.class_correlation,
    "correlation with probabilities": lambda x, y: metrics.class_correlation(
        x, probabilities=x[:, :3]
    ),
    "anova_f": metrics.anova_f,
    "eta_squared": metrics.eta_squared,
    "mutual_information": metrics.mutual_information,
    "bin_responses": lambda x, y: bin_responses(x),
    "mid_ranks": lambda x, y: rank_responses(x).mid_ranks,
    "roc_auc": metrics.roc_auc,
    "roc_auc_by_class": lambda x, y: metrics.roc_auc(x, y, class_count=5, reduce=None),
    "average_precision": metrics.average_precision,
    "max_informedness": metrics.max_informedness,
    "max_informedness_threshold": metrics.max_informedness_threshold,
    "max_f1": metrics.max_f1,
    "recall_at_precision": lambda x, y: metrics.recall_at_precision(x, y, precision=0.7),
    "precision_at_k": lambda x, y: metrics.precision_at_k(x, y, k=10),
    "top_class_selectivity": metrics.top_class_selectivity,
    "top-class share": lambda x, y: metrics.top_class_selectivity(x, y, normalize=True),
    "localist_selectivity": metrics.localist_selectivity,
    "best_class": lambda x, y: metrics.best_class(metrics.d_prime(x, y, reduce=None)),
    "activity_ratio": lambda x, y: metrics.activity_ratio(x, 1),
    "lifetime_sparseness": lambda x, y: metrics.lifetime_sparseness(x),
    "population_sparseness": lambda x, y: metrics.population_sparseness(x),
    "hoyer_sparseness": lambda x, y: metrics.hoyer_sparseness(x),
    "gini": lambda x, y: metrics.gini(x),
    "kurtosis": lambda x, y: metrics.kurtosis(x),
    "fraction_active": lambda x, y: metrics.fraction_active(x),
    "dead": lambda x, y: metrics.dead(x),
    "covariance_spectrum": lambda x, y: metrics.covariance_spectrum(x),
    "participation_ratio": lambda x, y: metrics.participation_ratio(x),
    "effective_rank": lambda x, y: metrics.effective_rank(x),
    "components_95": lambda x, y: metrics.components_95(x),
    "linear_cka": lambda x, y: metrics.linear_cka(x, x[:, :3] ** 2),
    "unbiased linear_cka": lambda x, y: metrics.linear_cka(x, x[:, :3] ** 2, unbiased=True),
    "procrustes_similarity": lambda x, y: metrics.procrustes_similarity(x, x[:, :3] ** 2),
    "representational_similarity": lambda x, y: metrics.representational_similarity(
        x, x[:, :3] ** 2, distance="euclidean"
    ),
    "canonical_correlations": lambda x, y: metrics.canonical_correlations(x, x[:, :3] ** 2),
    "svcca": lambda x, y: metrics.svcca(x, x[:, :3] ** 2),
    "pwcca": lambda x, y: metrics.pwcca(x, x[:, :3] ** 2),
    "average_percentage_of_zeros": lambda x, y: metrics.average_percentage_of_zeros(x),
    "half_max_share": lambda x, y: metrics.half_max_share(x),
    "wide linear_cka": lambda x, y: metrics.linear_cka(x[:5], x[:5, :3] ** 2),
    "shift": lambda x, y: metrics.apply_sign_policy(x - 0.3, "shift"),
    "rectify": lambda x, y: metrics.apply_sign_policy(x - 0.3, "rectify"),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
def test_torch_gives_what_numpy_gives(layer, measure):
    responses, labels = layer
    expected = measure(responses, labels)
    result = measure(torch.from_numpy(responses), torch.from_numpy(labels))
    assert torch.is_tensor(result) or isinstance(result, int)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_tensors_are_summed_in_float64(layer, dtype):
    responses, labels = layer
    narrow = torch.from_numpy(responses).to(dtype)
    selectivity = metrics.class_selectivity(narrow, torch.from_numpy(labels))
    assert selectivity.dtype == torch.float64
    expected = metrics.class_selectivity(narrow.double().numpy(), labels)
    np.testing.assert_allclose(selectivity, expected, rtol=1e-12)


def test_labels_may_be_of_the_other_library(layer):
    responses, labels = layer
    expected = metrics.class_selectivity(responses, labels)
    x, y = torch.from_numpy(responses), torch.from_numpy(labels)
    np.testing.assert_allclose(metrics.class_selectivity(x, labels), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.class_selectivity(responses, y), expected, rtol=1e-12)


@pytest.mark.parametrize("weighting", ["class", "stimulus"])
def test_the_gradient_is_the_derivative(weighting):
    labels = torch.tensor([0, 0, 1, 3, 3, 3])  # class 2 is absent
    responses = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    responses.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: metrics.class_selectivity(x, labels, weighting=weighting, eps=1e-7), responses
    )


@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_absent_classes_and_dead_units_give_finite_gradients(layer, eps):
    responses, labels = layer
    x = torch.tensor(responses, requires_grad=True)
    selectivity = metrics.class_selectivity(x, torch.from_numpy(labels), eps=eps)
    assert (selectivity[2] == 0) if eps else selectivity[2].isnan()
    selectivity.nansum().backward()
    assert x.grad.isfinite().all()
    alive = [0, 1, 3, 4, 5, 6, 7]
    assert (x.grad[:, alive].abs().sum(0) > 0).all()


def test_the_gradient_of_the_tuning_curve_is_finite_where_a_class_is_absent():
    means = torch.tensor([[1.0, 0.0], [2.0, 0.0], [float("nan")] * 2], requires_grad=True)
    metrics.selectivity_index(means, eps=1e-7).sum().backward()
    assert means.grad.isfinite().all()
    assert (means.grad[2] == 0).all()


def test_a_training_step_stays_in_single_precision_even_under_autocast(layer):
    responses, labels = layer
    x = torch.tensor(responses, dtype=torch.bfloat16)
    expected = metrics.class_selectivity(x.double().numpy(), labels, eps=1e-7)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selectivity = metrics.class_selectivity(x, torch.from_numpy(labels), eps=1e-7)
    assert selectivity.dtype == torch.float32
    np.testing.assert_allclose(selectivity.detach(), expected, atol=2e-6)
    selectivity.sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all()


def test_sums_of_parts_give_the_means_of_the_whole(layer):
    # What a loss does across processes: sums and counts are added before the ratio.
    responses, labels = map(torch.from_numpy, layer)
    sums = sum(metrics.class_sums(responses[i::3], labels[i::3], 5) for i in range(3))
    counts = sum(metrics.class_counts(labels[i::3], 5) for i in range(3))
    together = metrics.selectivity_index(sums / counts[:, None], counts, eps=1e-7)
    whole = metrics.class_selectivity(responses, labels, eps=1e-7)
    np.testing.assert_allclose(together, whole, rtol=1e-12)


@pytest.mark.parametrize("name", ["d_prime", "class_correlation", "eta_squared"])
def test_separation_differentiates_where_it_is_defined(layer, name):
    responses, labels = layer
    x = torch.tensor(responses, requires_grad=True)
    measure = partial(getattr(metrics, name), **({} if name == "eta_squared" else {"reduce": None}))
    values = measure(x, torch.from_numpy(labels))
    values.nansum().backward()
    assert x.grad.isfinite().all()
    step = 1e-6 * torch.from_numpy(np.random.default_rng(0).normal(size=responses.shape))
    step[:, 2] = 0.0  # the dead unit
    with torch.no_grad():
        ahead, behind = (
            measure(x + sign * step, torch.from_numpy(labels)).nansum() for sign in (1, -1)
        )
    np.testing.assert_allclose((x.grad * step).sum(), (ahead - behind) / 2, rtol=1e-4)
