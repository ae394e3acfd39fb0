"""The same numbers on a GPU as on the CPU.

Where there is a GPU these tests run on it, and with ``recipes/test_recipe_devices.py`` they are
what to run there. Elsewhere they run on a pretended one (see `pretend_device`), which shows tensors
on the wrong device and reads that come too early, and nothing of a GPU's kernels.
"""

import math

import numpy as np
import pytest
import torch
from conftest import REAL_GPU, make_stimuli, rounded_convolutions
from pretend_device import pretend_device
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import unitprobe as up
from unitprobe import metrics
from unitprobe.ablation.partial_forward.network_graph import capture_graph
from unitprobe.models import as_network


def small(classes=4):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 8),
        nn.ReLU(),
        nn.Linear(8, classes),
    ).eval()


def assert_same(tree, other, tolerance=1e-4):
    assert {node.path for node in tree.subtree} == {node.path for node in other.subtree}
    for node in tree.subtree:
        for name, values in node.dataset.variables.items():
            if values.dtype.kind in "fiub":
                found = other[node.path].dataset[name].values
                np.testing.assert_allclose(
                    found, values.values, rtol=tolerance, atol=tolerance, err_msg=name
                )


@pytest.mark.parametrize(("pool", "dtype"), [("mean", "float16"), ("none", "float32")])
def test_a_recording_is_the_same(gpu, stimuli, tmp_path, pool, dtype):
    here, there = (
        up.record(small(), stimuli, tmp_path / name, pool=pool, dtype=dtype, batch_size=8, device=d)
        for name, d in [("cpu.h5", None), ("gpu.h5", gpu)]
    )
    assert_same(here, there, 1e-4 if dtype == "float32" else 2e-3)


def test_a_recording_of_many_shards_is_the_same(gpu, tmp_path):
    """Blocks are used again for later shards, while copies and writing go on."""
    stimuli = make_stimuli(60)
    here, there = (
        up.record(small(), stimuli, tmp_path / name, batch_size=4, shard_stimuli=8, device=d)
        for name, d in [("cpu.h5", None), ("gpu.h5", gpu)]
    )
    assert_same(here, there)


def test_images_that_are_loaded_one_by_one_arrive(gpu, tmp_path):
    digits = up.load_stimuli("digits", limit=20)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
    here, there = (
        up.record(network, digits, tmp_path / name, batch_size=8, device=d, announce=lambda _: None)
        for name, d in [("cpu.h5", None), ("gpu.h5", gpu)]
    )
    assert_same(here, there)


def test_a_recording_in_half_precision_is_near(gpu, stimuli, tmp_path):
    here, there = (
        up.record(small(), stimuli, tmp_path / name, autocast=autocast, device=d)
        for name, d, autocast in [("cpu.h5", None, None), ("gpu.h5", gpu, "bfloat16")]
    )
    exact, half = here["8"]["response"].values, there["8"]["response"].values
    assert 0 < np.abs(exact - half).max() < 0.02 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("rounded", "expected"),
    [(False, "float32"), (True, "float32, in convolutions rounded to TensorFloat-32")],
)
def test_a_recording_says_in_what_precision_the_network_ran(
    gpu, stimuli, tmp_path, rounded, expected
):
    if REAL_GPU and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TensorFloat-32")
    with rounded_convolutions(rounded):
        tree = up.record(small(), stimuli, tmp_path / "store.h5", device=gpu)
    assert tree.attrs["compute_dtype"] == expected


def test_an_analysis_in_one_pass_is_the_same(gpu, stimuli):
    here, there = (
        up.analyze(small(), stimuli, batch_size=8, n_permutations=10, n_bootstrap=10, device=d)
        for d in (None, gpu)
    )
    assert_same(here, there, 1e-3)


@pytest.mark.parametrize("mode", ["zero", "mean", "class_mean", "resample", "noise"])
def test_a_full_sweep_of_ablations_is_the_same(gpu, stimuli, mode):
    here, there = (
        up.ablate(small(), stimuli, layers=["4"], mode=mode, method="full", device=d)
        for d in (None, gpu)
    )
    assert_same(here, there, 1e-3)


def test_a_batch_norm_on_cuda_is_captured_as_a_graph():
    """The choice of its kernel depends on the number of stimuli.

    The tensors are PyTorch's own that claim to be on a GPU, which have no numbers.
    """
    layers = up.list_layers(small(), input_size=(3, 8, 8))
    with FakeTensorMode(), torch.device("cuda"):
        network, images = small(), torch.empty(2, 3, 8, 8)
        assert images.device.type == "cuda"
        graph = capture_graph(as_network(network), layers[2:3], images)
    assert list(graph.layer_outputs) == ["2"]


@pytest.mark.parametrize("mode", ["zero", "noise"])
def test_the_partial_engine_gives_the_same(gpu, stimuli, mode):
    here, there = (
        up.ablate(small(), stimuli, mode=mode, method="partial_forward", device=d)
        for d in (None, gpu)
    )
    assert there.attrs["method"] == "partial_forward"
    assert_same(here, there, 1e-3)


def test_an_attribution_is_the_same(gpu, stimuli):
    here, there = (up.attribute(small(), stimuli, device=d) for d in (None, gpu))
    assert_same(here, there, 1e-3)


def term_and_gradient(device, measure, autocast, labels_on=None):
    network = small().train().to(device)
    torch.manual_seed(2)
    images, labels = torch.randn(24, 3, 8, 8), torch.arange(24) % 4
    labels = labels.to(labels_on or device)
    with (
        up.SelectivityRegularizer(network, alpha=1.0, measure=measure, class_count=4) as term,
        torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast),
    ):
        logits = network(images.to(device))
        loss = nn.functional.cross_entropy(logits.float(), labels.to(device)) + term(labels)
    loss.backward()
    return float(loss.detach()), [p.grad.cpu().numpy() for p in network.parameters()]


@pytest.mark.parametrize("measure", ["class_selectivity", "d_prime"])
def test_the_regularizer_gives_the_same_term_and_gradient(gpu, measure):
    here, there = (term_and_gradient(device, measure, autocast=False) for device in ("cpu", gpu))
    assert there[0] == pytest.approx(here[0], abs=1e-4)
    for gradient, other in zip(here[1], there[1], strict=True):
        np.testing.assert_allclose(other, gradient, atol=1e-3)


def test_the_bias_corrected_regularizer_works(gpu):
    """Its shuffles come from the random state of the device."""
    loss, gradients = term_and_gradient(gpu, "class_selectivity_corrected", autocast=False)
    assert math.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_labels_on_the_cpu_leave_the_regularizer_in_single_precision(gpu):
    """To switch autocast off for the device of the labels would leave it on for the responses."""
    here, there = (term_and_gradient(gpu, "class_selectivity", True, d) for d in (gpu, "cpu"))
    assert there[0] == here[0]


METRICS = [
    *("class_selectivity", "class_means", "ccmas", "roc_auc", "d_prime"),
    *("average_precision", "max_informedness", "mutual_information", "eta_squared"),
]
OF_RESPONSES = ["gini", "lifetime_sparseness", "hoyer_sparseness", "kurtosis", "fraction_active"]


@pytest.mark.parametrize("name", [*METRICS, *OF_RESPONSES, "participation_ratio", "dead"])
def test_a_statistic_stays_on_the_device_of_the_responses(gpu, name):
    torch.manual_seed(0)
    responses, labels = torch.rand(40, 7), torch.arange(40) % 4
    arguments = (responses, labels) if name in METRICS else (responses,)
    measure = getattr(metrics, name)
    here, there = measure(*arguments), measure(*(value.to(gpu) for value in arguments))
    assert there.device.type == "cuda"
    np.testing.assert_allclose(there.cpu().numpy(), np.asarray(here), rtol=1e-4, atol=1e-5)


# What a GPU refuses, the pretended one refuses.


@pytest.mark.parametrize(
    "mistake",
    [
        lambda there: there + torch.ones(3),
        lambda there: torch.ones(3).add_(there),
        lambda there: torch.stack([there[0], torch.tensor(1.0)]),
        lambda there: there.index_select(0, torch.tensor([0])),
        lambda there: np.asarray(there),
        lambda there: torch.rand(3, device=there.device, generator=torch.Generator()),
    ],
)
def test_a_mistake_with_devices_is_an_error(gpu, mistake):
    with pytest.raises((RuntimeError, TypeError)):
        mistake(torch.ones(3, device=gpu))


def test_what_cuda_allows_is_allowed(gpu):
    there = torch.arange(3.0, device=gpu)
    assert (there + torch.tensor(1.0)).device.type == "cuda"
    assert there[torch.tensor([True, False, True])].tolist() == [0, 2]
    assert there.cpu().numpy().tolist() == [0, 1, 2]
    there[[0, 1]] = torch.ones(2).to(gpu)
    assert there.tolist() == [1, 1, 2]


@pytest.mark.skipif(REAL_GPU, reason="a real copy may arrive at once")
def test_a_copy_that_is_not_waited_for_has_not_arrived(gpu):
    buffer, copies = torch.zeros(3, pin_memory=True), torch.cuda.Stream(gpu)
    with torch.cuda.stream(copies):
        buffer.copy_(torch.ones(3, device=gpu), non_blocking=True)
    assert buffer.isnan().all()


@pytest.mark.skipif(REAL_GPU, reason="of Apple's GPUs")
def test_a_device_without_float64_is_used(stimuli, tmp_path):
    with pretend_device("mps") as device:
        here, there = (
            up.record(small(), stimuli, tmp_path / name, device=d)
            for name, d in [("cpu.h5", None), ("mps.h5", device)]
        )
        assert_same(here, there)
        here, there = (
            up.analyze(small(), stimuli, n_permutations=5, device=d) for d in (None, device)
        )
        assert_same(here, there, 1e-3)
