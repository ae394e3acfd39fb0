"""The recipe of single-unit ablation: the page says what the trees hold."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from unitprobe.errors import ContentsMismatchError, OptionError


@pytest.fixture(scope="module")
def page(tmp_path_factory, cache, digits, one_thread):
    """The folder of a page on an untrained network, and the words that made it."""
    from recipes.selectivity_regularization.architectures import build_network
    from recipes.single_unit_ablation.run import app

    folder = tmp_path_factory.mktemp("page")
    save_file(build_network("resnet8", 10, 8).state_dict(), folder / "weights.safetensors")
    words = ["--model", "resnet8", "--data", "digits", "--cache", str(cache)]
    words += ["--weights", str(folder / "weights.safetensors"), "--out", str(folder)]
    words += ["--keep", str(folder / "keep"), "--limit", "40", "--curve-limit", "20"]
    words += ["--layers", "layer1.0.relu1", "--layers", "layer2.0.relu1", "--directions", "2"]
    words += ["--orders", "2", "--points", "2", "--resamples", "20"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    return folder, words, done.stdout


def test_the_page_has_verdicts_tables_and_figures(page):
    folder, _, printed = page
    text = (folder / "single_unit_ablation_resnet8_digits.md").read_text()
    for claim in ("C9", "C10", "C11"):
        stated = re.search(rf"^### {claim}: (\w+)$", text, re.MULTILINE)
        assert stated is not None
        assert f"{claim}: {stated[1]}" in printed
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (folder / picture).exists()
    assert "one trained network" in text
    assert "nan" not in text


def test_the_table_has_every_unit(page):
    table = pd.read_csv(page[0] / "single_unit_ablation_resnet8_digits.csv")
    assert table["layer"].unique().tolist() == ["layer1.0.relu1", "layer2.0.relu1"]
    wanted = {"unit", "accuracy_drop", "max_class_accuracy_drop", "class_selectivity"}
    assert wanted <= {*table.columns}


def test_what_is_kept_is_not_run_again_and_must_be_what_is_asked_for(page, monkeypatch):
    from recipes.single_unit_ablation import run

    _, words, _ = page
    monkeypatch.setattr(run, "zhou_protocol", None)
    monkeypatch.setattr(run, "morcos_protocol", None)
    again = CliRunner().invoke(run.app, [*words, "--overwrite"])
    assert again.exit_code == 0, again.exception
    other = CliRunner().invoke(run.app, [*words, "--overwrite", "--seed", "1"])
    assert isinstance(other.exception, OptionError)
    assert "was made with seed 0, and 1 is asked for" in str(other.exception)


def test_images_that_the_network_was_not_trained_on_are_refused(tmp_path, digits):
    from recipes.single_unit_ablation.run import check_data

    (tmp_path / "config.json").write_text(json.dumps({"data_fingerprint": "other"}))
    with pytest.raises(ContentsMismatchError, match="fingerprint other"):
        check_data(tmp_path / "weights.safetensors", digits)
