import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time

import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from recipes.selectivity_regularization.cells import FAILURE, Work, make_cells, train_free_cells
from recipes.selectivity_regularization.options import Request
from recipes.selectivity_regularization.processes import Processes
from recipes.selectivity_regularization.runs import (
    CHECKPOINT,
    RESULT,
    WEIGHTS,
    describe_holder,
    is_free,
    locked,
)
from recipes.selectivity_regularization.training import train
from unitprobe.errors import OptionError, StoreExistsError

RECIPE = "recipes.selectivity_regularization"
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def request_for(out, **changes):
    request = Request(
        model="resnet8",
        data="digits",
        preset="short",
        out=out,
        layers=("activations",),
        measure="class_selectivity",
        image_size=None,
        precision="bfloat16",
        instead={"epochs": 1},
    )
    return dataclasses.replace(request, **changes)


def work_on(request, alphas, seeds=(0,), **changes):
    work = Work(
        request=request,
        cells=make_cells(request, list(alphas), list(seeds)),
        device="cpu",
        compiled=False,
        threads=None,
    )
    return dataclasses.replace(work, **changes)


def sweep(monkeypatch, *words):
    from recipes.selectivity_regularization import sweep as script

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        script.options.run(lambda: script.app(standalone_mode=False))
    return stop.value.code


# Cells.


def test_every_alpha_of_the_first_seed_comes_first(tmp_path):
    cells = make_cells(request_for(tmp_path), ["-1", "0"], [0, 1])
    assert [cell.name for cell in cells] == [
        "alpha-1-seed0",
        "alpha+0-seed0",
        "alpha-1-seed1",
        "alpha+0-seed1",
    ]


@pytest.mark.parametrize(
    ("alphas", "seeds", "message"),
    [
        (["1", "1.0"], [0], "the same alpha is given twice"),
        (["1"], [0, 0], "the same seed is given twice"),
        (["1"], [], "at least one seed"),
    ],
)
def test_missing_or_repeated_cells_are_refused(tmp_path, alphas, seeds, message):
    with pytest.raises(OptionError, match=message):
        make_cells(request_for(tmp_path), alphas, seeds)


def test_a_worker_trains_every_free_cell_once(tmp_path):
    said = []
    work = work_on(request_for(tmp_path), ["-1", "1"])
    train_free_cells(work, said.append)
    assert [cell.state() for cell in work.cells] == ["finished", "finished"]
    assert [line.split()[:3] for line in said] == [
        ["alpha-1-seed0", "epoch", "1/1"],
        ["alpha+1-seed0", "epoch", "1/1"],
    ]
    assert not list(tmp_path.rglob(".lock"))
    train_free_cells(work, said.append)
    assert len(said) == 2


def test_a_cell_that_another_process_trains_is_left_to_it(tmp_path):
    work = work_on(request_for(tmp_path), ["-1", "1"])
    theirs, ours = work.cells
    with locked(theirs.folder):
        train_free_cells(work, lambda line: None)
        assert theirs.state() == "running"
        assert f"by process {os.getpid()} on {platform.node()}" in theirs.describe()
    assert theirs.state() == "free"
    assert ours.state() == "finished"


def test_a_cell_that_diverges_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    words = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "1"]
    words += ["--out", tmp_path, "--learning-rate", "1e9", "--alphas", "0,1", "--device", "cpu"]
    assert sweep(monkeypatch, *words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [
        ["alpha+0-seed0", "diverged"],
        ["alpha+1-seed0", "diverged"],
    ]
    assert "training diverged in epoch 1" in lines[-1]
    assert len(list(tmp_path.rglob(FAILURE))) == 2


def test_cells_of_another_configuration_are_refused_before_any_is_trained(
    tmp_path, capsys, monkeypatch
):
    train_free_cells(work_on(request_for(tmp_path), ["1"]), lambda line: None)
    words = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "2"]
    words += ["--out", tmp_path, "--alphas", "0,1"]
    assert sweep(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert "epochs 1 there, 2 now" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*/alpha+0*"))


def test_the_status_tells_what_became_of_each_run_and_trains_none(tmp_path, capsys, monkeypatch):
    work = work_on(request_for(tmp_path), ["-1", "0", "1", "2"])
    finished, running, interrupted, free = work.cells
    train_free_cells(dataclasses.replace(work, cells=[finished]), lambda line: None)
    interrupted.folder.mkdir()
    (interrupted.folder / CHECKPOINT).touch()
    words = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "1"]
    words += ["--out", tmp_path, "--alphas", "-1,0,1,2", "--status"]
    with locked(running.folder):
        assert sweep(monkeypatch, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["finished", "running", "interrupted", "free"]
    run = xr.open_dataset(finished.folder / RESULT, engine="h5netcdf").load()
    assert f"test accuracy {float(run['test_accuracy']):.1%}" in lines[0]
    assert f"by process {os.getpid()} on" in lines[1]
    assert not free.folder.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alphas", "0,nan"], "nan"),
        (["--alphas", "0,,1"], "empty"),
        (["--alphas", "0", "--seeds", "0,one"], "--seeds '0,one'"),
        (["--alphas", "0", "--jobs", "0"], "--jobs"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys, monkeypatch, words, message):
    given = ["--model", "resnet8", "--data", "digits", "--out", tmp_path]
    assert sweep(monkeypatch, *given, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_two_jobs_share_the_cells(tmp_path):
    words = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "1"]
    words += ["--out", tmp_path, "--alphas", "-1,0,1", "--jobs", "2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", f"{RECIPE}.sweep", *words, "--threads", "1"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    trained = [line.split()[0] for line in done.stdout.splitlines() if " epoch 1/1 " in line]
    assert sorted(trained) == ["alpha+0-seed0", "alpha+1-seed0", "alpha-1-seed0"]
    assert done.stdout.count("finished  ") == 3


def test_suppressing_selectivity_of_the_digits_costs_no_accuracy(tmp_path):
    work = work_on(request_for(tmp_path, preset="full", instead={}), ["-2", "0", "2"])
    train_free_cells(work, lambda line: None)
    runs = [xr.open_dataset(cell.folder / RESULT, engine="h5netcdf").load() for cell in work.cells]
    suppressed, plain, promoted = (float(run["class_selectivity"].mean()) for run in runs)
    assert plain > 2.5 * suppressed
    assert promoted > 1.5 * plain
    assert float(runs[0]["test_accuracy"]) > float(runs[1]["test_accuracy"]) - 0.02


# Locks.


def test_a_run_is_locked_while_it_is_trained_and_free_afterwards(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        assert not is_free(folder)
        with (
            pytest.raises(StoreExistsError, match=rf"being trained .* \(process {os.getpid()} on"),
            locked(folder),
        ):
            pass
        assert describe_holder(folder).startswith(f"by process {os.getpid()} on ")
    assert is_free(folder)
    assert not list(folder.iterdir())


def test_an_error_frees_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        raise ZeroDivisionError
    assert is_free(tmp_path / "run")


def test_a_batch_system_that_ends_the_process_frees_the_run(tmp_path):
    from recipes.selectivity_regularization.options import run

    def train_until_the_end():
        with locked(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            run(train_until_the_end)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 128 + signal.SIGTERM
    assert is_free(tmp_path / "run")


def test_the_lock_of_a_process_that_was_killed_is_free_at_once(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path\n"
        "from recipes.selectivity_regularization.runs import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    assert not is_free(tmp_path / "run")
    process.kill()
    process.communicate()
    with locked(tmp_path / "run"):
        pass


def test_a_run_that_another_process_trains_is_refused(tmp_path, digits, settings_for):
    with (
        locked(tmp_path / "run"),
        pytest.raises(StoreExistsError, match="is being trained by another process"),
    ):
        train(settings_for(digits), digits, tmp_path / "run", device=CPU)


# Several processes for one network.


def test_each_process_takes_its_part_of_a_batch():
    assert [Processes(rank, 4).part(8) for rank in range(4)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
        slice(6, 8),
    ]
    with pytest.raises(OptionError, match="batch_size=10 does not divide among 4 processes"):
        Processes(0, 4).part(10)


def test_two_processes_under_torchrun_leave_one_run(tmp_path, digits):
    words = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "2"]
    words += ["--out", tmp_path, "--alpha", "-1", "--device", "cpu", "--threads", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", f"{RECIPE}.train", *words],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/2") == done.stdout.count("finished: ") == 1
    folder = tmp_path / "resnet8-digits-short" / "alpha-1-seed0"
    run = xr.open_dataset(folder / RESULT, engine="h5netcdf").load()
    assert json.loads(run.attrs["environment"])["processes"] == 2
    assert 0 < float(run["train_selectivity"][-1]) < 1
    assert float(run["train_loss"][1]) < float(run["train_loss"][0])
    assert torch.isfinite(load_file(folder / WEIGHTS)["fc.weight"]).all()
    assert not (folder / CHECKPOINT).exists()
