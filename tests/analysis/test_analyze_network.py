"""A network that is analyzed directly has the analysis of a recording."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_stimuli
from torch import nn

import unitprobe as up
from unitprobe.analysis.running_sums import has_resampled_sums, has_running_sums
from unitprobe.errors import (
    LabelError,
    LayerError,
    OptionError,
    ResponseError,
    UnitprobeWarning,
)
from unitprobe.metrics.registry import MEASURES, default_metrics, measures

#: The measures that are exact without all responses.
SUMMED = [name for name in measures() if has_running_sums(name)]
#: Those of them whose null and interval are exact too.
RESAMPLED = [name for name in SUMMED if MEASURES[name].kind != "class" or has_resampled_sums(name)]
RESAMPLED_OF_FEW = [name for name in RESAMPLED if name in default_metrics(20)]

WEIGHTS = ("coming_l1", "coming_l2", "going_l1", "going_l2")


class WithDeadUnits(nn.Module):
    """A ReLU layer with a dead and a constant unit, then a GELU, whose responses are signed."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(9, 5)
        self.gelu = nn.GELU()
        with torch.no_grad():
            self.conv.weight[:2] = 0.0
            self.conv.bias[:2] = torch.tensor([-1.0, 0.5])

    def forward(self, x):
        return self.gelu(self.linear(self.relu(self.conv(x)).mean((2, 3))))


def build(name):
    torch.manual_seed(0)
    make = {
        "reused": networks.ReusedInPlace,
        "attention": networks.TinyAttention,
        "dead": WithDeadUnits,
        "resnet": networks.ResNet20,
    }
    return make[name]().eval()


def both(tmp_path, network, stimuli, *, layers="activations", memory="2GB", **options):
    recording = up.record(network, stimuli, tmp_path / "s.h5", batch_size=13, layers=layers)
    network_options = {"batch_size": 7, "layers": layers, "memory": memory}
    recorded = up.analyze(recording, **options)
    return recorded, up.analyze(network, stimuli, **network_options, **options)


def assert_same(found, recorded, rtol=1e-5):
    assert list(found.children) == list(recorded.children)
    for place in ("/", *recorded.children):
        one, other = found[place].to_dataset(), recorded[place].to_dataset()
        assert set(one.coords) == set(other.coords)
        for name in other.coords:
            np.testing.assert_array_equal(one[name].values, other[name].values)
        shared = [name for name in one.data_vars if not str(name).endswith(WEIGHTS)]
        assert shared == list(other.data_vars)
        for name, expected in other.data_vars.items():
            assert one[name].dims == expected.dims, name
            assert one[name].dtype == expected.dtype, name
            np.testing.assert_allclose(
                one[name].values.astype(float),
                expected.values.astype(float),
                rtol=rtol,
                atol=rtol,
                err_msg=f"{place} {name}",
            )
        assert {key: one.attrs[key] for key in other.attrs} == other.attrs


@pytest.mark.parametrize(
    ("network", "layers", "size", "signed"),
    [
        ("reused", "activations", (3, 8, 8), "allow"),
        ("resnet", ["layer1.0.relu", "layer3.2.relu_1"], (3, 8, 8), "allow"),
        ("dead", "relu", (3, 8, 8), "allow"),
        ("dead", "activations", (3, 8, 8), "auto"),
        ("dead", "activations", (3, 8, 8), "rectify"),
        ("attention", "mlp", (3, 8, 8), "rectify"),
    ],
)
@pytest.mark.filterwarnings("ignore::unitprobe.errors.UnitprobeWarning")
@pytest.mark.parametrize("memory", ["2GB", 1], ids=["responses", "sums"])
def test_the_analysis_is_that_of_a_recording(tmp_path, network, layers, size, signed, memory):
    recorded, found = both(
        tmp_path,
        build(network),
        make_stimuli(61, size),  # enough for the 60 of precision_at_k
        layers=layers,
        metrics=None if signed == "auto" else RESAMPLED if memory == 1 else measures(),
        n_permutations=30,
        n_bootstrap=20,
        signed=signed,
        memory=memory,
    )
    if signed == "auto":
        assert "class_selectivity" in found["gelu"].attrs["not_computed"]
        assert np.isnan(found["gelu"]["class_selectivity_p"]).all()
        assert not np.isnan(found["gelu"]["d_prime_p"]).any()
        if memory == 1:
            return  # measures that need all responses are left out
    assert_same(found, recorded)
    assert "needs_recording" not in found.attrs
    if network == "dead":
        assert found["relu"]["dead"].values[:2].tolist() == [True, False]


@pytest.mark.parametrize("driving", [0, 5, 59])
def test_redraws_without_the_one_stimulus_that_drives_a_unit_have_no_value(tmp_path, driving):
    images = torch.zeros(60, 1, 2, 2)
    images[driving] = 1 / 3
    labels = np.arange(60) // 20
    stimuli = up.Stimuli(images.numpy(), labels, class_names=["a", "b", "c"], name="one driven")
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    names = ["d_prime", "anova_f", "eta_squared", "class_correlation"]
    recorded, found = both(
        tmp_path, network, stimuli, layers="0", metrics=names, n_bootstrap=99, memory=1
    )
    assert_same(found, recorded)
    assert np.isfinite(found["0"]["anova_f_high"].values).all()
    assert found["0"]["eta_squared_high"].values.max() < 0.5


def test_running_sums_give_every_measure_that_needs_no_more(tmp_path):
    recorded, found = both(
        tmp_path, build("reused"), make_stimuli(61), metrics=SUMMED, memory="1kB"
    )
    assert_same(found, recorded)


def test_responses_that_are_shifted_are_kept(tmp_path):
    options = {"layers": "gelu", "signed": "shift", "n_permutations": 5}
    recorded, found = both(tmp_path, build("dead"), make_stimuli(30), **options)
    assert_same(found, recorded)


def test_measures_that_do_not_fit_in_memory_are_named_once_with_the_size_of_a_recording():
    network, stimuli = build("reused"), make_stimuli(30)
    kept = up.analyze(network, stimuli, n_permutations=5)
    size = 30 * 12 * 4
    exact = up.analyze(network, stimuli, n_permutations=5, memory=size)
    xr.testing.assert_identical(kept, exact)
    match = r"all responses take 1.4 kB, more than memory=1439; left out: .*mle_dimension.*record"
    with pytest.warns(UnitprobeWarning, match=match) as caught:
        found = up.analyze(network, stimuli, n_permutations=5, memory=size - 1)
    assert len(caught) == 1
    assert found.attrs["recording_bytes"] == size
    named = set(found.attrs["needs_recording"].split(", "))
    assert named == set(measures()) - set(SUMMED)
    left_out = {name for name in kept["relu"] if str(name).startswith(tuple(named))}
    assert set(kept["relu"]) - left_out == set(found["relu"])


def test_the_weights_are_measured_as_with_a_recording(tmp_path):
    network, stimuli = build("dead"), make_stimuli(30)
    tree = up.record(network, stimuli, tmp_path / "s.h5", layers="relu")
    recorded = up.analyze(tree, metrics=["gini"], model=network)["relu"]
    found = up.analyze(network, stimuli, layers="relu")["relu"]
    for name in ("incoming_l1", "incoming_l2", "outgoing_l1", "outgoing_l2"):
        np.testing.assert_array_equal(found[name], recorded[name])
    assert float(found["incoming_l1"][0]) == 0 < float(found["outgoing_l1"][0])
    without = up.analyze(network, stimuli, layers="relu", metrics=["gini"])
    assert "incoming_l1" not in without["relu"]


def test_measures_of_separation_are_those_of_the_responses(tmp_path):
    from unitprobe import metrics

    network, stimuli = build("reused"), make_stimuli(61)
    tree = up.record(network, stimuli, tmp_path / "s.h5")
    names = ["d_prime", "class_correlation", "anova_f", "eta_squared", "localist_selectivity"]
    found = up.analyze(network, stimuli, batch_size=9, metrics=names, memory=1)
    for layer in ("relu", "relu_1"):
        responses = tree[layer]["response"].values
        for name in names:
            expected = getattr(metrics, name)(responses, stimuli.labels)
            np.testing.assert_allclose(found[layer][name], expected, rtol=1e-5, err_msg=name)


def test_a_class_without_stimuli_is_left_out(tmp_path):
    stimuli = make_stimuli(80, classes=5)
    some = stimuli.select(stimuli.labels != 2)
    recorded, found = both(
        tmp_path, build("reused"), some, metrics=measures(), n_permutations=10, n_bootstrap=10
    )
    assert_same(found, recorded)
    assert np.isnan(found["relu"]["tuning_curve"][:, 2]).all()


class Forked(nn.Module):
    """Which of two layers a stimulus reaches depends on its values; all reach the last."""

    input_size = (3, 8, 8)

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold
        self.conv = nn.Conv2d(3, 6, 3)
        self.bright, self.dark, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        features = self.conv(x).mean((2, 3))
        bright = float(x.mean()) > self.threshold
        return self.last(self.bright(features) if bright else self.dark(features))


def test_what_did_not_reach_a_layer_is_left_out_as_from_a_recording(tmp_path):
    torch.manual_seed(0)
    stimuli = make_stimuli(90)
    brightness = np.array([float(image.mean()) for image, _ in stimuli])
    network = Forked(np.median(brightness)).eval()
    with pytest.warns(UnitprobeWarning, match="was not reached by 45 of 90 stimuli"):
        recorded, found = both(
            tmp_path,
            network,
            stimuli,
            metrics=[name for name in measures() if name != "precision_at_k"],
        )
    assert_same(found, recorded)
    assert [recorded[layer].attrs.get("unreached_stimuli") for layer in ("bright", "last")] == [
        45,
        None,
    ]
    sparseness = found["dark"]["population_sparseness"].values
    assert np.isnan(sparseness[brightness > network.threshold]).all()
    alone = up.Stimuli(
        np.stack([image for image, _ in stimuli])[brightness > network.threshold],
        stimuli.labels[brightness > network.threshold],
    )
    only = up.analyze(network, alone, layers="bright")
    np.testing.assert_allclose(
        found["bright"]["class_selectivity"], only["bright"]["class_selectivity"], rtol=1e-6
    )


def test_shuffles_of_what_reaches_a_layer_need_a_recording():
    stimuli = make_stimuli(40)
    threshold = np.median([float(image.mean()) for image, _ in stimuli])
    with pytest.raises(
        ResponseError, match=r"not reached by all stimuli, .*choose n_permutations=0"
    ):
        up.analyze(
            Forked(threshold).eval(), stimuli, n_permutations=10, metrics=["d_prime"], memory=1
        )


def test_negative_responses_are_counted_and_only_what_they_spoil_is_rectified(tmp_path):
    network, stimuli = build("dead"), make_stimuli(50)
    tree = up.record(network, stimuli, tmp_path / "s.h5", layers="gelu")
    responses = tree["gelu"]["response"].values
    node = up.analyze(network, stimuli, layers="gelu", signed="rectify")["gelu"]
    assert node.attrs["negative_responses"] == (responses < 0).sum() > 0
    assert float(node["class_selectivity"].min()) >= 0
    means = [responses[stimuli.labels == c].mean(axis=0) for c in range(4)]
    np.testing.assert_allclose(node["tuning_curve"].T, means, atol=1e-6)


def test_negative_responses_are_never_passed_over():
    with pytest.warns(UnitprobeWarning, match="1 of 1 layers have negative"):
        up.analyze(build("dead"), make_stimuli(20), layers="gelu", signed="allow")
    with pytest.raises(ResponseError, match=r"layer 'gelu', class_sel.*negative"):
        up.analyze(build("dead"), make_stimuli(20), layers="gelu", metrics=["class_selectivity"])
    up.analyze(build("dead"), make_stimuli(20), layers="gelu", metrics=["d_prime"])


def test_a_measure_that_is_named_refuses_negative_responses_before_the_pass():
    shown = []
    network = build("dead")
    network.register_forward_pre_hook(lambda _, args: shown.append(len(args[0])))
    for memory in ("2GB", 1):
        shown.clear()
        with pytest.raises(
            ResponseError, match=r"layer 'gelu', class_selectivity.*signed='rectify'"
        ):
            up.analyze(
                network,
                make_stimuli(200),
                metrics=["class_selectivity"],
                batch_size=8,
                memory=memory,
            )
        assert sum(shown) < 50


def test_batches_and_their_joining_do_not_matter():
    network, stimuli = build("reused"), make_stimuli(50)
    options = {"n_permutations": 5, "metrics": RESAMPLED_OF_FEW}
    whole = up.analyze(network, stimuli, memory=50 * 12 * 4 - 1, **options)
    parted = up.analyze(network, stimuli, memory=1, batch_size=3, **options)
    xr.testing.assert_allclose(whole["relu"].to_dataset(), parted["relu"].to_dataset())


def test_the_network_is_left_as_it_was():
    network = build("reused").train()
    up.analyze(network, make_stimuli(10))
    assert network.training
    assert networks.count_hooks(network) == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_responses_that_are_not_numbers_are_refused_with_layer_and_stimulus():
    network = build("reused")
    images = np.ones((12, 3, 8, 8), np.float32)
    images[5] = 3e38
    stimuli = up.Stimuli(images, np.arange(12) % 4)
    with pytest.raises(ResponseError, match=r"layer 'relu' has .*infinite.*stimulus '00005'"):
        up.analyze(network, stimuli, batch_size=5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"metrics": ["selectivity_class"]}, OptionError, "nearest are class_selectivity"),
        ({"n_permutations": -1}, OptionError, "n_permutations=-1"),
        ({"signed": "maybe"}, OptionError, "signed='maybe'"),
        ({"pool": "none"}, OptionError, "pool='none'"),
        (
            {"n_permutations": 10**9, "memory": 1, "metrics": ["d_prime"]},
            OptionError,
            r"n_permutations=1000000000 .* GB .*fit",
        ),
        (
            {"metrics": ["gini", "twonn_dimension"], "memory": 100},
            OptionError,
            "metric 'gini' needs all responses, 480 B, more than memory=100; raise memory=",
        ),
        (
            {"metrics": ["top_class_selectivity"], "n_permutations": 9, "memory": 1},
            OptionError,
            "null and interval of metric 'top_class_selectivity' needs all responses",
        ),
        ({"signed": "shift", "memory": 1}, OptionError, "signed='shift' needs all responses"),
        ({"memory": "much"}, OptionError, "memory='much' is not a size"),
        ({"model": torch.nn.ReLU()}, OptionError, "model= belongs to a recording"),
        ({"layers": "nowhere"}, LayerError, "nowhere"),
        ({"batch_size": 0}, OptionError, "batch_size=0"),
    ],
)
def test_a_mistake_is_one_clear_line(options, error, match):
    with pytest.raises(error, match=match):
        up.analyze(build("reused"), make_stimuli(10), **options)


def test_false_discoveries_are_controlled_whatever_is_measured(tmp_path):
    asked = {"metrics": ["roc_auc", "localist_selectivity"], "n_permutations": 20}
    recorded, found = both(tmp_path, build("reused"), make_stimuli(40), **asked)
    for name in asked["metrics"]:
        assert f"{name}_q" in recorded["relu"]
    assert_same(found, recorded)


def test_one_class_is_too_few():
    stimuli = make_stimuli(20)
    with pytest.raises(LabelError, match="at least two"):
        up.analyze(build("reused"), stimuli.select(stimuli.labels == 1))


WORKER = """
import sys
import torch.distributed as dist
import networks
from conftest import make_stimuli
import unitprobe as up
dist.init_process_group("gloo")
for count in (25, 2):
    stimuli = make_stimuli(count, classes=2)
    options = {'batch_size': 4, 'n_permutations': 10, 'n_bootstrap': 10}
    result = up.analyze(networks.build_tiny(), stimuli, **options)
    result.to_netcdf(f"{sys.argv[1]}/{count}-{dist.get_rank()}.h5", engine="h5netcdf")
dist.destroy_process_group()
"""


@pytest.mark.process
@pytest.mark.parametrize("world", [2, 3] if os.environ.get("UNITPROBE_LONG_TESTS") else [3])
def test_many_processes_give_what_one_gives(tmp_path, world):
    here = Path(__file__).parent.parent
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
    }
    workers = [
        subprocess.Popen([sys.executable, script, tmp_path], env=variables | {"RANK": str(rank)})
        for rank in range(world)
    ]
    try:
        assert [worker.wait(timeout=250) for worker in workers] == [0] * world
    finally:
        for worker in workers:
            worker.kill()
    # Of 2 stimuli one of three processes sees none.
    for count in (25, 2):
        stimuli = make_stimuli(count, classes=2)
        alone = up.analyze(networks.build_tiny(), stimuli, n_permutations=10, n_bootstrap=10)
        for rank in range(world):
            with xr.open_datatree(tmp_path / f"{count}-{rank}.h5", engine="h5netcdf") as result:
                for place in ("/", "relu", "relu_1"):
                    one, other = result[place].to_dataset(), alone[place].to_dataset()
                    assert set(one.data_vars) == set(other.data_vars)
                    xr.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
