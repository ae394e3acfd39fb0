import csv
import errno
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import trees

import unitprobe as up
from unitprobe.errors import OptionError, StorageError, StoreError, StoreExistsError
from unitprobe.report import NetworkResult, folder, write_comparison, write_report

VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """A page whose tags must be balanced; gathers what it refers to and the cells of its tables."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.references, self.text, self.tables, self.tags = [], [], "", [], []
        self.feed(path.read_text("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.references += [values[name] for name in ("href", "src") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def rows(self, table):
        heading, *rows = self.tables[table]
        return [dict(zip(heading, row, strict=True)) for row in rows]


def check_references(page):
    parsed = Page(page)
    for reference in parsed.references:
        assert not re.match(r"[a-z]+:|//", reference), reference
        assert (page.parent / unquote(reference)).is_file(), reference
    return parsed


@pytest.fixture(scope="module")
def analysis():
    return trees.make_analysis()


@pytest.fixture(scope="module")
def ablation(analysis):
    return trees.make_ablation(analysis)


@pytest.fixture(scope="module")
def page(analysis, ablation, tmp_path_factory):
    return write_report(
        analysis, tmp_path_factory.mktemp("r") / "new" / "report", ablation=ablation
    )


def test_the_page_is_whole_small_and_needs_no_network(page):
    parsed = check_references(page)
    assert page.name == "index.html"
    assert parsed.tags.count("img") == 5
    assert "http" not in page.read_text("utf-8")
    assert sum(f.stat().st_size for f in page.parent.rglob("*") if f.is_file()) < 3e6


def test_the_tables_hold_the_numbers_of_the_tree(page, analysis, ablation):
    units = pd.read_csv(page.parent / "units.csv")
    expected = up.unit_table(analysis)
    assert len(units) == len(expected) == 19
    for name in ("class_selectivity", "class_selectivity_q", "gini"):
        np.testing.assert_allclose(units[name], expected[name])
    np.testing.assert_allclose(units["accuracy_drop"], up.unit_table(ablation)["accuracy_drop"])
    layers = pd.read_csv(page.parent / "layers.csv")
    np.testing.assert_allclose(layers["participation_ratio"], analysis["participation_ratio"])
    shown = Page(page).rows(0)
    for row, (layer, node) in zip(shown, analysis.children.items(), strict=True):
        assert row["Layer"] == layer
        assert row["Units"] == str(node.sizes["unit"])
        assert row["Selectivity"] == f"{float(node['class_selectivity'].mean()):.3f}"
        assert row["Particip. ratio"] == f"{float(node['participation_ratio']):.1f}"


def test_the_most_selective_units_are_ranked_by_corrected_selectivity(page, analysis):
    rows = Page(page).rows(1)
    table = up.unit_table(analysis).dropna(subset=["class_selectivity"])
    best = table.sort_values("class_selectivity_corrected", ascending=False).iloc[0]
    assert len(rows) == 16
    assert (rows[0]["Rank"], rows[0]["Layer"]) == ("1", best["layer"])
    assert rows[0]["Unit"] == str(best["unit"])
    assert rows[0]["Corrected"] == f"{best['class_selectivity_corrected']:.3f}"
    assert rows[0]["Preferred class"] == best["preferred_class_name"]


def test_the_summary_states_the_numbers(page, analysis, ablation):
    text = Page(page).text
    count = sum(
        int((node["class_selectivity_q"] < 0.05).sum()) for node in analysis.children.values()
    )
    assert f"{count} of 19 units" in text
    assert "3 of 19 units (15.8%) are dead" in text
    assert "right on 87.5% of the stimuli" in text
    drop = max(float(node["accuracy_drop"].max()) for node in ablation.children.values())
    assert f"at most {100 * drop:.1f}" in text
    assert "class two" in text
    for fact in (
        "toy",
        "abc123",
        "Resize(8)",
        "noise",
        "60 stimuli, 3 classes, 3 layers, 19 units",
    ):
        assert fact in text


def test_the_same_report_is_the_same_bytes(page, analysis, ablation, tmp_path):
    again = write_report(analysis, tmp_path, ablation=ablation)
    for file in page.parent.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (again.parent / file.relative_to(page.parent)).read_bytes()


def test_a_saved_analysis_gives_the_same_page(page, analysis, ablation, tmp_path):
    opened = up.open_store(up.save_tree(analysis, tmp_path / "mine.h5"))
    text = write_report(opened, tmp_path / "report", ablation=ablation).read_text("utf-8")
    assert text.replace("mine.h5", "analysis.h5") == page.read_text("utf-8")


def test_sections_without_statistics_are_left_out_and_named(tmp_path):
    analysis = trees.make_analysis(metrics=["gini", "dead"])
    parsed = check_references(write_report(analysis, tmp_path, title="Some of it"))
    assert parsed.tags.count("img") == 0
    assert "Left out: the analysis has no 'class_selectivity'" in parsed.text
    assert "Left out: the analysis has no 'components_95'" in parsed.text
    assert "Some of it" in parsed.text


def test_without_a_null_the_page_does_not_speak_of_chance(tmp_path):
    parsed = Page(write_report(trees.make_analysis(n_permutations=0, n_bootstrap=0), tmp_path))
    assert "There is no null" in parsed.text
    assert "than chance" not in parsed.text
    assert "beyond chance" not in parsed.text


@pytest.mark.filterwarnings("ignore::unitprobe.errors.UnitprobeWarning")
def test_negative_responses_are_pointed_out(tmp_path):
    analysis = up.analyze(trees.make_recording(negative=True), progress=False, signed="allow")
    parsed = Page(write_report(analysis, tmp_path))
    assert "3 of 3 layers have negative responses" in parsed.text
    expected = [node.attrs["negative_responses"] for node in analysis.children.values()]
    assert [int(row["Negative"]) for row in parsed.rows(0)] == expected


def test_hostile_names_are_text(tmp_path):
    evil = "<script>alert('1')</script>"
    classes = [evil, '"><img src=x onerror=alert(1)>', "../../etc/пример\u202e\x07猫"]
    analysis = trees.make_analysis({"<b>relu</b>": 4, '"&amp;$': 5}, classes)
    analysis.attrs["network"] = evil
    page = write_report(analysis, tmp_path / "r", ablation=trees.make_ablation(analysis))
    parsed = check_references(page)
    assert parsed.tags.count("script") == 1
    assert "b" not in parsed.tags
    assert parsed.tags.count("img") == 5
    assert evil in parsed.text
    assert "猫" in page.read_text("utf-8")
    assert "\u202e" not in page.read_text("utf-8")
    for plot in page.parent.rglob("*.svg"):
        assert "<script" not in plot.read_text("utf-8")
    with (page.parent / "units.csv").open(encoding="utf-8", newline="") as file:
        assert {row["preferred_class_name"] for row in csv.DictReader(file)} <= {*classes, ""}
    files = {file.name for file in page.parent.rglob("*") if file.is_file()}
    assert {name for name in files if not name.endswith(".svg")} == {
        "index.html",
        "units.csv",
        "layers.csv",
    }


def test_a_folder_with_something_in_it_is_refused(analysis, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreExistsError, match="not empty"):
        write_report(analysis, tmp_path)
    with pytest.raises(StoreExistsError, match="is a file"):
        write_report(analysis, tmp_path / "notes.txt")


def test_overwriting_replaces_only_what_a_report_wrote(analysis, ablation, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_report(analysis, tmp_path, ablation=ablation, overwrite=True)
    assert (tmp_path / "plots" / "ablation.svg").exists()
    (tmp_path / "plots" / "mine.svg").write_text("mine")
    check_references(write_report(analysis, tmp_path, title="Second", overwrite=True))
    assert "Second" in (tmp_path / "index.html").read_text("utf-8")
    assert not (tmp_path / "plots" / "ablation.svg").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "plots" / "mine.svg").read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_report_or_nothing(
    analysis, ablation, tmp_path, monkeypatch
):
    earlier, new = tmp_path / "earlier", tmp_path / "new"
    write_report(analysis, earlier)
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    written = []

    def fill_up(path, contents):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.write_bytes(contents))

    monkeypatch.setattr(folder, "write_atomically", fill_up)
    for target in (earlier, new):
        written.clear()
        with pytest.raises(StorageError, match="No space left"):
            write_report(analysis, target, ablation=ablation, title="Second", overwrite=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    assert not any(new.iterdir())


@pytest.mark.parametrize(
    ("permutations", "says"), [(10, "no unit can be"), (50, "more than 39.2%")]
)
def test_few_permutations_are_not_reported_as_units_without_selectivity(
    permutations, says, tmp_path
):
    tree = trees.make_recording()
    analysis = up.analyze(
        tree, n_permutations=permutations, metrics=["class_selectivity"], progress=False
    )
    for layer in analysis.children:
        analysis[layer]["class_selectivity_q"][:] = 0.2
    assert says in Page(write_report(analysis, tmp_path)).text


@pytest.mark.parametrize("name", ["index.html", "units.csv"])
def test_a_file_of_somebody_else_is_never_replaced(analysis, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(StoreExistsError, match=name):
        write_report(analysis, tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_trees_that_do_not_belong_are_refused(analysis, ablation, tmp_path):
    with pytest.raises(StoreError, match="abc123"):
        write_report(analysis, tmp_path, ablation=trees.make_ablation(analysis, "other"))
    with pytest.raises(StoreError, match="analysis"):
        write_report(ablation, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_comparison_holds_the_numbers_of_each_network(analysis, ablation, tmp_path):
    names = ["plain", "a & <b>", "../up"]
    write_report(analysis, tmp_path / "a & <b>", ablation=ablation)
    networks = [NetworkResult(name, analysis, ablation, f"notes of {name}") for name in names]
    page = write_comparison(networks, tmp_path, overwrite=True)
    parsed = check_references(page)
    assert [ref for ref in parsed.references if ref.endswith("index.html")] == [
        "a%20%26%20%3Cb%3E/index.html"
    ]
    table = pd.read_csv(tmp_path / "comparison.csv")
    assert table["network"].tolist() == names
    units = up.unit_table(analysis).merge(up.unit_table(ablation), on=["layer", "unit"])
    expected = {
        "accuracy": 0.875,
        "class_selectivity": float(analysis["class_selectivity"].mean()),
        "class_selectivity_corrected": float(analysis["class_selectivity_corrected"].mean()),
        "selective_share": float((units["class_selectivity_q"] < 0.05).mean()),
        "dead_share": 3 / 19,
        "participation_ratio": float(analysis["participation_ratio"].mean()),
        "mean_accuracy_drop": units["accuracy_drop"].mean(),
        "max_accuracy_drop": units["accuracy_drop"].max(),
        "max_class_accuracy_drop": units["max_class_accuracy_drop"].max(),
        "rank_correlation": units[["class_selectivity", "accuracy_drop"]]
        .dropna()
        .corr("spearman")
        .iloc[0, 1],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(table[name], value, err_msg=name)
    row = parsed.rows(0)[0]
    assert row["Mean drop"] == f"{100 * expected['mean_accuracy_drop']:.1f}"
    assert row["Accuracy"] == "87.5%"


@pytest.mark.parametrize("names", [[], ["same", "same"]])
def test_a_comparison_needs_networks_of_different_names(analysis, ablation, tmp_path, names):
    with pytest.raises(OptionError, match="own name"):
        write_comparison([NetworkResult(name, analysis, ablation) for name in names], tmp_path)


def test_a_correlation_that_only_tells_layers_apart_is_pointed_out(analysis, tmp_path):
    tree, ablation = analysis.copy(deep=True), trees.make_ablation(analysis)
    for depth, (name, node) in enumerate(tree.children.items()):
        step = np.arange(node.sizes["unit"]) / 100
        node["class_selectivity"][:] = depth + step
        ablation[name]["accuracy_drop"][:] = (2 - depth + step) / 4
    assert "tells layers apart" in Page(write_report(tree, tmp_path, ablation=ablation)).text
