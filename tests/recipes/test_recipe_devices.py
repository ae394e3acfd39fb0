"""Training on a GPU, or on a pretended one; see `test_devices`."""

import dataclasses

import processes
import pytest
import torch
import xarray as xr
from architectures import build_network
from conftest import REAL_GPU
from images import ImageSet
from measuring import Evaluation, as_tensors
from runs import RESULT, WEIGHTS
from safetensors.torch import load_file
from training import train

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):  # noqa: N818 (it is no error)
    pass


def trained(gpu, folder, settings, splits, kill_after=None):
    def report(epoch, row):
        if epoch == kill_after:
            raise Killed

    train(settings, splits, folder, device=gpu, report=report)
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
    # A GPU of flesh and blood adds in another order each time.
    tolerance = 0.1 if REAL_GPU else 1e-9
    for name in ("train_loss", "train_selectivity", "validation_class_selectivity"):
        assert resumed[name].values == pytest.approx(whole[name].values, abs=tolerance)


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
