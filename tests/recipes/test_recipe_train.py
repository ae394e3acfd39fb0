import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from safetensors.torch import load_file

import unitprobe as up
from recipes.selectivity_regularization.architectures import build_network
from recipes.selectivity_regularization.images import (
    Augmentation,
    ImageSet,
    channel_statistics,
    data_name,
    hold_out,
    load_splits,
    to_inputs,
)
from recipes.selectivity_regularization.measuring import Evaluation, as_tensors
from recipes.selectivity_regularization.runs import (
    CHECKPOINT,
    CONFIG,
    RESULT,
    WEIGHTS,
    load_checkpoint,
    open_run,
    run_folder,
)
from recipes.selectivity_regularization.settings import alpha_name, find_preset, learning_rate_at
from recipes.selectivity_regularization.training import train
from unitprobe.errors import (
    ContentsMismatchError,
    LabelError,
    LayerNotFoundError,
    OptionError,
    StimuliError,
    StoreError,
)

COMMAND = [sys.executable, "-m", "recipes.selectivity_regularization.train"]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(one_thread, digits, tmp_path_factory, settings_for):
    """A run of three epochs."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    rows = []
    train(
        settings_for(digits), digits, folder, device=CPU, report=lambda epoch, row: rows.append(row)
    )
    return folder, rows


def call(*arguments, **kwargs):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        **kwargs,
    )


def pictures(folder, splits=("train", "test"), classes=("ant", "bee"), count=10, size=(40, 32)):
    random = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


# What a run leaves.


def test_a_run_leaves_configuration_weights_and_results_and_no_checkpoint(finished):
    folder, _ = finished
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, RESULT, WEIGHTS]
    config = json.loads((folder / CONFIG).read_text())
    assert config["model"] == "resnet8"
    assert config["epochs"] == 3


def test_the_results_are_one_small_flat_netcdf(finished):
    folder, rows = finished
    run = xr.open_dataset(folder / RESULT, engine="h5netcdf").load()
    assert run["epoch"].values.tolist() == [1, 2, 3]
    assert run.sizes["layer"] == 7
    assert run["units"].values.tolist() == [16, 16, 16, 32, 32, 64, 64]
    assert run["class_name"].values.tolist() == [str(digit) for digit in range(10)]
    assert run["validation_class_selectivity"].dims == ("epoch", "layer")
    assert run["train_loss"].values.tolist() == [row["train_loss"] for row in rows]
    assert all(np.isfinite(run[name]).all() for name in run.data_vars)
    assert json.loads(run.attrs["config"])["seed"] == 0
    assert json.loads(run.attrs["environment"])["threads"] == torch.get_num_threads()
    assert (folder / RESULT).stat().st_size < 100_000


def test_the_results_are_those_of_the_weights_that_were_kept(finished, digits):
    folder, _ = finished
    run = xr.open_dataset(folder / RESULT, engine="h5netcdf").load()
    module = build_network("resnet8", 10, 8)
    module.load_state_dict(load_file(folder / WEIGHTS))
    images, labels = as_tensors(digits.test, CPU)
    inputs = to_inputs(images, digits.mean, digits.std)
    with torch.no_grad():
        accuracy = (module(inputs).argmax(1) == labels).float().mean()
    with up.Probe(module) as probe:
        responses = probe(inputs)
    assert float(run["test_accuracy"]) == pytest.approx(float(accuracy), abs=1e-6)
    assert list(responses) == run["layer"].values.tolist()
    for name, response in responses.items():
        selectivity = up.metrics.class_selectivity(response, labels).numpy()
        assert float(run["class_selectivity"].sel(layer=name)) == pytest.approx(
            np.nanmean(selectivity), abs=1e-4
        )


def test_validation_is_measured_as_the_probe_measures(digits):
    module = build_network("resnet8", 10, 8, seed=3)
    images, labels = as_tensors(digits.validation, CPU)
    accuracy, by_layer = Evaluation(
        module, ("activations",), digits.mean, digits.std, 8
    ).selectivity(images, labels, 10)
    inputs = to_inputs(images, digits.mean, digits.std)
    with up.Probe(module) as probe:
        expected = [
            np.nanmean(up.metrics.class_selectivity(response, labels).numpy())
            for response in probe(inputs).values()
        ]
    with torch.no_grad():
        assert accuracy == pytest.approx(float((module(inputs).argmax(1) == labels).float().mean()))
    np.testing.assert_allclose(by_layer, expected, rtol=1e-5)


def test_a_dead_unit_is_counted_and_left_out_of_the_means(digits):
    module = build_network("resnet8", 10, 8)
    with torch.no_grad():
        module.bn1.weight[:4] = 0
        module.bn1.bias[:4] = -1
    images, labels = as_tensors(digits.test, CPU)
    _, measures = Evaluation(module, ("relu",), digits.mean, digits.std, 8).test(images, labels, 10)
    assert measures[0].dead_share == 0.25
    assert 0 < measures[0].class_selectivity < 1


def test_a_finished_run_is_left_as_it_is(finished, digits, settings_for):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    train(settings_for(digits), digits, folder, device=CPU)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


# The same result, whatever happens.


def test_a_killed_run_goes_on_to_the_very_same_weights(digits, cache, tmp_path, settings_for):
    arguments = ["--model", "resnet8", "--data", "digits", "--preset", "short", "--epochs", "4"]
    arguments += ["--alpha", "-1", "--out", str(tmp_path), "--device", "cpu"]
    arguments += ["--threads", "1"]
    folder = tmp_path / "resnet8-digits-short" / "alpha-1-seed0"
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 2/4"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= load_checkpoint(folder)["epoch"] < 4
    again = call(*arguments)
    assert again.returncode == 0, again.stderr
    assert "epoch 2/4" not in again.stdout
    whole = tmp_path / "whole"
    preset = dataclasses.replace(find_preset("short", "resnet8", "digits", 8), epochs=4)
    train(settings_for(digits, alpha="-1", training=preset), digits, whole, device=CPU)
    resumed, expected = load_file(folder / WEIGHTS), load_file(whole / WEIGHTS)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    first, second = (
        xr.open_dataset(place / RESULT, engine="h5netcdf").load().drop_vars("seconds")
        for place in (folder, whole)
    )
    xr.testing.assert_equal(first, second)


def test_another_seed_gives_other_weights(finished, digits, tmp_path, settings_for):
    train(settings_for(digits, seed=1), digits, tmp_path / "run", device=CPU)
    one, other = load_file(finished[0] / WEIGHTS), load_file(tmp_path / "run" / WEIGHTS)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_alpha_follows_its_schedule(digits, tmp_path, settings_for):
    rows = []
    train(
        settings_for(digits, alpha="0*1 -2*2"),
        digits,
        tmp_path / "run",
        device=CPU,
        report=lambda epoch, row: rows.append(row["alpha"]),
    )
    assert rows == [0, -2, -2]


# Bad input: one clear error, nothing overwritten.


def test_a_folder_of_another_configuration_is_refused(finished, digits, settings_for):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ContentsMismatchError, match=r"seed 0 there, 5 now"):
        train(settings_for(digits, seed=5), digits, folder, device=CPU)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_same_data_in_another_folder_are_the_same_run(finished, digits, settings_for):
    open_run(finished[0], settings_for(digits, data="imagefolder:/elsewhere/digits"))


def test_a_folder_without_a_run_is_refused(digits, tmp_path, settings_for):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(StoreError, match="it is not a run"):
        train(settings_for(digits), digits, tmp_path, device=CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_configuration_cut_short_is_refused(digits, tmp_path, settings_for):
    open_run(tmp_path, settings_for(digits))
    text = (tmp_path / CONFIG).read_text()[:50]
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(StoreError, match="missing or damaged"):
        train(settings_for(digits), digits, tmp_path, device=CPU)
    assert (tmp_path / CONFIG).read_text() == text


@pytest.mark.parametrize("kept", [0, 10, 20_000])
def test_a_checkpoint_cut_short_is_refused(digits, tmp_path, kept, settings_for):
    def stop(epoch, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings_for(digits), digits, tmp_path, device=CPU, report=stop)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:kept])
    with pytest.raises(StoreError, match=r"checkpoint.pt is cut short or damaged"):
        train(settings_for(digits), digits, tmp_path, device=CPU)
    assert (tmp_path / CHECKPOINT).read_bytes() == whole[:kept]


def test_layers_that_do_not_exist_leave_nothing(digits, tmp_path, settings_for):
    with pytest.raises(LayerNotFoundError, match="rellu"):
        train(settings_for(digits, layers=("rellu",)), digits, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_a_batch_beyond_the_images_leaves_nothing(digits, tmp_path, settings_for, brief):
    preset = dataclasses.replace(brief, batch_size=5000)
    with pytest.raises(OptionError, match="5000 is more than the 1292 training images"):
        train(settings_for(digits, training=preset), digits, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_training_that_diverges_says_so(digits, tmp_path, settings_for, brief):
    preset = dataclasses.replace(brief, learning_rate=1e9)
    with pytest.raises(OptionError, match="training diverged in epoch 1"):
        train(settings_for(digits, training=preset), digits, tmp_path / "run", device=CPU)


def test_a_last_step_that_ruins_the_network_is_noticed(digits, tmp_path, settings_for, brief):
    # The one batch of the epoch has a loss; it is the step after it that is too large.
    preset = dataclasses.replace(brief, batch_size=1292, epochs=1, learning_rate=1e30)
    with pytest.raises(OptionError, match=r"training diverged in epoch 1 .* must be finite"):
        train(settings_for(digits, training=preset), digits, tmp_path / "run", device=CPU)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "nan"], "alpha"),
        (["--batch-size", "1"], "at least two classes"),
        (["--epochs", "0"], "epochs=0"),
        (["--preset", "quick"], "preset 'quick' is not known"),
        (["--seed", "-1"], "seed=-1"),
        (["--precision", "float8"], "precision 'float8'"),
        (["--model", "resnet21"], "no network 'resnet21'"),
        (["--data", "imagefolder:nowhere"], "nowhere is not divided"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--verbose"], "--verbose"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments, message, tmp_path, monkeypatch, capsys
):
    from recipes.selectivity_regularization import train as script

    given = {"--model": "resnet8", "--data": "digits", "--out": str(tmp_path / "runs")}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=False))
    words = [word for pair in given.items() for word in pair]
    words += arguments if len(arguments) == 1 else []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as stop:
        script.options.run(lambda: script.app(standalone_mode=False))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.glob("runs/resnet*"))


# Images.


def test_the_parts_of_the_digits_share_no_image(digits):
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1292, 141, 364]
    pixels = up.load_stimuli("digits", split="train")
    assert len(digits.train) + len(digits.validation) == len(pixels)
    assert digits.image_size == 8


def test_what_is_held_out_is_a_tenth_of_each_class_and_always_the_same():
    labels = np.repeat(np.arange(10), 5000)
    held = hold_out(labels)
    assert np.bincount(labels[held]).tolist() == [500] * 10
    np.testing.assert_array_equal(held, hold_out(labels))


def test_a_class_of_one_image_cannot_be_held_out():
    with pytest.raises(LabelError, match="class 1 has one training image"):
        hold_out(np.array([0, 0, 1]))


def test_channels_are_described_exactly():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)))


def test_inputs_are_normalised_and_channels_last():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    inputs = to_inputs(torch.from_numpy(images), *channel_statistics(images))
    assert inputs.shape == (50, 3, 4, 4)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert inputs.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, abs=1e-5)


def test_every_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    )
    chosen = torch.arange(60) % 6
    augmented = Augmentation(images, padding=2, flip=True)(chosen, torch.Generator())
    seen = set()
    for image, index in zip(augmented, chosen, strict=True):
        padded = np.pad(images[index].numpy(), ((2, 2), (2, 2), (0, 0)))
        crops = {
            (y, x, flipped): padded[y : y + 5, x : x + 5][:, :: -1 if flipped else 1]
            for y in range(5)
            for x in range(5)
            for flipped in (False, True)
        }
        found = [place for place, crop in crops.items() if np.array_equal(crop, image.numpy())]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 20
    assert {flipped for *_, flipped in seen} == {False, True}


def test_without_padding_and_flips_nothing_is_augmented():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    )
    chosen = torch.tensor([3, 1])
    augmented = Augmentation(images, padding=0, flip=False)(chosen, torch.Generator())
    assert torch.equal(augmented, images[chosen])


def test_folders_of_images_are_read_and_cached(tmp_path):
    folder = pictures(tmp_path / "pictures")
    splits = load_splits(f"imagefolder:{folder}", tmp_path / "cache")
    assert splits.class_names == ["ant", "bee"]
    assert splits.train.images.shape == (18, 32, 32, 3)
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(files) == 2
    again = load_splits(f"imagefolder:{folder}", tmp_path / "cache")
    assert again.fingerprint == splits.fingerprint
    np.testing.assert_array_equal(again.test.images, splits.test.images)
    smaller = load_splits(f"imagefolder:{folder}", tmp_path / "cache", image_size=16)
    assert smaller.train.images.shape == (18, 16, 16, 3)
    assert smaller.fingerprint != splits.fingerprint


def test_an_image_that_was_written_over_is_read_again(tmp_path):
    folder = pictures(tmp_path / "pictures")
    image = next((folder / "test" / "ant").iterdir())
    Image.new("RGB", (32, 32), "red").save(image, "BMP")
    os.utime(image, (1, 1))
    before = load_splits(f"imagefolder:{folder}", tmp_path / "cache")
    Image.new("RGB", (32, 32), "blue").save(image, "BMP")
    after = load_splits(f"imagefolder:{folder}", tmp_path / "cache")
    assert (before.test.images != after.test.images).any()


def test_cifar_may_be_folders_of_images(tmp_path):
    folder = pictures(tmp_path / "pictures", size=(32, 32))
    splits = load_splits(f"cifar10:{folder}", tmp_path / "cache")
    assert splits.image_size == 32
    assert data_name(f"cifar10:{folder}") == "cifar10"
    assert data_name(f"imagefolder:{folder}") == "pictures"


def test_the_validation_images_of_tiny_imagenet_are_the_test_images(tmp_path):
    folder = pictures(tmp_path / "tiny", splits=("train", "val"), classes=("n01", "n02"))
    splits = load_splits(f"tinyimagenet:{folder}", tmp_path / "cache")
    assert splits.image_size == 64
    assert len(splits.test) == 20
    assert len(splits.validation) == 2


def test_a_folder_without_test_images_is_refused(tmp_path):
    folder = pictures(tmp_path / "pictures", splits=("train",))
    with pytest.raises(StimuliError, match="not divided into folders 'train' and 'test'"):
        load_splits(f"imagefolder:{folder}", tmp_path / "cache")


def test_parts_of_different_classes_are_refused(tmp_path):
    pictures(tmp_path, splits=("train",))
    pictures(tmp_path, splits=("test",), classes=("ant", "wasp"))
    with pytest.raises(LabelError, match="different classes, such as 'bee'"):
        load_splits(f"imagefolder:{tmp_path}", tmp_path / "cache")


@pytest.mark.parametrize("spec", ["mnist:here", "digits:here", "cifar10", ""])
def test_data_of_another_name_are_refused(spec, cache):
    with pytest.raises(StimuliError, match="no data are named"):
        load_splits(spec, cache)


def test_select_takes_images_and_labels_together():
    images = ImageSet(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.arange(4))
    part = images.select(np.array([False, True, False, True]))
    assert part.images.ravel().tolist() == part.labels.tolist() == [1, 3]


# Networks.


@pytest.mark.parametrize(
    ("name", "size", "relus", "parameters"),
    [
        ("resnet20", 32, 19, 269_722),  # 0.27 M in He et al. 2016, table 6
        ("resnet8", 8, 7, 75_290),
        ("vgg16_bn", 32, 13, 14_724_042),
        ("resnet18", 64, 17, None),
    ],
)
def test_networks_have_the_layers_that_they_should(name, size, relus, parameters):
    module = build_network(name, 10, size)
    layers = up.list_layers(module, example=torch.zeros(2, 3, size, size))
    assert sum(layer.kind == "relu" for layer in layers) == relus
    if parameters is not None:
        assert sum(weight.numel() for weight in module.parameters()) == parameters


def test_the_stem_of_resnet18_fits_the_images():
    shapes = {}
    for size in (32, 64, 128):
        module = build_network("resnet18", 10, size)
        images = torch.zeros(1, 3, size, size)
        shapes[size] = tuple(module.maxpool(module.conv1(images)).shape[2:])
    assert shapes == {32: (32, 32), 64: (32, 32), 128: (32, 32)}


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    one = build_network("resnet8", 10, 8, seed=1)
    torch.manual_seed(6)
    state = torch.random.get_rng_state()
    other = build_network("resnet8", 10, 8, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one.conv1.weight, other.conv1.weight)
    assert not torch.equal(one.conv1.weight, build_network("resnet8", 10, 8, seed=2).conv1.weight)


# Settings.


def test_presets_are_those_of_the_papers():
    resnet20 = find_preset("full", "resnet20", "cifar10", 32)
    assert (resnet20.epochs, resnet20.batch_size, resnet20.weight_decay) == (200, 128, 1e-4)
    assert [learning_rate_at(resnet20, step, 200) for step in (99, 100, 150)] == pytest.approx(
        [0.1, 0.01, 0.001]
    )
    tiny = find_preset("full", "resnet18", "tinyimagenet", 64)
    assert [learning_rate_at(tiny, step, 90) for step in (34, 35, 79, 80)] == pytest.approx(
        [0.1, 0.01, 1e-4, 1e-5]
    )


def test_one_cycle_rises_to_its_rate_and_falls():
    short = find_preset("short", "resnet20", "cifar10", 32)
    rates = [learning_rate_at(short, step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(short.learning_rate, rel=0.01)
    assert np.argmax(rates) in range(245, 255)
    assert rates[-1] < 0.001


@pytest.mark.parametrize(
    ("alpha", "name"), [("-1", "-1"), ("-1.0", "-1"), ("+0.3", "+0.3"), ("-0", "+0"), ("0", "+0")]
)
def test_one_alpha_has_one_name(alpha, name):
    assert alpha_name(alpha) == name


def test_names_of_folders_hold_no_sign_that_means_something_to_a_shell(tmp_path):
    folder = run_folder(tmp_path, "timm:resnet10t", "cifar10", "short", "0*5 -20*85", 3)
    assert folder.parent.name == "timm_resnet10t-cifar10-short"
    assert folder.name == "alpha0x5_-20x85-seed3"


def test_settings_survive_their_file(digits, tmp_path, settings_for):
    settings = settings_for(digits)
    open_run(tmp_path, settings)
    assert json.loads((tmp_path / CONFIG).read_text()) == settings.as_json()


def test_training_warns_of_nothing(digits, tmp_path, settings_for, brief):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preset = dataclasses.replace(brief, epochs=1)
        train(settings_for(digits, training=preset), digits, tmp_path / "run", device=CPU)
