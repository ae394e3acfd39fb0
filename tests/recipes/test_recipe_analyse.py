"""The analysing half of the recipe: what stands on the page follows from the runs, and no more."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from scipy.special import expit, logit

import unitprobe as up
from recipes.selectivity_regularization import figures, options
from recipes.selectivity_regularization.analyse import app
from recipes.selectivity_regularization.claims import (
    accuracy_tests,
    judge_claims,
    points_gained,
    selectivity_fall,
)
from recipes.selectivity_regularization.controls import (
    balanced,
    chosen_alphas,
    rebuild,
    run_controls,
)
from recipes.selectivity_regularization.figures import colours_of, draw_all
from recipes.selectivity_regularization.gathering import at, final, gather_runs
from recipes.selectivity_regularization.images import load_splits, to_inputs
from recipes.selectivity_regularization.page import write_page
from recipes.selectivity_regularization.runs import run_folder
from recipes.selectivity_regularization.settings import Preset, Settings
from recipes.selectivity_regularization.tabulating import binomial_interval, network_table
from recipes.selectivity_regularization.training import train
from unitprobe.errors import (
    ContentsMismatchError,
    OptionError,
    StoreError,
    StoreNotFoundError,
)
from unitprobe.metrics import linear_cka

COMMAND = [sys.executable, "-m", "recipes.selectivity_regularization.analyse"]
LAYERS = ["relu", "layer1.relu", "layer2.relu"]
CONFIG = {
    "model": "resnet20",
    "data": "cifar10:somewhere",
    "preset": "full",
    "data_fingerprint": "f",
    "image_size": 32,
    "mean": [0.5],
    "std": [0.2],
    "alpha": "0",
    "layers": ["activations"],
    "seed": 0,
    "precision": "bfloat16",
    "measure": "class_selectivity",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "steps",
}


def write_run(folder, alpha, seed, accuracy, selectivity, validation=None, dead=False, **config):
    """Leave what a training run leaves; `validation` is (accuracy, selectivity) there."""
    place = folder / f"alpha{alpha}-seed{seed}"
    place.mkdir(parents=True)
    config = CONFIG | {"alpha": alpha, "seed": seed} | config
    (place / "config.json").write_text(json.dumps(config))
    validation_accuracy, validation_selectivity = validation or (accuracy, selectivity)
    # Unequal layers whose mean is the value asked for.
    spread = np.array([0.5, 1.0, 1.5])
    by_layer = selectivity * spread
    if dead:
        by_layer = np.where(spread > 1, np.nan, by_layer)
    rise = np.array([0.5, 1.2, 1.0])
    run = xr.Dataset(
        {
            "train_loss": ("epoch", [2.0, 1.0, 0.5]),
            "train_accuracy": ("epoch", [0.3, 0.5, accuracy]),
            "train_selectivity": ("epoch", [0.3, 0.3, 0.3]),
            "learning_rate": ("epoch", [0.1, 0.1, 0.01]),
            "alpha": ("epoch", [0.0] * 3),
            "seconds": ("epoch", [60.0] * 3),
            "validation_accuracy": ("epoch", [0.2, 0.4, validation_accuracy]),
            "validation_class_selectivity": (
                ("epoch", "layer"),
                validation_selectivity * rise[:, None] * spread,
            ),
            "units": ("layer", [16, 32, 64]),
            "test_accuracy": accuracy,
            "test_class_accuracy": ("class_name", [accuracy] * 2),
            "class_selectivity": ("layer", by_layer),
            "class_selectivity_null_mean": ("layer", [0.02] * 3),
            "class_selectivity_corrected": ("layer", by_layer - 0.02),
            "dead_share": ("layer", [0.0, 0.1, 0.2]),
            "d_prime": ("layer", [1.0, 1.5, 2.0]),
            "mutual_information": ("layer", [0.1, 0.2, 0.3]),
        },
        coords={"epoch": [1, 2, 3], "layer": LAYERS, "class_name": ["cat", "dog"]},
        attrs={
            "schema_version": 1,
            "config": json.dumps(config),
            "environment": json.dumps({"torch": "2", "threads": 2}),
            "null_shuffles": 20,
            "test_stimuli": 10000,
            "finished": f"2026-01-0{1 + seed}T00:00:00+00:00",
        },
    )
    run.to_netcdf(place / "run.nc", engine="h5netcdf")
    return place


def experiment(cells, noise=0.0005, validation=None, **config):
    """Gathered runs of {alpha: (accuracy, SI)}, three seeds each, that scatter by `noise`.

    `validation` is like `cells`, where it differs there.
    """
    steps = noise * np.array([-1.0, 0.0, 1.0])
    alphas = sorted(cells)

    # In another order of the seeds at each alpha: otherwise differences within seeds are constant.
    scatter = np.stack([np.roll(steps, row) for row in range(len(alphas))])

    def values(table, which):
        column = np.array([table[alpha][which] for alpha in alphas])[:, None]
        return column + scatter if which == 0 else column * (1 + scatter)

    tuned = cells if validation is None else validation
    return xr.Dataset(
        {
            "test_accuracy": (("alpha", "seed"), values(cells, 0)),
            "train_loss": (("alpha", "seed", "epoch"), np.ones((len(alphas), 3, 1))),
            "mean_d_prime": (("alpha", "seed"), 4 * values(cells, 1) ** 0.5 + scatter[:, ::-1]),
            "mean_class_selectivity": (("alpha", "seed"), values(cells, 1)),
            "validation_accuracy": (("alpha", "seed", "epoch"), values(tuned, 0)[..., None]),
            "validation_class_selectivity": (
                ("alpha", "seed", "epoch", "layer"),
                values(tuned, 1)[..., None, None] * np.array([0.5, 1.0, 1.5]),
            ),
        },
        coords={
            "alpha": np.array(alphas, dtype=float),
            "seed": [0, 1, 2],
            "finished": (("alpha", "seed"), np.ones((len(alphas), 3), dtype=bool)),
        },
        attrs={"config": CONFIG | config, "test_stimuli": 10000},
    )


def verdicts(runs):
    return {each.claim: each.verdict for each in judge_claims(runs)}


def findings(runs, claim):
    (judgement,) = (each for each in judge_claims(runs) if each.claim == claim)
    return judgement.findings


# Gathering.


def test_runs_stand_at_their_alpha_and_seed_whatever_their_order(tmp_path):
    write_run(tmp_path, "+1", 1, 0.7, 0.3)
    write_run(tmp_path, "-1", 0, 0.8, 0.1)
    write_run(tmp_path, "+0", 1, 0.9, 0.2)
    runs = gather_runs(tmp_path)
    assert runs["alpha"].data.tolist() == [-1, 0, 1]
    assert runs["seed"].data.tolist() == [0, 1]
    np.testing.assert_array_equal(
        runs["test_accuracy"], [[0.8, np.nan], [np.nan, 0.9], [np.nan, 0.7]]
    )
    assert runs["finished"].data.tolist() == [[True, False], [False, True], [False, True]]
    assert runs["place"].sel(alpha=1, seed=1).item() == "alpha+1-seed1"
    np.testing.assert_allclose(runs["class_selectivity"].sel(alpha=-1, seed=0), [0.05, 0.1, 0.15])
    np.testing.assert_allclose(runs["mean_class_selectivity"].sel(alpha=-1, seed=0), 0.1)
    assert runs["layer"].data.tolist() == LAYERS
    assert runs["units"].data.tolist() == [16, 32, 64]
    assert at(runs["test_accuracy"], 0.0).tolist() == [0.9]
    np.testing.assert_allclose(at(final(runs, "validation_class_selectivity"), -1.0), [0.1])


def test_a_mean_over_layers_has_no_value_where_a_layer_is_dead(tmp_path):
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    write_run(tmp_path, "-9", 0, 0.9, 0.2, dead=True)
    runs = gather_runs(tmp_path)
    assert np.isnan(runs["mean_class_selectivity"].sel(alpha=-9, seed=0))
    assert runs["mean_class_selectivity"].sel(alpha=0, seed=0) == pytest.approx(0.2)


def test_unfinished_runs_and_schedules_are_named_and_left_out(tmp_path):
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    (write_run(tmp_path, "-1", 0, 0.8, 0.1) / "run.nc").unlink()
    write_run(tmp_path, "0 -1", 0, 0.8, 0.1)
    (tmp_path / "cache").mkdir()
    runs = gather_runs(tmp_path)
    assert runs["alpha"].data.tolist() == [0]
    assert runs.attrs["unfinished"] == ["alpha-1-seed0"]
    assert runs.attrs["schedules"] == ["alpha0 -1-seed0"]


def test_runs_of_another_experiment_are_refused(tmp_path):
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    write_run(tmp_path, "-1", 0, 0.8, 0.1, epochs=6)
    with pytest.raises(ContentsMismatchError, match="epochs 6 and 200"):
        gather_runs(tmp_path)


def test_data_in_another_folder_are_the_same_experiment_and_two_runs_of_a_cell_are_not(tmp_path):
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    write_run(tmp_path, "+0", 1, 0.9, 0.2, data="cifar10:elsewhere")
    assert gather_runs(tmp_path)["seed"].size == 2
    write_run(tmp_path, "+0.0", 1, 0.9, 0.2)
    with pytest.raises(ContentsMismatchError, match="both of alpha 0 and seed 1"):
        gather_runs(tmp_path)


def test_only_an_experiment_is_accepted(tmp_path):
    with pytest.raises(StoreNotFoundError, match="is not a folder"):
        gather_runs(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no finished run"):
        gather_runs(tmp_path)
    place = write_run(tmp_path, "+0", 0, 0.9, 0.2)
    path = place / "run.nc"
    run = xr.load_dataset(path, engine="h5netcdf")
    run.drop_vars("d_prime").to_netcdf(path, engine="h5netcdf")
    with pytest.raises(StoreError, match="lacks d_prime"):
        gather_runs(tmp_path)
    run.assign_attrs(schema_version=2).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(StoreError, match="schema version 2"):
        gather_runs(tmp_path)
    path.write_bytes(b"cut short")
    with pytest.raises(StoreError, match="damaged"):
        gather_runs(tmp_path)


# Claims.


def test_claims_about_other_networks_are_not_run():
    runs = experiment({0: (0.9, 0.2), 1: (0.8, 0.4)})
    answers = verdicts(runs)
    assert answers == {
        "C1": "not run",
        "C2": "not run",
        "C3": "not run",
        "C4": "not run",
        "C5": "supported",
        "C12": "not run",
    }
    reasons = {each.claim: each.reason for each in judge_claims(runs)}
    assert reasons["C1"] == "it is about resnet18 on tinyimagenet"
    assert reasons["C3"] == "no run at an alpha below 0"
    runs.attrs["config"]["measure"] = "d_prime"
    assert set(verdicts(runs).values()) == {"not run"}


@pytest.mark.parametrize(
    ("model", "gain", "expected"),
    [
        ("resnet18", 0.03, "supported"),
        ("resnet18", 0.015, "refuted"),
        ("resnet18", 0.0205, "inconclusive"),
        ("resnet50", 0.015, "supported"),
        ("resnet50", -0.01, "refuted"),
    ],
)
def test_c1_and_c2_ask_for_two_points_and_one(model, gain, expected):
    cells = {0: (0.5, 0.4), -1: (0.5 + gain, 0.1), -9: (0.3, 0.05)}
    runs = experiment(cells, model=model, data="tinyimagenet:somewhere")
    assert verdicts(runs)["C1" if model == "resnet18" else "C2"] == expected


def test_the_alpha_is_chosen_on_validation_and_judged_on_test():
    # -2 is the better on test, and -1 on validation.
    cells = {0: (0.5, 0.4), -1: (0.51, 0.1), -2: (0.58, 0.1)}
    validation = cells | {-1: (0.6, 0.1), -2: (0.55, 0.1)}
    runs = experiment(cells, validation=validation, model="resnet18", data="tinyimagenet:x")
    (finding,) = findings(runs, "C1")
    assert finding.alpha == -1
    assert finding.estimate == pytest.approx(1.0, abs=0.05)
    assert finding.verdict == "refuted"


def test_the_level_pays_for_the_alphas_that_there_were_to_choose_from():
    # -3 lowers SI 20 times, too much to test a fall of 2.5 times.
    cells = {0: (0.9, 0.2), -1: (0.9, 0.07), -2: (0.88, 0.06), -3: (0.87, 0.01)}
    runs = experiment(cells)
    for finding in findings(runs, "C3"):
        assert finding.level == pytest.approx(1 - 0.05 / 2)
    _, low, high = points_gained(runs, -1.0, 1 - 0.05 / 2)
    cost = findings(runs, "C3")[1]
    assert (cost.alpha, cost.low, cost.high) == (-1, low, high)


@pytest.mark.parametrize(
    ("accuracy", "selectivity", "expected"),
    [
        (0.90, 0.07, "supported"),
        (0.88, 0.07, "refuted"),
        (0.896, 0.07, "inconclusive"),
        (0.90, 0.15, "not run"),
        (0.60, 0.034, "not run"),
    ],
)
def test_c3_asks_for_a_fall_by_two_and_a_half_at_no_cost(accuracy, selectivity, expected):
    runs = experiment({0: (0.9, 0.2), -1: (accuracy, selectivity)})
    assert verdicts(runs)["C3"] == expected


def test_a_fall_on_validation_that_test_does_not_show_refutes_c3():
    validation = {0: (0.9, 0.2), -1: (0.9, 0.07)}
    runs = experiment({0: (0.9, 0.2), -1: (0.9, 0.18)}, validation=validation)
    fall, cost = findings(runs, "C3")
    assert (fall.verdict, cost.verdict) == ("refuted", "supported")
    assert verdicts(runs)["C3"] == "refuted"


@pytest.mark.parametrize(
    ("accuracy", "selectivity", "expected"),
    [
        (0.88, 0.01, "supported"),
        (0.90, 0.01, "refuted"),
        (0.85, 0.01, "refuted"),
        (0.89, 0.01, "inconclusive"),
        (0.88, 0.05, "not run"),
    ],
)
def test_c4_asks_for_a_cost_of_one_to_three_points(accuracy, selectivity, expected):
    runs = experiment({0: (0.9, 0.2), -5: (accuracy, selectivity), -9: (0.1, 0.01)})
    answer = verdicts(runs)["C4"]
    # Where -5 is too weak, the claim is judged at -9, which costs far more.
    assert answer == ("refuted" if expected == "not run" else expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.85, 0.7, "supported"),
        (0.92, 0.95, "refuted"),
        (0.95, 0.9, "inconclusive"),
    ],
)
def test_c5_asks_for_a_trend_over_alphas_that_raise_selectivity(first, second, expected):
    # +0.01 raises nothing and is not asked.
    cells = {0: (0.9, 0.2), 0.01: (0.1, 0.201), 1: (first, 0.3), 2: (second, 0.4)}
    runs = experiment(cells, noise=0.003)
    assert verdicts(runs)["C5"] == expected
    assert [finding.alpha for finding in findings(runs, "C5")] == [2]


def test_d_prime_falls_with_selectivity_as_a_slope_within_seeds():
    runs = experiment({0: (0.9, 0.2), -1: (0.9, 0.1), -2: (0.9, 0.05)})
    (finding,) = findings(runs, "C12")
    assert finding.estimate == pytest.approx(0.5, abs=0.05)  # d-prime is the root of SI here
    assert verdicts(runs)["C12"] == "supported"


def test_networks_that_fell_apart_are_tested_nowhere():
    runs = experiment({0: (0.9, 0.2), -1: (0.9, 0.07)})
    broken = runs.isel(epoch=[0, 0]).copy(deep=True)
    broken["train_loss"][0, 1, 1] = 1.6
    broken["test_accuracy"][0, 1] = 0.1
    cost = findings(broken, "C3")[1]
    assert cost.seeds == 2
    assert cost.estimate == pytest.approx(0, abs=0.5)


def test_no_interval_of_accuracy_holds_an_impossible_one():
    runs = experiment({0: (0.85, 0.2), 1: (0.3, 0.4)}, noise=0.1)
    _, low, high = points_gained(runs, 1.0)
    assert -100 < low < high < 100


def test_one_seed_is_never_enough_for_a_verdict(tmp_path):
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    write_run(tmp_path, "+0", 1, 0.91, 0.2)
    write_run(tmp_path, "-1", 0, 0.905, 0.01)
    write_run(tmp_path, "+5", 0, 0.2, 0.8)
    runs = gather_runs(tmp_path)
    answers = verdicts(runs)
    assert [answers[claim] for claim in ("C4", "C5")] == ["inconclusive"] * 2
    (finding,) = findings(runs, "C5")
    assert finding.seeds == 1
    assert np.isnan([finding.low, finding.high]).all()


def test_without_plain_networks_nothing_is_claimed():
    runs = experiment({-1: (0.9, 0.1), 1: (0.8, 0.4)})
    assert set(verdicts(runs).values()) == {"not run"}
    assert np.isnan(accuracy_tests(runs)["p"]).all()


def test_tests_of_accuracy_are_paired_log_odds_and_corrected_over_alphas(tmp_path):
    random = np.random.default_rng(0)
    values = {alpha: 0.8 + 0.01 * random.normal(size=3) for alpha in ("+0", "-1", "+1", "+2")}
    for alpha, networks in values.items():
        for seed, accuracy in enumerate(networks):
            write_run(tmp_path, alpha, seed, accuracy, 0.2)
    tests = accuracy_tests(gather_runs(tmp_path))
    plain = logit(values["+0"])
    p = []
    for alpha in ("-1", "+1", "+2"):
        reference = scipy.stats.ttest_1samp(logit(values[alpha]) - plain, 0.0)
        interval = reference.confidence_interval()
        row = tests.sel(alpha=float(alpha))
        p.append(reference.pvalue)
        assert float(row["p"]) == pytest.approx(reference.pvalue)
        for name, end in (("low", interval.low), ("high", interval.high)):
            points = 100 * (expit(plain.mean() + end) - expit(plain.mean()))
            assert float(row[name]) == pytest.approx(points)
    np.testing.assert_allclose(
        tests["q"].sel(alpha=[-1, 1, 2]), scipy.stats.false_discovery_control(p)
    )
    assert np.isnan(tests.sel(alpha=0)["p"])


def test_the_fall_is_a_ratio_of_geometric_means(tmp_path):
    for seed, (plain, low) in enumerate([(0.2, 0.1), (0.3, 0.1), (0.2, 0.05)]):
        write_run(tmp_path, "+0", seed, 0.9, plain)
        write_run(tmp_path, "-1", seed, 0.9, low)
    value, low, high = selectivity_fall(gather_runs(tmp_path), -1.0)
    expected = scipy.stats.gmean([0.2, 0.3, 0.2]) / scipy.stats.gmean([0.1, 0.1, 0.05])
    assert value == pytest.approx(expected)
    assert low < expected < high


# Controls.


def test_controls_take_the_plain_networks_and_the_telling_alphas():
    cells = dict.fromkeys(["+0", "-20", "-2", "-0.7", "+0.1", "+3"], (0.9, 0.2))
    runs = experiment(cells)
    assert chosen_alphas(runs) == [-20, -0.7, 0, 0.1]
    with pytest.raises(OptionError, match="alpha 0"):
        chosen_alphas(runs.sel(alpha=[-2.0]))


def test_a_balanced_subset_has_as_many_of_each_class():
    labels = np.random.default_rng(0).integers(0, 4, 400)
    chosen = balanced(labels, 40)
    assert np.bincount(labels[chosen]).tolist() == [10] * 4
    assert len(balanced(labels, 10000)) == 400
    # Two of each class are needed to fit on one and measure on the other.
    assert np.bincount(labels[balanced(labels, 1)]).tolist() == [2] * 4


# Page, figures, table.


@pytest.fixture
def small(tmp_path):
    """Two seeds of the plain network, one of each other."""
    write_run(tmp_path, "+0", 0, 0.9, 0.2)
    write_run(tmp_path, "+0", 1, 0.91, 0.21)
    write_run(tmp_path, "-1", 0, 0.9, 0.05)
    write_run(tmp_path, "+1", 0, 0.7, 0.4)
    return tmp_path


def fake_controls(runs):
    random = np.random.default_rng(0)
    shape = (runs.sizes["alpha"], runs.sizes["seed"], runs.sizes["layer"])
    finished = runs["finished"].data[..., None]

    def values():
        return ("alpha", "seed", "layer"), np.where(finished, random.uniform(size=shape), np.nan)

    names = ["cka", "pwcca", "at_axes", "at_axes_null", "upper_bound", "upper_bound_null"]
    columns = {name: values() for name in names}
    for name in ("mean_drop", "max_drop", "mean_class_drop"):
        columns[name] = (("alpha", "seed", "ablated_layer"), values()[1][..., :2])
    for name in ("cka", "pwcca"):
        columns[f"{name}_between_plain"] = ("layer", random.uniform(size=3))
    coords = {"layer": LAYERS, "alpha": runs["alpha"].data, "seed": runs["seed"].data}
    return xr.Dataset(
        columns,
        coords | {"ablated_layer": LAYERS[:2]},
        attrs={"stimuli": 500, "ablation_stimuli": 100, "plain_pairs": 1},
    )


def test_every_figure_is_a_png_fit_for_a_page(small, tmp_path):
    runs = gather_runs(small)
    pictures = draw_all(runs, fake_controls(runs), tmp_path, "page")
    assert len(pictures) == 6
    for picture in pictures:
        content = (tmp_path / picture.file).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 5_000 < len(content) < 150_000
    assert len(draw_all(runs, None, tmp_path, "page")) == 4


def test_an_interval_of_two_networks_that_differ_much_does_not_hide_the_points(small):
    write_run(small, "+1", 1, 0.1, 0.7)
    (left, _) = figures._accuracy(gather_runs(small)).axes[:2]
    bottom, top = left.get_ylim()
    assert -5 < bottom < 10
    assert 90 < top < 110


def test_alphas_have_different_colours_by_sign():
    colours = colours_of([-2.0, -1.0, 0.0, 1.0])
    assert len(set(colours.values())) == 4
    assert colours[0.0] == (0, 0, 0)
    assert all(colours[alpha][2] > colours[alpha][0] for alpha in (-2.0, -1.0))
    assert colours[1.0][0] > colours[1.0][2]


def test_the_page_says_what_was_run_and_what_was_not(small):
    (write_run(small, "-5", 0, 0.8, 0.01) / "run.nc").unlink()
    runs = gather_runs(small)
    page = write_page(
        runs, judge_claims(runs), None, [], table_file="all.csv", data_note="JPEG copies."
    )
    assert "4 networks" in page
    assert "Alphas: -1 (seeds 0); 0 (seeds 0, 1); 1 (seeds 0)." in page
    assert "without a finished run: alpha -1 seed 1, alpha 1 seed 1." in page
    assert "Unstable" not in page
    assert "Started and not finished: alpha-5-seed0." in page
    assert "Not run: the controls" in page
    assert "JPEG copies." in page
    assert "somewhere" not in page
    command = "python -m recipes.selectivity_regularization.train --model resnet20"
    assert f"{command} --data cifar10:DIR --preset full --alpha" in page
    assert "Not run: it is about resnet18 on tinyimagenet." in page
    assert "one seed: no interval" in page


def test_the_page_names_networks_whose_training_fell_apart(small):
    place = write_run(small, "+3", 0, 0.1, 0.4)
    run = xr.load_dataset(place / "run.nc", engine="h5netcdf")
    run["train_loss"] = ("epoch", [1.9, 70.44, 2.1])
    run.to_netcdf(place / "run.nc", engine="h5netcdf")
    runs = gather_runs(small)
    page = write_page(runs, judge_claims(runs), None, [], table_file="all.csv")
    (line,) = (line for line in page.splitlines() if line.startswith("- Fell apart"))
    assert line.endswith(": alpha 3 seed 0 (from 1.90 to 70.44 in epoch 2; 2.10 in the last).")


def test_an_interval_of_one_network_is_called_what_it_is(small):
    runs = gather_runs(small)
    page = write_page(runs, judge_claims(runs), None, [], table_file="all.csv")
    low, high = binomial_interval(0.7, 10000)
    table = page.split("## By alpha")[1].split("On test images")[0]
    one, two = (next(r for r in table.splitlines() if r.startswith(f"| {a} |")) for a in (1, 0))
    assert f"| 70.00 | [{100 * low:.2f}, {100 * high:.2f}] |" in one
    assert re.search(r"\| 90\.50 \[84\.15, 96\.85\] \| - \|", two)


def test_a_short_preset_and_changed_options_are_named(tmp_path):
    write_run(tmp_path / "short", "+0", 0, 0.9, 0.2, preset="short", epochs=9, precision="float32")
    write_run(tmp_path / "full", "+0", 0, 0.9, 0.2)
    short, full = (
        write_page(runs, judge_claims(runs), None, [], table_file="all.csv")
        for runs in (gather_runs(tmp_path / "short"), gather_runs(tmp_path / "full"))
    )
    for words in ("not by the published schedule", "--epochs 9", "--precision float32"):
        assert words in short
        assert words not in full


def test_the_controls_have_their_tables(small):
    runs = gather_runs(small)
    controls = fake_controls(runs)
    page = write_page(runs, judge_claims(runs), controls, [], table_file="all.csv")
    plain = controls.sel(alpha=0.0)["upper_bound"].mean()
    assert f" {float(plain):.3f} [" in page.split("### Rotation")[1].split("### Ablation")[0]
    alone = 100 * float(controls["mean_drop"].sel(alpha=1.0, seed=0).mean())
    assert f"| 1 | {alone:.2f} |" in page.split("### Ablation")[1]
    assert "Between plain networks of different seeds (1 pair)" in page


def test_tables_on_the_page_are_rectangular(small):
    runs = gather_runs(small)
    page = write_page(runs, judge_claims(runs), fake_controls(runs), [], table_file="all.csv")
    for block in re.findall(r"(?:^\|.*\|$\n?)+", page, re.MULTILINE):
        assert len({row.count("|") for row in block.splitlines()}) == 1


def test_the_table_of_networks_holds_each_once(small):
    table = network_table(gather_runs(small))
    assert table[["alpha", "seed"]].to_numpy().tolist() == [[-1, 0], [0, 0], [0, 1], [1, 0]]
    row = table.iloc[1]
    assert row["test_accuracy"] == 0.9
    assert row["class_selectivity"] == pytest.approx(0.2)
    assert row["minutes"] == 3.0
    reference = scipy.stats.binomtest(9000, 10000).proportion_ci(method="wilson")
    assert row["test_accuracy_low"] == pytest.approx(reference.low)


# Trained networks.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two networks of one epoch on handwritten digits, alpha 0 and -1, and a plain one more."""
    out = tmp_path_factory.mktemp("runs")
    splits = load_splits("digits", out / "cache")
    for alpha, seed in (("0", 0), ("-1", 0), ("0", 1)):
        settings = Settings(
            model="resnet8",
            data="digits",
            preset="short",
            data_fingerprint=splits.fingerprint,
            image_size=splits.image_size,
            mean=splits.mean,
            std=splits.std,
            alpha=alpha,
            seed=seed,
            precision="float32",
            training=Preset(epochs=1, schedule="one_cycle", padding=1, flip=False),
        )
        folder = run_folder(out, "resnet8", "digits", "short", alpha, seed)
        train(settings, splits, folder, device=torch.device("cpu"))
    return out / "resnet8-digits-short"


def test_real_runs_gather_as_their_networks_measured(trained):
    runs = gather_runs(trained)
    assert runs["alpha"].data.tolist() == [-1, 0]
    assert runs["finished"].data.tolist() == [[True, False], [True, True]]
    one = xr.load_dataset(trained / "alpha-1-seed0" / "run.nc", engine="h5netcdf")
    here = runs.sel(alpha=-1, seed=0)
    for name in ("test_accuracy", "class_selectivity", "validation_class_selectivity", "units"):
        np.testing.assert_array_equal(here[name], one[name])
    assert verdicts(runs)["C5"] == "not run"


def test_controls_compare_each_network_with_the_plain_one_of_its_seed(trained):
    runs = gather_runs(trained)
    controls = run_controls(
        runs, trained, limit=200, ablation_layers=["layer2.0.relu1"], ablation_limit=20
    )
    plain, other = controls.sel(alpha=0.0), controls.sel(alpha=-1.0, seed=0)
    np.testing.assert_allclose(plain["cka"], 1.0)
    np.testing.assert_allclose(plain["pwcca"], 1.0)
    assert ((other["cka"] > 0) & (other["cka"] < 0.9999)).all()
    assert np.isnan(controls.sel(alpha=-1.0, seed=1)["cka"]).all()
    assert controls["layer"].data.tolist() == runs["layer"].data.tolist()
    assert controls.attrs == {"stimuli": 200, "ablation_stimuli": 20, "plain_pairs": 1}
    splits = load_splits("digits", trained.parent / "cache")
    chosen = balanced(splits.test.labels, 200)
    inputs = to_inputs(torch.from_numpy(splits.test.images[chosen]), splits.mean, splits.std)
    responses = []
    for seed in (0, 1):
        module = rebuild(trained / f"alpha+0-seed{seed}", runs)
        with up.Probe(module, layers="layer2.0.relu1") as probe:
            responses.append(probe(inputs)["layer2.0.relu1"].numpy())
    expected = linear_cka(*responses)
    between = controls["cka_between_plain"].sel(layer="layer2.0.relu1")
    assert float(between) == pytest.approx(float(expected), rel=1e-4)
    tree = up.ablate(
        module,
        up.Stimuli(inputs, splits.test.labels[chosen]).select(
            balanced(splits.test.labels[chosen], 20)
        ),
        layers="layer2.0.relu1",
    )
    drop = abs(tree["layer2.0.relu1"]["accuracy_drop"]).mean()
    swept = controls["mean_drop"].sel(alpha=0.0, seed=1, ablated_layer="layer2.0.relu1")
    assert float(swept) == pytest.approx(float(drop), abs=1e-6)


def test_weights_of_another_network_and_other_images_are_refused(trained, tmp_path):
    folder = tmp_path / "resnet8-digits-short"
    shutil.copytree(trained, folder)
    runs = gather_runs(folder).sel(alpha=[0.0])
    shutil.copy(
        folder / "alpha+0-seed1" / "weights.safetensors",
        folder / "alpha+0-seed0" / "weights.safetensors",
    )
    with pytest.raises(ContentsMismatchError, match="seed 0 give layer"):
        run_controls(runs, folder)
    (folder / "alpha+0-seed0" / "weights.safetensors").unlink()
    with pytest.raises(StoreNotFoundError, match="need the weights"):
        run_controls(runs, folder)
    config = runs.attrs["config"] | {"data_fingerprint": "of other images"}
    with pytest.raises(ContentsMismatchError, match="give --data"):
        run_controls(runs.assign_attrs(config=config), folder)


# The command.


def analyse(monkeypatch, *words):
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["analyse.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        options.run(lambda: app(standalone_mode=False))
    return stop.value.code or 0


def test_mistakes_are_one_line_and_exit_code_2(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results"
    assert analyse(monkeypatch, small, "--out", out, "--no-controls") == 0
    assert "C5: inconclusive" in capsys.readouterr().out
    for words, message in (
        ((tmp_path / "nowhere", "--out", out), "is not a folder"),
        ((small, "--out", out, "--no-controls"), "exists"),
        ((small, "--out", tmp_path / "new", "--limit", "0"), "--limit 0"),
        ((small, "--out", tmp_path / "new", "--data", "nonsense"), "nonsense"),
        ((small, "--out", tmp_path / "new", "--wrong"), "--wrong"),
    ):
        assert analyse(monkeypatch, *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    assert not list((tmp_path / "new").glob("*"))
    table = pd.read_csv(out / "selectivity_regularization_resnet20_cifar10.csv")
    assert len(table) == 4


def test_the_script_runs_from_any_folder(tmp_path):
    command = [*COMMAND, tmp_path / "nowhere"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert (
        ran.stderr
        == f"error: {tmp_path / 'nowhere'} is not a folder; give the folder that holds the runs\n"
    )
