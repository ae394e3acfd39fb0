"""A protocol is added as docs/ablation.md says: a function, a summary, a figure and one record."""

import inspect
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from typer.testing import CliRunner

import unitprobe as up
from unitprobe import plots
from unitprobe.ablation import Mode
from unitprobe.cli.from_signature import parameter_help
from unitprobe.cli.protocol import protocol_group
from unitprobe.errors import LayerError
from unitprobe.protocols import PROTOCOLS, Protocol, nodes_of, summarize_protocol
from unitprobe.protocols.common import RunOptions, assemble
from unitprobe.report import write_report

NETWORK = (
    "import torch\n"
    "from torch import nn\n"
    "def build():\n"
    "    torch.manual_seed(0)\n"
    "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
)


def halves_protocol(
    model,
    stimuli,
    *,
    layers="activations",
    shares: Sequence[float] = (0.5, 1.0),
    mode: Mode = "zero",
    seed: int = 0,
    **run: Unpack[RunOptions],
):
    """Ablate the first units of each layer together.

    Parameters
    ----------
    model, stimuli, layers, mode
        As `unitprobe.ablate`.
    shares : sequence of float
        Shares of the units. They are rounded.
    seed : int
        Seed of the replacement.
    **run
        As `unitprobe.ablate`.
    """
    listed = up.list_layers(model, example=torch.zeros(1, 1, 8, 8))
    counts = {layer.name: layer.units for layer in listed if layer.kind == "relu"}
    groups = {
        name: [range(max(1, round(share * count))) for share in shares]
        for name, count in counts.items()
    }
    tree = up.ablate(
        model, stimuli, layers=layers, groups=groups, mode=mode, n_permutations=0, seed=seed, **run
    )
    nodes = {
        name: node[["accuracy_drop"]].drop_vars("group").rename(group="share", accuracy_drop="cost")
        for name, node in nodes_of(tree).items()
    }
    mean = xr.concat([node["cost"] for node in nodes.values()], "layer").mean("layer")
    root = xr.Dataset({"mean_cost": ("share", mean.values)}, {"share": list(shares)})
    return assemble(tree, root, nodes, "halves", seed=seed)


def plot_halves(tree):
    figure = Figure()
    figure.subplots().plot(tree["share"], tree["mean_cost"])
    return figure


@pytest.fixture(autouse=True)
def halves(monkeypatch):
    record = Protocol(
        name="halves",
        run=halves_protocol,
        question="What do many units cost?",
        summarize=lambda root: root[["mean_cost"]].to_dataframe().reset_index(),
        plot="plot_halves",
        heading="The cost of many units",
        caption="Lower is better.",
    )
    monkeypatch.setitem(PROTOCOLS, "halves", record)
    monkeypatch.setattr(plots, "plot_halves", plot_halves, raising=False)
    return record


def model():
    scope = {}
    exec(NETWORK, scope)
    return scope["build"]().eval()


def test_its_command_has_the_options_of_the_function(tmp_path, monkeypatch):
    (tmp_path / "one_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    group, out = protocol_group(), str(tmp_path / "g.h5")
    listed = CliRunner().invoke(group, ["--help"])
    assert "halves" in listed.output
    assert "What do many units cost?" in listed.output
    shown = CliRunner().invoke(group, ["halves", "--help"]).output
    for words in ("--shares", "Shares of the units.", "0.5,1.0", "--mode", "--method", "--seed"):
        assert words in shown
    assert "They are rounded" not in shown
    words = ["halves", "one_network:build", "digits", "--limit", "60", "--out", out]
    done = CliRunner().invoke(group, [*words, "--shares", "0.25,0.5,1", "--mode", "value:1"])
    assert done.exit_code == 0, done.exception
    assert "ran protocol halves on 1 layers" in done.output
    digits = up.load_stimuli("digits", limit=60)
    expected = halves_protocol(model(), digits, shares=[0.25, 0.5, 1.0], mode=up.Value(1.0))
    with up.open_store(out) as tree:
        assert tree.attrs["protocol"] == "halves"
        np.testing.assert_array_equal(tree["mean_cost"], expected["mean_cost"])


def test_it_is_summarized_and_reported(tmp_path):
    digits = up.load_stimuli("digits", limit=60)
    tree = halves_protocol(model(), digits)
    assert summarize_protocol(tree)["share"].tolist() == [0.5, 1.0]
    analysis = up.analyze(model(), digits, metrics=["class_selectivity"])
    page = write_report(analysis, tmp_path / "report", ablation=tree).read_text()
    assert "The cost of many units" in page
    assert "Lower is better." in page


def test_a_layer_may_not_have_the_name_of_a_result():
    tree = xr.DataTree.from_dict({"share": xr.Dataset()})
    root = xr.Dataset({"share": 1.0})
    with pytest.raises(LayerError, match="layer 'share' has the name of a variable of protocol"):
        assemble(tree, root, nodes_of(tree), "halves")


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "halves"])
def test_every_parameter_of_a_protocol_is_described(name):
    run = PROTOCOLS[name].run
    assert set(inspect.signature(run).parameters) <= set(parameter_help(inspect.getdoc(run)))
