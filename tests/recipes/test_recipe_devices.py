"""Training on a GPU, or on a pretended one; see `test_devices`."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import xarray as xr
from conftest import REAL_GPU
from safetensors.torch import load_file

from recipes.selectivity_regularization import processes
from recipes.selectivity_regularization.architectures import build_network
from recipes.selectivity_regularization.cells import Work, make_cells, train_free_cells
from recipes.selectivity_regularization.images import ImageSet
from recipes.selectivity_regularization.measuring import Evaluation, as_tensors
from recipes.selectivity_regularization.options import Request
from recipes.selectivity_regularization.runs import RESULT, WEIGHTS
from recipes.selectivity_regularization.training import train
from unitprobe.errors import OptionError, UnitprobeWarning

# A real GPU adds in another order each time.
TOLERANCE = 0.1 if REAL_GPU else 1e-9

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):  # noqa: N818 (it is no error)
    pass


def trained(gpu, folder, settings, splits, kill_after=None, **options):
    def report(epoch, row):
        if epoch == kill_after:
            raise Killed

    train(settings, splits, folder, device=gpu, report=report, **options)
    return xr.load_dataset(folder / RESULT, engine="h5netcdf")


@pytest.fixture
def few(digits):
    """A few digits of each part, so that an epoch is a handful of batches."""

    def first(images, count=60):
        return ImageSet(images.images[:count], images.labels[:count])

    return dataclasses.replace(
        digits, train=first(digits.train), validation=first(digits.validation), test=digits.test
    )


@pytest.fixture
def settings(settings_for, few, brief):
    brief = dataclasses.replace(brief, epochs=2, batch_size=20)
    return settings_for(
        few,
        model="resnet8",
        alpha="1",
        measure="class_selectivity_corrected",
        precision="bfloat16",
        training=brief,
    )


def test_a_killed_run_goes_on_on_a_gpu(gpu, few, settings, tmp_path):
    """The shuffles of the bias-corrected term come from the random state of the device."""
    whole = trained(gpu, tmp_path / "whole", settings, few)
    with pytest.raises(Killed):
        trained(gpu, tmp_path / "killed", settings, few, kill_after=1)
    resumed = trained(gpu, tmp_path / "killed", settings, few)
    for name in ("train_loss", "train_selectivity", "validation_class_selectivity"):
        assert resumed[name].values == pytest.approx(whole[name].values, abs=TOLERANCE)


@pytest.mark.parametrize("alpha", ["0", "-1", "0*1 -2*1"])
def test_the_replay_of_a_graph_trains_as_single_kernels_do(gpu, few, settings, tmp_path, alpha):
    settings = dataclasses.replace(settings, alpha=alpha, precision="float32")
    runs = [
        trained(gpu, tmp_path / str(graphs), settings, few, graphs=graphs)
        for graphs in (True, False)
    ]
    environments = [json.loads(run.attrs["environment"]) for run in runs]
    assert [environment["graphs"] for environment in environments] == [True, False]
    assert environments[0]["precision"] == "float32"
    for name in ("train_loss", "train_accuracy", "train_selectivity", "learning_rate"):
        assert runs[0][name].values == pytest.approx(runs[1][name].values, abs=TOLERANCE)
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("True", "False")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=TOLERANCE)


@pytest.mark.skipif(REAL_GPU, reason="a capture that failed is felt by later tests")
def test_a_step_that_cannot_be_captured_runs_without_a_graph(
    gpu, few, settings, tmp_path, monkeypatch
):
    def waiting(logits, labels):
        float(logits[0, 0])
        return torch.nn.functional.cross_entropy(logits, labels)

    monkeypatch.setattr("recipes.selectivity_regularization.training.cross_entropy", waiting)
    with pytest.warns(UnitprobeWarning, match="not captured as a CUDA graph"):
        run = trained(gpu, tmp_path / "run", settings, few)
    whole = trained(gpu, tmp_path / "whole", settings, few, graphs=False)
    assert "not permitted" in json.loads(run.attrs["environment"])["graphs"]
    assert run["train_loss"].values == pytest.approx(whole["train_loss"].values, abs=1e-9)


def test_networks_that_are_trained_in_turns_are_as_alone(gpu, few, settings, tmp_path, monkeypatch):
    settings = dataclasses.replace(settings, measure="class_selectivity")
    monkeypatch.setattr(Request, "load", lambda _: few)
    monkeypatch.setattr(
        Request,
        "settings",
        lambda _, splits, alpha, seed: dataclasses.replace(settings, alpha=alpha),
    )
    request = Request(
        model="resnet8",
        data="digits",
        preset="short",
        out=tmp_path,
        layers=("activations",),
        measure="class_selectivity",
        image_size=None,
        precision="bfloat16",
    )
    cells = make_cells(request, ["0", "-1", "1"], [0])
    work = Work(request, cells, str(gpu), compiled=False, threads=None)
    with ThreadPoolExecutor(1) as executor:
        train_free_cells(work, at_once=2, executor=executor)
    for cell in cells:
        alone = trained(
            gpu, tmp_path / "alone" / cell.name, request.settings(few, cell.alpha, 0), few
        )
        run = xr.load_dataset(cell.folder / RESULT, engine="h5netcdf")
        for name in ("train_loss", "class_selectivity"):
            assert run[name].values == pytest.approx(alone[name].values, abs=TOLERANCE)


@pytest.mark.skipif(not REAL_GPU, reason="the compiler does not know a pretended GPU")
@pytest.mark.parametrize("graphs", [True, False])
def test_a_compiled_network_trains_as_an_uncompiled_one_does(gpu, few, settings, tmp_path, graphs):
    settings = dataclasses.replace(settings, measure="class_selectivity", alpha="-1")
    plain = trained(gpu, tmp_path / "plain", settings, few, graphs=False)
    run = trained(gpu, tmp_path / "run", settings, few, compiled=True, graphs=graphs)
    for name in ("train_loss", "train_selectivity"):
        assert run[name].values == pytest.approx(plain[name].values, abs=TOLERANCE)


def test_graphs_are_refused_where_there_are_none(few, settings, tmp_path):
    with pytest.raises(OptionError, match="graphs=True needs one process on a GPU"):
        trained(torch.device("cpu"), tmp_path / "run", settings, few, graphs=True)


def test_a_gpu_measures_its_network_as_the_cpu_does(gpu, few, settings, tmp_path):
    run = trained(gpu, tmp_path / "run", settings, few)
    module = build_network("resnet8", 10, 8)
    module.load_state_dict(load_file(tmp_path / "run" / WEIGHTS))
    evaluation = Evaluation(module, ("activations",), few.mean, few.std, 8)
    accuracy, selectivity = evaluation.selectivity(
        *as_tensors(few.validation, torch.device("cpu")), 10
    )
    assert float(run["validation_accuracy"][-1]) == pytest.approx(accuracy, abs=0.02)
    assert run["validation_class_selectivity"][-1].values == pytest.approx(selectivity, abs=1e-3)


def test_a_process_of_torchrun_touches_no_gpu_but_its_own(gpu, monkeypatch):
    """Whatever is made on "cuda" takes memory of the first GPU, for each process that does it."""
    looked, chosen = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(
        processes, "find_device", lambda name: looked.append(name) or torch.device(name)
    )
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    for asked in (None, "cuda"):
        with processes.joined(asked) as (_, device):
            assert device == torch.device("cuda", 1)
    assert looked == ["cuda:1", "cuda:1"]
    assert chosen == [torch.device("cuda", 1)] * 2
