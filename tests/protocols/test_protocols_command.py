"""The commands of the protocols, and their figures and tables."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from typer.testing import CliRunner

import unitprobe as up
from unitprobe.cli.arguments import parse_checkpoints
from unitprobe.cli.commands import app
from unitprobe.errors import StoreError
from unitprobe.plots import plot_bau, plot_morcos, plot_ranadive, plot_zhou
from unitprobe.protocols import (
    bau_protocol,
    morcos_protocol,
    ranadive_protocol,
    summarize_protocol,
    zhou_protocol,
)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
        ).eval()


@pytest.fixture(scope="module")
def digits():
    return up.load_stimuli("digits", limit=100)


@pytest.fixture(scope="module")
def trees(digits):
    model = network()
    return {
        "zhou": zhou_protocol(model, digits, n_directions=3, resamples=20),
        "morcos": morcos_protocol(
            model, digits, n_orders=3, n_points=3, resamples=20, across_layers=True
        ),
        "bau": bau_protocol(model, digits, n_random=2),
        "ranadive": ranadive_protocol({0: model, 1: network(1)}, digits, n_random=2),
    }


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """Run the command in this process on digits and a network by name."""
        text = (
            "import torch\nfrom torch import nn\n"
            "def build():\n"
            "    torch.manual_seed(0)\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), "
            "nn.Linear(8, 10))\n"
        )
        (tmp_path / "named_network.py").write_text(text)
        monkeypatch.chdir(tmp_path)

        def call(*words):
            words = [*words, "named_network:build", "digits", "--limit", "60"]
            return CliRunner().invoke(app, [*words, "--out", str(tmp_path / "g.h5")])

        return call

    @pytest.mark.parametrize(
        ("words", "rows"),
        [
            (["zhou", "--n-directions", "2", "--resamples", "10", "--n-permutations", "5"], 12),
            (
                [
                    "morcos",
                    "--n-orders",
                    "2",
                    "--n-points",
                    "2",
                    "--clamps",
                    "mean",
                    "--across-layers",
                ],
                2,
            ),
            (["bau", "--n-random", "2", "--sizes", "1,2", "--classes", "3"], 1),
        ],
    )
    def test_it_runs_a_protocol_and_prints_its_findings(self, run, words, rows, tmp_path):
        done = run("protocol", *words)
        assert done.exit_code == 0, done.exception
        assert len(done.stdout.strip().splitlines()) == rows + 3
        assert f"ran protocol {words[0]} on 1 layers" in done.stdout
        with up.open_store(tmp_path / "g.h5") as tree:
            assert tree.attrs["protocol"] == words[0]

    def test_it_compares_checkpoints(self, run, tmp_path):
        for epoch in (1, 10):
            save_file(network(epoch).state_dict(), tmp_path / f"epoch{epoch}.safetensors")
        words = ["--n-random", "2", "--checkpoints", "epoch*.safetensors"]
        done = run("protocol", "ranadive", *words)
        assert done.exit_code == 0, done.exception
        with up.open_store(tmp_path / "g.h5") as tree:
            assert tree["checkpoint"].values.tolist() == [1, 10]

    def test_checkpoints_stand_in_the_order_of_their_epochs(self, tmp_path):
        for name in ("w2.pt", "w10.pt", "w1.pt"):
            (tmp_path / name).touch()
        found = parse_checkpoints([str(tmp_path / "w*.pt"), "last=end.pt"])
        assert [label for label, _ in found] == [1, 2, 10, "last"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["zoo"], "No such command 'zoo'"),
            (["bau", "--n-orders", "3"], "No such option: --n-orders"),
            (["zhou", "--units", "1"], "No such option: --units"),
            (["ranadive"], "Missing option '--checkpoints'"),
            (
                ["ranadive", "--checkpoints", "no/*.pt"],
                "--checkpoints: 'no/*.pt' is not EPOCH=FILE",
            ),
            (["bau", "--sizes", "1,two"], "--sizes: '1,two' is not a list of numbers"),
            (["morcos", "--clamps", "sero"], "--clamps: mode='sero' is not known"),
        ],
    )
    def test_an_option_that_a_protocol_does_not_take_is_refused(self, run, words, message):
        done = run("protocol", *words)
        assert done.exit_code != 0
        said = done.output if isinstance(done.exception, SystemExit) else str(done.exception)
        assert message in re.sub(r"[\s│]+", " ", said)

    def test_every_number_of_noise_can_be_left_out(self, run, tmp_path):
        words = ["--n-orders", "2", "--n-points", "1", "--resamples", "5", "--noise-scales", ""]
        assert run("protocol", "morcos", *words).exit_code == 0
        with up.open_store(tmp_path / "g.h5") as tree:
            assert "noise_scale" not in tree.dims

    def test_a_mode_has_its_number_behind_a_colon(self, run, tmp_path):
        assert run("ablate", "--mode", "value:0.5").exit_code == 0
        with up.open_store(tmp_path / "g.h5") as tree:
            assert (tree.attrs["mode"], tree.attrs["value"]) == ("value", 0.5)

    def test_an_attribution_says_how_good_it_is(self, run, tmp_path):
        done = run("attribute", "--check-units", "4", "--steps", "1")
        assert "rank correlation of attribution and ablation" in done.stdout
        assert "attributed 8 units of 1 layers" in done.stdout
        with up.open_store(tmp_path / "g.h5") as tree:
            assert tree.attrs["method"] == "attribution"


class TestTablesAndFigures:
    def test_each_protocol_has_a_table(self, trees):
        rows = {name: len(summarize_protocol(tree)) for name, tree in trees.items()}
        assert rows == {"zhou": 12, "morcos": 4, "bau": 1, "ranadive": 2}
        with pytest.raises(StoreError, match="protocol None"):
            summarize_protocol(xr.DataTree())

    @pytest.mark.parametrize(
        ("name", "draw"),
        [
            ("zhou", plot_zhou),
            ("morcos", plot_morcos),
            ("bau", plot_bau),
            ("ranadive", plot_ranadive),
        ],
    )
    def test_each_protocol_is_drawn(self, trees, name, draw, tmp_path):
        draw(trees[name]).savefig(tmp_path / "f.png")
        other = trees["bau" if name == "zhou" else "zhou"]
        with pytest.raises(StoreError, match=f"not '{name}'; make one"):
            draw(other)

    def test_the_panels_show_the_numbers_of_the_tree(self, trees):
        ax = plot_morcos(trees["morcos"]).axes[0]
        line = next(each for each in ax.lines if each.get_label() == "most selective first")
        expected = 100 * trees["morcos"]["2"]["selective_first_accuracy"].values[0]
        np.testing.assert_allclose(line.get_ydata(), expected)
        ax = plot_morcos(trees["morcos"]).axes[1]
        assert ax.get_title(loc="left") == "all layers together"
        line = next(each for each in ax.lines if each.get_label() == "most selective first")
        expected = 100 * trees["morcos"]["network_selective_first_accuracy"].values[0]
        np.testing.assert_allclose(line.get_ydata(), expected)

    def test_a_layer_that_is_not_there_is_refused(self, trees):
        with pytest.raises(StoreError, match="no layer 'relu'; it has 2"):
            plot_bau(trees["bau"], ["relu"])
