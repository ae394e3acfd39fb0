"""A network against a baseline: each statistic of units, layer by layer."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import make_stimuli
from test_cli import fails, run
from torch import nn

import unitprobe as up
from unitprobe.analysis import compare
from unitprobe.errors import OptionError, StoreError

STIMULI = make_stimuli(60)


class Tuned(nn.Module):
    """Half of the units of its layer respond to bright images alone, if it is trained."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.relu, self.other = nn.Conv2d(3, 12, 3), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.other(-self.relu(self.conv(x)).mean((2, 3)) + 1.0)


def analyzed(seed, stimuli=STIMULI, **options):
    return up.analyze(Tuned(seed).eval(), stimuli, n_permutations=20, **options)


@pytest.fixture(scope="module")
def both():
    return analyzed(1), analyzed(2)


def test_each_row_compares_the_units_of_a_layer(both):
    table = compare(*both).set_index(["metric", "layer"])
    for name in ("class_selectivity", "class_selectivity_corrected", "gini", "fraction_active"):
        for layer in ("relu", "other"):
            row = table.loc[name, layer]
            ours, theirs = (tree[layer][name].dropna("unit").values for tree in both)
            assert (row["units"], row["baseline_units"]) == (len(ours), len(theirs))
            np.testing.assert_allclose(row["value"], ours.mean())
            np.testing.assert_allclose(row["difference"], ours.mean() - theirs.mean())
            assert row["low"] <= row["difference"] <= row["high"]
            if np.ptp([*ours, *theirs]):
                expected = scipy.stats.mannwhitneyu(ours, theirs, method="asymptotic").pvalue
                np.testing.assert_allclose(row["p"], expected)
    p = table.loc["gini", "p"]
    np.testing.assert_allclose(table.loc["gini", "q"], scipy.stats.false_discovery_control(p))


def test_classes_and_bounds_are_not_compared(both):
    names = set(compare(*both)["metric"])
    assert "roc_auc" in names
    assert not names & {"preferred_class", "d_prime_class", "roc_auc_error", "gini_error", "dead"}


def test_only_the_statistics_asked_for(both):
    table = compare(*both, metrics=["incoming_l1"])
    assert table["metric"].tolist() == ["incoming_l1"] * 2
    assert table["baseline_units"].tolist() == [12, 12]


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        (lambda: analyzed(2, make_stimuli(64)), StoreError, "with stimuli .*compare them on the"),
        (lambda: analyzed(2, pool="max"), StoreError, "pooling mean, the baseline with max"),
        (lambda: analyzed(1), StoreError, "both analyses have the weights"),
        (
            lambda: analyzed(2, layers="kind:conv", metrics=["d_prime"]),
            StoreError,
            "no layer in common.* are conv",
        ),
    ],
)
def test_what_cannot_be_compared(both, other, error, match):
    with pytest.raises(error, match=match):
        compare(both[0], other())


def test_a_statistic_that_one_of_them_lacks(both):
    with pytest.raises(OptionError, match=r"'ginny' .*nearest are .*gini"):
        compare(*both, metrics=["ginny"])


def test_a_recording_is_not_an_analysis(both, tmp_path):
    recording = up.record(Tuned(1).eval(), STIMULI, tmp_path / "s.h5")
    with pytest.raises(StoreError, match="two analyses, and this tree holds: recording"):
        compare(both[0], recording)


@pytest.mark.process
def test_from_the_command_line_a_trained_network_and_an_untrained(both, tmp_path):
    both[0].to_netcdf(tmp_path / "trained.h5", engine="h5netcdf")
    up.record(Tuned(2).eval(), STIMULI, tmp_path / "untrained.h5")
    out = tmp_path / "compared.csv"
    code, shown, err = run(
        *("compare", tmp_path / "trained.h5", tmp_path / "untrained.h5", "--out", out),
        *("--n-permutations", 20),
    )
    assert code == 0, err
    assert "class_selectivity_corrected\nlayer " in shown.replace("  ", " ").replace("  ", " ")
    assert "compared 2 layers by" in shown
    table = pd.read_csv(out)
    found = table[(table["metric"] == "class_selectivity") & (table["layer"] == "relu")]
    expected = compare(*both, metrics=["class_selectivity"])
    np.testing.assert_allclose(found["difference"], expected["difference"][:1], atol=1e-5)
    line = fails(2, "compare", tmp_path / "trained.h5", tmp_path / "trained.h5")
    assert "both analyses have the weights" in line
