"""One pass over the network gives what a recording and its analysis give."""

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
from unitprobe import streaming
from unitprobe.errors import (
    LabelError,
    LayerError,
    OptionError,
    ResponseError,
    UnitprobeWarning,
)
from unitprobe.metrics.registry import measures
from unitprobe.streaming import ONE_PASS_METRICS, analyze_network
from unitprobe.streaming.layer_statistics import BY_HISTOGRAM, SKETCHED
from unitprobe.streaming.resampled_measures import RESAMPLED_MEASURES

#: Where classes, or thresholds, are equally good but for the bound, another one may be the best.
CHOSEN = {"max_informedness_threshold", *(f"{name}_class" for name in BY_HISTOGRAM)}
COMPARED = [name for name in measures() if name in ONE_PASS_METRICS]


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


def both(tmp_path, network, stimuli, *, batch_size=7, layers="activations", **options):
    recording = up.record(network, stimuli, tmp_path / "s.h5", batch_size=13, layers=layers)
    recorded = up.analyze(recording, **options)
    return recorded, analyze_network(
        network, stimuli, batch_size=batch_size, layers=layers, **options
    )


def is_needs_responses(name):
    """Whether it is a null or an interval of a measure that one pass has none of."""
    measure, _, end = str(name).rpartition("_")
    measure = measure.removesuffix("_null")
    return measure in set(measures("class")) - set(RESAMPLED_MEASURES) and end in (
        ["mean", "z", "p", "q", "corrected", "low", "high"]
    )


def assert_same(streamed, recorded, *, kept=True):
    assert list(streamed.children) == list(recorded.children)
    for place in ("/", *recorded.children):
        one, other = streamed[place].to_dataset(), recorded[place].to_dataset()
        assert set(other.coords) == set(one.coords)
        for name in other.coords:
            np.testing.assert_array_equal(one[name].values, other[name].values)
        for name, expected in other.data_vars.items():
            if not kept and is_needs_responses(name):
                assert name not in one
                continue
            if name in CHOSEN:
                continue
            assert one[name].dims == expected.dims, name
            assert one[name].dtype == expected.dtype, name
            found, exact = one[name].values.astype(float), expected.values.astype(float)
            bound = one[f"{name}_error"].values if name in SKETCHED else 0.0
            np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
            off = np.nan_to_num(np.where(found == exact, 0.0, abs(found - exact)))
            allowed = np.nan_to_num(bound) + 1e-5 * (1 + np.nan_to_num(abs(exact)))
            np.testing.assert_array_less(off, allowed, err_msg=f"{place} {name}")
        assert {key: one.attrs[key] for key in other.attrs} == other.attrs
        extra = {str(name).removesuffix("_error") for name in set(one) - set(other)}
        assert extra <= set(SKETCHED)


@pytest.mark.parametrize(
    ("network", "layers", "size", "signed"),
    [
        ("reused", "activations", (3, 8, 8), "allow"),
        ("resnet", ["layer1.0.relu", "layer3.2.relu_1"], (3, 8, 8), "allow"),
        ("dead", "relu", (3, 8, 8), "allow"),
        ("dead", "activations", (3, 8, 8), "rectify"),
        ("attention", "mlp", (3, 8, 8), "rectify"),
    ],
)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "histograms"])
def test_the_analysis_is_that_of_a_recording(
    tmp_path, monkeypatch, network, layers, size, signed, kept
):
    if not kept:
        monkeypatch.setattr(streaming.options, "KEPT_BYTES", 0)
    recorded, streamed = both(
        tmp_path,
        build(network),
        make_stimuli(61, size),  # enough for the 60 of precision_at_k
        layers=layers,
        metrics=measures() if kept else COMPARED,
        n_permutations=30,
        n_bootstrap=20,
        signed=signed,
    )
    assert_same(streamed, recorded, kept=kept)
    named = set(filter(None, streamed.attrs["inference_needs_recording"].split(", ")))
    assert named == (set() if kept else set(measures("class")) - set(RESAMPLED_MEASURES))
    errors = [float(streamed[f"{name}_error"].max()) for name in SKETCHED]
    assert (max(errors) == 0) is kept
    if network == "dead":
        assert streamed["relu"]["dead"].values[:2].tolist() == [True, False]


def test_all_that_analyze_computes_by_itself_is_computed_or_named(monkeypatch):
    from_distances = {"twonn_dimension", "mle_dimension"}
    assert set(measures()) - set(COMPARED) == from_distances
    too_few = {"precision_at_k"}  # of 30 stimuli
    for kept, missing in ((True, set()), (False, from_distances)):
        if not kept:
            monkeypatch.setattr(streaming.options, "KEPT_BYTES", 0)
        streamed = analyze_network(build("reused"), make_stimuli(30))
        named = set(filter(None, streamed.attrs["needs_recording"].split(", ")))
        assert named == missing
        assert set(measures()) - named - too_few <= set(streamed["relu"].data_vars)
        assert streamed.attrs["stimulus_count"] == 30


def test_the_weights_are_measured_as_with_a_recording(tmp_path):
    network, stimuli = build("dead"), make_stimuli(30)
    tree = up.record(network, stimuli, tmp_path / "s.h5", layers="relu")
    recorded = up.analyze(tree, metrics=["gini"], model=network)["relu"]
    streamed = analyze_network(network, stimuli, layers="relu")["relu"]
    for name in ("incoming_l1", "incoming_l2", "outgoing_l1", "outgoing_l2"):
        np.testing.assert_array_equal(streamed[name], recorded[name])
    assert float(streamed["incoming_l1"][0]) == 0 < float(streamed["outgoing_l1"][0])
    without = analyze_network(network, stimuli, layers="relu", metrics=["gini"])
    assert "incoming_l1" not in without["relu"]


def test_measures_of_separation_are_those_of_the_responses(tmp_path):
    from unitprobe import metrics

    network, stimuli = build("reused"), make_stimuli(61)
    tree = up.record(network, stimuli, tmp_path / "s.h5")
    names = ["d_prime", "class_correlation", "anova_f", "eta_squared", "localist_selectivity"]
    streamed = analyze_network(network, stimuli, batch_size=9, metrics=[*names, "roc_auc"])
    for layer in ("relu", "relu_1"):
        responses = tree[layer]["response"].values
        for name in names:
            expected = getattr(metrics, name)(responses, stimuli.labels)
            np.testing.assert_allclose(streamed[layer][name], expected, rtol=1e-5, err_msg=name)
        area = metrics.roc_auc(responses, stimuli.labels)
        off = abs(streamed[layer]["roc_auc"].values - area)
        assert (off <= streamed[layer]["roc_auc_error"].values + 1e-12).all()


def test_a_class_without_stimuli_is_left_out(tmp_path):
    stimuli = make_stimuli(80, classes=5)
    some = stimuli.select(stimuli.labels != 2)
    recorded, streamed = both(
        tmp_path, build("reused"), some, metrics=COMPARED, n_permutations=10, n_bootstrap=10
    )
    assert_same(streamed, recorded)
    assert np.isnan(streamed["relu"]["tuning_curve"][:, 2]).all()


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
        recorded, streamed = both(
            tmp_path,
            network,
            stimuli,
            metrics=[name for name in COMPARED if name != "precision_at_k"],
        )
    assert_same(streamed, recorded)
    assert [recorded[layer].attrs.get("unreached_stimuli") for layer in ("bright", "last")] == [
        45,
        None,
    ]
    sparseness = streamed["dark"]["population_sparseness"].values
    assert np.isnan(sparseness[brightness > network.threshold]).all()
    alone = up.Stimuli(
        np.stack([image for image, _ in stimuli])[brightness > network.threshold],
        stimuli.labels[brightness > network.threshold],
    )
    only = analyze_network(network, alone, layers="bright")
    np.testing.assert_allclose(
        streamed["bright"]["class_selectivity"], only["bright"]["class_selectivity"], rtol=1e-6
    )


def test_shuffles_of_what_reaches_a_layer_need_a_recording():
    stimuli = make_stimuli(40)
    threshold = np.median([float(image.mean()) for image, _ in stimuli])
    with pytest.raises(
        ResponseError, match=r"not reached by all stimuli, .*choose n_permutations=0"
    ):
        analyze_network(Forked(threshold).eval(), stimuli, n_permutations=10)


def test_negative_responses_are_counted_and_only_what_they_spoil_is_rectified(tmp_path):
    network, stimuli = build("dead"), make_stimuli(50)
    tree = up.record(network, stimuli, tmp_path / "s.h5", layers="gelu")
    responses = tree["gelu"]["response"].values
    node = analyze_network(network, stimuli, layers="gelu", signed="rectify")["gelu"]
    assert node.attrs["negative_responses"] == (responses < 0).sum() > 0
    assert float(node["class_selectivity"].min()) >= 0
    means = [responses[stimuli.labels == c].mean(axis=0) for c in range(4)]
    np.testing.assert_allclose(node["tuning_curve"].T, means, atol=1e-6)


def test_negative_responses_are_never_passed_over():
    with pytest.warns(UnitprobeWarning, match="1 of 1 layers have negative"):
        analyze_network(build("dead"), make_stimuli(20), layers="gelu", signed="allow")
    with pytest.raises(ResponseError, match=r"layer 'gelu', class_sel.*negative"):
        analyze_network(build("dead"), make_stimuli(20), layers="gelu")
    analyze_network(build("dead"), make_stimuli(20), layers="gelu", metrics=["d_prime"])
    with pytest.raises(OptionError, match=r"signed='shift' needs the lowest response"):
        analyze_network(build("dead"), make_stimuli(20), layers="gelu", signed="shift")


def test_chunks_do_not_matter(monkeypatch):
    network, stimuli = build("reused"), make_stimuli(50)
    whole = analyze_network(network, stimuli, n_permutations=5)
    monkeypatch.setattr(streaming.network, "CHUNK_STIMULI", 8)
    chunked = analyze_network(network, stimuli, n_permutations=5, batch_size=3)
    xr.testing.assert_allclose(whole["relu"].to_dataset(), chunked["relu"].to_dataset())


def test_the_network_is_left_as_it_was():
    network = build("reused").train()
    analyze_network(network, make_stimuli(10))
    assert network.training
    assert networks.count_hooks(network) == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_responses_that_are_no_numbers_are_refused_with_layer_and_stimulus():
    network = build("reused")
    images = np.ones((12, 3, 8, 8), np.float32)
    images[5] = 3e38
    stimuli = up.Stimuli(images, np.arange(12) % 4)
    with pytest.raises(ResponseError, match=r"layer 'relu' has .*infinite.*stimulus '00005'"):
        analyze_network(network, stimuli, batch_size=5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"metrics": ["selectivity_class"]}, OptionError, "nearest are class_selectivity"),
        ({"n_permutations": -1}, OptionError, "n_permutations=-1"),
        ({"signed": "maybe"}, OptionError, "signed='maybe'"),
        ({"pool": "none"}, OptionError, "pool='none'"),
        ({"n_permutations": 10**9}, OptionError, r"n_permutations=1000000000 .* GiB .*fit"),
        ({"layers": "nowhere"}, LayerError, "nowhere"),
        ({"batch_size": 0}, OptionError, "batch_size=0"),
    ],
)
def test_a_mistake_is_one_clear_line(options, error, match):
    with pytest.raises(error, match=match):
        analyze_network(build("reused"), make_stimuli(10), **options)


def test_distances_between_responses_that_are_not_kept_are_refused_by_name(monkeypatch):
    network, stimuli = build("reused"), make_stimuli(30)
    asked = {"metrics": ["twonn_dimension"]}
    assert float(analyze_network(network, stimuli, **asked)["relu"]["twonn_dimension"]) > 0
    monkeypatch.setattr(streaming.options, "KEPT_BYTES", 0)
    with pytest.raises(OptionError, match=r"'twonn_dimension' needs .* or record, then analyze"):
        analyze_network(network, stimuli, **asked)


def test_false_discoveries_are_controlled_whatever_is_measured(tmp_path):
    asked = {"metrics": ["roc_auc", "localist_selectivity"], "n_permutations": 20}
    recorded, streamed = both(tmp_path, build("reused"), make_stimuli(40), **asked)
    for name in asked["metrics"]:
        assert f"{name}_q" in recorded["relu"]
    assert_same(streamed, recorded)


def test_histograms_that_do_not_fit_are_left_out_or_refused_by_name(monkeypatch):
    network, stimuli = build("reused"), make_stimuli(10)
    assert set(BY_HISTOGRAM) <= set(analyze_network(network, stimuli)["relu"].data_vars)
    monkeypatch.setattr(streaming.options, "HISTOGRAM_BYTES", 1000)
    monkeypatch.setattr(streaming.options, "KEPT_BYTES", 900)
    without = analyze_network(network, stimuli)
    assert not set(BY_HISTOGRAM) & set(without["relu"].data_vars)
    assert set(BY_HISTOGRAM) <= set(without.attrs["needs_recording"].split(", "))
    assert "top_class_selectivity" in without["relu"]
    with pytest.raises(OptionError, match=r"'max_f1' would need .* 12 units and 4 classes"):
        analyze_network(network, stimuli, metrics=["max_f1"])


def test_responses_are_kept_for_nothing_but_what_needs_them(monkeypatch):
    asked = {"metrics": ["class_selectivity", "precision_at_k"], "n_permutations": 3}
    node = analyze_network(build("reused"), make_stimuli(61), **asked)
    assert {"precision_at_k_p", "class_selectivity_p"} <= set(node["relu"])
    assert node.attrs["inference_needs_recording"] == ""
    monkeypatch.setattr(streaming.options, "KEPT_BYTES", 0)
    node = analyze_network(build("reused"), make_stimuli(61), **asked)
    assert "precision_at_k_p" not in node["relu"]
    assert node.attrs["inference_needs_recording"] == "precision_at_k"
    keeps, options = streaming.options.keeps_responses, {"n_permutations": 0, "n_bootstrap": 0}
    monkeypatch.setattr(streaming.options, "KEPT_BYTES", 1000)
    assert not keeps(["precision_at_k"], 1, 1, **options)
    assert keeps(["gini"], 1, 125, **options)
    assert not keeps(["gini"], 1, 126, **options)


def test_one_class_is_too_few():
    stimuli = make_stimuli(20)
    with pytest.raises(LabelError, match="at least two"):
        analyze_network(build("reused"), stimuli.select(stimuli.labels == 1))


WORKER = """
import sys
import torch.distributed as dist
import networks
from conftest import make_stimuli
from unitprobe.streaming import analyze_network
dist.init_process_group("gloo")
for count in (25, 2):
    stimuli = make_stimuli(count, classes=2)
    options = {'batch_size': 4, 'n_permutations': 10, 'n_bootstrap': 10}
    result = analyze_network(networks.build_tiny(), stimuli, **options)
    result.to_netcdf(f"{sys.argv[1]}/{count}-{dist.get_rank()}.h5", engine="h5netcdf")
dist.destroy_process_group()
"""


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
        alone = analyze_network(networks.build_tiny(), stimuli, n_permutations=10, n_bootstrap=10)
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
