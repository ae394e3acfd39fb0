"""A sweep that is interrupted resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import literal_ablation
import numpy as np
import pytest
import torch
from conftest import make_stimuli
from typer.testing import CliRunner

import unitprobe as up
from unitprobe.ablation import checkpoint, sweep
from unitprobe.ablation.engine import FullEngine
from unitprobe.ablation.joint import accuracy_without
from unitprobe.ablation.partial_forward.partial_engine import PartialForwardEngine
from unitprobe.ablation.settings import SweepOptions
from unitprobe.cli.commands import app
from unitprobe.errors import (
    ContentsMismatchError,
    OptionError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from unitprobe.protocols import morcos_protocol
from unitprobe.store.lock import FolderLock

TESTS = Path(__file__).parent.parent


class InterruptedTestError(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Keep the counts after every layer of every batch, without waiting for the disk."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def interrupt(monkeypatch):
    """Break a sweep off after so many layers of batches."""

    def after(count):
        keep = checkpoint.Checkpoint.keep
        done = []

        def kept(self, counts):
            keep(self, counts)
            done.append(counts)
            if len(done) == count:
                monkeypatch.setattr(checkpoint.Checkpoint, "keep", keep)
                raise InterruptedTestError

        monkeypatch.setattr(checkpoint.Checkpoint, "keep", kept)

    return after


def ablate(path, stimuli, model=None, **options):
    model = model or literal_ablation.Convolutional().eval()
    options = {"layers": ["relu", "tanh"], "batch_size": 6, "n_permutations": 50, **options}
    return up.ablate(model, stimuli, path=path, **options)


@pytest.mark.parametrize(
    ("mode", "count"),
    [("zero", 1), ("zero", 4), ("zero", 10), ("class_mean", 4), ("resample", 5), ("noise", 4)],
)
def test_an_interrupted_sweep_ends_with_the_same_numbers(mode, count, stimuli, interrupt, tmp_path):
    model = literal_ablation.Convolutional().eval()
    with ablate(tmp_path / "whole.h5", stimuli, model, mode=mode) as whole:
        interrupt(count)
        with pytest.raises(InterruptedTestError):
            ablate(tmp_path / "a.h5", stimuli, model, mode=mode)
        assert not (tmp_path / "a.h5").exists()
        with ablate(tmp_path / "a.h5", stimuli, model, mode=mode) as resumed:
            assert resumed.identical(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


def test_the_current_batch_is_the_same_when_another_size_would_fit_by_now(
    stimuli, interrupt, tmp_path, monkeypatch
):
    model = literal_ablation.Convolutional().eval()
    with ablate(tmp_path / "whole.h5", stimuli, model, method="partial_forward") as whole:
        interrupt(3)  # a batch, and one layer of the next
        with pytest.raises(InterruptedTestError):
            ablate(tmp_path / "a.h5", stimuli, model, method="partial_forward")
        monkeypatch.setattr(PartialForwardEngine, "fit", lambda *_: 9)
        with ablate(tmp_path / "a.h5", stimuli, model, method="partial_forward") as resumed:
            assert resumed.identical(whole)


def test_what_was_done_is_not_done_again(stimuli, interrupt, tmp_path, monkeypatch):
    model = literal_ablation.Convolutional().eval()
    interrupt(7)  # three batches of two layers, and one layer
    with pytest.raises(InterruptedTestError):
        ablate(tmp_path / "a.h5", stimuli, model)
    loaded, steps = [], []
    load = sweep.load
    monkeypatch.setattr(
        sweep,
        "load",
        lambda *args: ((loaded.append(batch.numbers), batch)[1] for batch in load(*args)),
    )

    def bar(*args, **kwargs):
        class Bar:
            def __enter__(self):
                return steps.append

            def __exit__(self, *_):
                pass

        return Bar()

    monkeypatch.setattr(sweep, "progress_bar", bar)
    ablate(tmp_path / "a.h5", stimuli, model).close()
    assert loaded == [range(18, 24), range(24, 26)]
    assert steps[0] == 18 * 11 + 6 * 5
    assert sum(steps) == 26 * 11


def ablate_seeded(path):
    torch.manual_seed(0)
    return ablate(path, make_stimuli(400), layers="relu", batch_size=8)


KILLED = """
import sys
sys.path.append(sys.argv[1])
import test_checkpoint
test_checkpoint.checkpoint.SECONDS = 0.0
test_checkpoint.ablate_seeded(sys.argv[2])
"""


@pytest.mark.process
def test_a_killed_sweep_resumes_to_the_same_file(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    script = [sys.executable, "-c", KILLED, str(TESTS / "ablation"), str(tmp_path / "a.h5")]
    process = subprocess.Popen(script, env=environment)
    deadline = time.monotonic() + 300
    while not (tmp_path / "a.h5.partial" / "ablation-counts").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "a.h5").exists()
    with ablate_seeded(tmp_path / "a.h5") as one, ablate_seeded(tmp_path / "whole.h5") as other:
        assert one.identical(other)


def morcos(stimuli, **options):
    torch.manual_seed(0)
    model = literal_ablation.Convolutional().eval()
    given = {"n_orders": 2, "n_points": 2, "resamples": 5, "noise_scales": (1.0,)}
    given |= {"layers": "relu", "batch_size": 8, "method": "full"}
    return morcos_protocol(model, stimuli, **given, **options)


@pytest.mark.parametrize("count", [1, 5, 9, 15])
def test_an_interrupted_protocol_ends_with_the_same_numbers(
    count, stimuli, interrupt, tmp_path, monkeypatch
):
    whole = morcos(stimuli)
    interrupt(count)
    with pytest.raises(InterruptedTestError):
        morcos(stimuli, keep=tmp_path / "kept")
    begun = []
    begin = FullEngine.begin
    monkeypatch.setattr(
        FullEngine, "begin", lambda self, batch: (begun.append(batch), begin(self, batch))[1]
    )
    assert morcos(stimuli, keep=tmp_path / "kept").identical(whole)
    # Four sweeps of four batches; of each that was begun, the last batch is looked at again.
    assert len(begun) == 16 - count + -(-count // 4)


@pytest.mark.parametrize("count", [1, 3])
def test_interrupted_across_layers_it_ends_with_the_same_numbers(count, stimuli, tmp_path):
    class Images(torch.nn.Identity):
        """Breaks off after so many passes."""

        left = 10**6

        def forward(self, x):
            Images.left -= 1
            if Images.left < 0:
                raise InterruptedTestError
            return x

    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4)]
    model = torch.nn.Sequential(Images(), *layers).eval()
    options = SweepOptions("noise", batch_size=8, progress=False)
    sets = [[0, 1], [4], [2, 3, 4], []]
    whole = accuracy_without(model, stimuli, {"3": 5}, sets, options)
    # Three passes to tell the outputs, list the layers and identify the sweep, one a batch to
    # measure the units, then the intact network and four sets for each of four batches.
    Images.left = 3 + 4 + 5 * count + 2
    with pytest.raises(InterruptedTestError):
        accuracy_without(model, stimuli, {"3": 5}, sets, options, keep=tmp_path)
    Images.left = 10**6
    again = accuracy_without(model, stimuli, {"3": 5}, sets, options, keep=tmp_path)
    assert again[0] == whole[0]
    assert again[1].tolist() == whole[1].tolist()
    assert 10**6 - Images.left <= 3 + 4 + 5 * (4 - count)


@pytest.mark.slow
def test_sweeps_of_one_folder_do_not_mix(stimuli, tmp_path):
    model = literal_ablation.Convolutional().eval()
    for mode in ("zero", "mean", "zero"):
        found = ablate(None, stimuli, model, mode=mode, keep=tmp_path)
        assert found.identical(ablate(None, stimuli, model, mode=mode))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OptionError, match="keep= is for a sweep without a file"):
        ablate(tmp_path / "a.h5", stimuli, keep=tmp_path)


DIGITS = """
import torch

def build():
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)]
    return torch.nn.Sequential(*layers)
"""

PROTOCOL = """
import sys
sys.path.append(sys.argv[1])
import test_checkpoint
test_checkpoint.checkpoint.SECONDS = 0.0
test_checkpoint.run_command(sys.argv[2])
"""


def run_command(path):
    words = [
        "protocol",
        "bau",
        "digits_network:build",
        "digits",
        "--limit",
        "600",
        "--batch-size",
        "4",
    ]
    words += ["--n-random", "2", "--out", str(path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception


@pytest.mark.process
def test_a_killed_protocol_resumes_to_the_same_file(tmp_path, monkeypatch):
    (tmp_path / "digits_network.py").write_text(DIGITS)
    monkeypatch.syspath_prepend(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{tmp_path}"}
    script = [sys.executable, "-c", PROTOCOL, str(TESTS / "ablation"), str(tmp_path / "a.h5")]
    process = subprocess.Popen(script, env=environment)
    deadline = time.monotonic() + 300
    folder = tmp_path / "a.h5.partial"
    while not any(folder.glob("sweep-*.partial/ablation-counts")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "a.h5").exists()
    for name in ("a.h5", "whole.h5"):
        run_command(tmp_path / name)
    with (
        up.open_store(tmp_path / "a.h5") as one,
        up.open_store(tmp_path / "whole.h5") as other,
    ):
        assert one.identical(other)
    assert not folder.exists()


def test_a_protocol_leaves_a_folder_of_something_else_alone(tmp_path):
    folder = tmp_path / "a.h5.partial"
    folder.mkdir()
    (folder / "data").write_text("a recording")
    for resume in (True, False):
        with (
            pytest.raises(StoreExistsError, match="holds data"),
            checkpoint.keeping(tmp_path / "a.h5", resume=resume),
        ):
            pass
    assert (folder / "data").exists()


def test_a_protocol_begins_again_if_asked_to(tmp_path):
    def fail(*, resume):
        with checkpoint.keeping(tmp_path / "a.h5", resume=resume) as folder:
            before = any(folder.glob("sweep-*"))
            (folder / "sweep-0.partial").mkdir(parents=True, exist_ok=True)
            raise InterruptedTestError(before)

    for resume, expected in ((True, False), (True, True), (False, False)):
        with pytest.raises(InterruptedTestError) as error:
            fail(resume=resume)
        assert error.value.args == (expected,)
    with checkpoint.keeping(tmp_path / "a.h5", resume=True) as folder:
        assert folder.exists()
    assert not folder.exists()


def other_weights(model, stimuli):
    with torch.no_grad():
        model.head.bias += 1
    return model, stimuli, {}


def other_stimuli(model, stimuli):
    return model, stimuli.select(range(25)), {}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (other_weights, "weights_fingerprint"),
        (other_stimuli, "stimuli_fingerprint"),
        (lambda m, s: (m, s, {"mode": "mean"}), "mode 'zero' there, 'mean' now"),
        (lambda m, s: (m, s, {"units": [0]}), "targets"),
        (lambda m, s: (m, s, {"layers": "relu"}), "layers"),
        (lambda m, s: (m, s, {"batch_size": 7}), "batch_size"),
        (lambda m, s: (m, s, {"seed": 1}), "seed"),
        (lambda m, s: (m, s, {"method": "full"}), "method"),
    ],
)
def test_another_sweep_at_the_same_path_is_refused(change, word, stimuli, interrupt, tmp_path):
    model = literal_ablation.Convolutional().eval()
    interrupt(3)
    with pytest.raises(InterruptedTestError):
        ablate(tmp_path / "a.h5", stimuli, model)
    model, others, options = change(model, stimuli)
    with pytest.raises(ContentsMismatchError, match=word):
        ablate(tmp_path / "a.h5", others, model, **options)
    ablate(tmp_path / "a.h5", others, model, resume=False, **options).close()


def test_a_network_that_answers_otherwise_is_found_out_whatever_its_weights(
    stimuli, interrupt, tmp_path
):
    model = literal_ablation.Convolutional().eval()
    interrupt(3)
    with pytest.raises(InterruptedTestError):
        ablate(tmp_path / "a.h5", stimuli, model)
    rest = model.rest
    model.rest = lambda x: 2 * rest(x)
    with pytest.raises(ContentsMismatchError, match="other logits for the first stimulus"):
        ablate(tmp_path / "a.h5", stimuli, model)


def test_a_damaged_file_is_refused(stimuli, interrupt, tmp_path):
    model = literal_ablation.Convolutional().eval()
    interrupt(3)
    with pytest.raises(InterruptedTestError):
        ablate(tmp_path / "a.h5", stimuli, model)
    file = tmp_path / "a.h5.partial" / "ablation-counts"
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)
    with pytest.raises(StoreError, match="damaged; start again with resume=False"):
        ablate(tmp_path / "a.h5", stimuli, model)


def test_a_finished_file_is_replaced_only_if_asked_to(stimuli, tmp_path):
    ablate(tmp_path / "a.h5", stimuli).close()
    with pytest.raises(StoreExistsError, match="overwrite=True"):
        ablate(tmp_path / "a.h5", stimuli)
    ablate(tmp_path / "a.h5", stimuli, mode="mean", overwrite=True).close()
    with up.open_store(tmp_path / "a.h5") as tree:
        assert tree.attrs["mode"] == "mean"


def test_a_folder_of_something_else_is_left_alone(stimuli, tmp_path):
    folder = tmp_path / "a.h5.partial"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all of it")
    for resume in (True, False):
        with pytest.raises(StoreExistsError, match=r"holds thesis\.txt"):
            ablate(tmp_path / "a.h5", stimuli, resume=resume)
    assert (folder / "thesis.txt").read_text() == "all of it"


def test_two_processes_do_not_sweep_into_one_file(stimuli, tmp_path):
    held = FolderLock(tmp_path / "a.h5.partial" / "lock", "ablated")
    held.acquire()
    with pytest.raises(StoreExistsError, match="is being ablated by another process"):
        ablate(tmp_path / "a.h5", stimuli)
    held.release()
    ablate(tmp_path / "a.h5", stimuli).close()


def test_counts_are_written_every_few_seconds_and_no_more(stimuli, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 60.0)
    ablate(tmp_path / "a.h5", stimuli).close()
    written = []
    monkeypatch.setattr(checkpoint.Checkpoint, "write", lambda *args: written.append(args))
    ablate(tmp_path / "b.h5", stimuli).close()
    assert written == []


def test_the_change_of_every_logit_goes_into_the_file(stimuli, interrupt, tmp_path):
    model = literal_ablation.Convolutional().eval()
    options = {"logit_changes": True, "layers": "relu", "units": [0, 4]}
    interrupt(3)
    with pytest.raises(InterruptedTestError):
        ablate(tmp_path / "a.h5", stimuli, model, **options)
    with ablate(tmp_path / "a.h5", stimuli, model, **options) as tree:
        change = tree["relu"]["logit_change"]
        assert change.dims == ("stimulus", "unit", "output")
        assert change.dtype == np.float32
        assert list(change["stimulus"].values) == list(stimuli.ids)
        activation = model.first(literal_ablation.images_of(stimuli))
        for unit in (0, 4):
            silent = activation.clone()
            silent[:, unit] = 0
            expected = (model.rest(silent) - model.rest(activation)).detach()
            np.testing.assert_allclose(change.sel(unit=unit), expected, atol=1e-5)
        with ablate(tmp_path / "b.h5", stimuli, model, layers="relu", units=[0, 4]) as plain:
            np.testing.assert_array_equal(
                tree["relu"]["loss_increase"], plain["relu"]["loss_increase"]
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


@pytest.mark.parametrize("taken", [7, 13, 25])
def test_logit_changes_are_whole_whatever_batches_the_engine_takes(
    taken, stimuli, monkeypatch, tmp_path
):
    monkeypatch.setattr(PartialForwardEngine, "fit", lambda *_: taken)
    model = literal_ablation.Convolutional().eval()
    options = {"logit_changes": True, "layers": "relu", "method": "partial_forward"}
    with ablate(tmp_path / "a.h5", stimuli, model, batch_size=40, **options) as tree:
        activation = model.first(literal_ablation.images_of(stimuli))
        for unit in range(5):
            silent = activation.clone()
            silent[:, unit] = 0
            expected = (model.rest(silent) - model.rest(activation)).detach()
            change = tree["relu"]["logit_change"].sel(unit=unit)
            np.testing.assert_allclose(change, expected, atol=1e-5)


def test_logit_changes_that_do_not_fit_the_disk_are_refused_before_the_sweep(
    stimuli, tmp_path, monkeypatch
):
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr("unitprobe.ablation.logit_changes.shutil.disk_usage", lambda _: free)
    with pytest.raises(OSError, match="logit changes take"):
        ablate(tmp_path / "a.h5", stimuli, logit_changes=True)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_is_refused_before_the_sweep(stimuli, tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        ablate(tmp_path / "nowhere" / "a.h5", stimuli)
    with pytest.raises(OptionError, match="give path="):
        ablate(None, make_stimuli(8), logit_changes=True)


def test_an_unfinished_sweep_says_so_when_it_is_opened(tmp_path):
    (tmp_path / "g.h5.partial").mkdir()
    (tmp_path / "g.h5.partial" / "ablation-counts").write_bytes(b"")
    with pytest.raises(StoreNotFoundError, match=r"g.h5 is not finished: .* run the same again"):
        up.open_store(tmp_path / "g.h5")
