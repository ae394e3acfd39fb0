"""A function and a record are all that a new measure takes, as docs/add_a_measure.md says."""

import contextlib
import io
import sys

import numpy as np
import pandas as pd
import pytest
from measure_tables import tables
from trees import make_recording

import unitprobe as up
from unitprobe.cli import main
from unitprobe.metrics.registry import Measure, registered
from unitprobe.report import write_report
from unitprobe.store import save_tree


def contrast(responses, labels):
    """Difference between the largest and the smallest class mean of each unit."""
    means = up.metrics.class_means(responses, labels)
    return np.nanmax(means, axis=0) - np.nanmin(means, axis=0)


@pytest.fixture
def toy():
    record = Measure(
        name="contrast",
        kind="class",
        function=contrast,
        long_name="difference between the largest and the smallest class mean",
        formula="max_A mu_A - min_A mu_A",
        range=(0, np.inf),
        units="response",
    )
    with registered(record):
        yield record


def run(*arguments):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["unitprobe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out.getvalue()


def test_analyze_computes_it_with_null_and_interval(toy):
    tree = make_recording()
    analysis = up.analyze(tree, metrics=["contrast"], n_permutations=30, n_bootstrap=30)
    for layer, node in analysis.children.items():
        responses, labels = tree[layer]["response"].values, tree["label"].values
        np.testing.assert_array_equal(node["contrast"], contrast(responses, labels))
        alive = node["contrast"].values > 0
        assert (node["contrast_low"] <= node["contrast"]).values[alive].all()
        assert (node["contrast"] <= node["contrast_high"]).values[alive].all()
        assert ((node["contrast_p"] > 0) & (node["contrast_p"] <= 1)).values.all()
        assert (node["contrast_q"] >= node["contrast_p"] - 1e-12).values.all()
        assert node["contrast"].attrs["long_name"] == toy.long_name
        assert node["contrast_low"].attrs["units"] == "response"
        assert node["contrast_high"].attrs["valid_range"] == [0, np.inf]
    assert analysis["contrast"].dims == ("layer",)


def test_it_is_computed_unasked_and_compared(toy):
    analysis = up.analyze(make_recording())
    assert all("contrast" in node for node in analysis.children.values())


def test_the_command_line_knows_it(toy, tmp_path):
    save_tree(make_recording(), tmp_path / "store.h5")
    run("analyze", tmp_path / "store.h5", "--metrics", "contrast", "--out", tmp_path / "out.h5")
    assert "contrast" in up.open_store(tmp_path / "out.h5")["conv1.relu"]
    assert "contrast" in run("analyze", "--help")
    assert "difference between the largest" in run("analyze", "--help")


def test_the_report_holds_it(toy, tmp_path):
    analysis = up.analyze(make_recording(), n_permutations=20)
    page = write_report(analysis, tmp_path / "report")
    assert "contrast" in pd.read_csv(page.parent / "units.csv")
    assert "contrast" in pd.read_csv(page.parent / "layers.csv")
    assert toy.long_name in page.read_text()


def test_the_table_of_the_documentation_holds_it(toy):
    assert "| `contrast` | max_A mu_A - min_A mu_A | from 0 | response | | |" in tables()["class"]
