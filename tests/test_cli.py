"""The commands: one workflow in processes of its own, everything else in this process."""

import contextlib
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

import unitprobe as up
from unitprobe.cli import app, main
from unitprobe.errors import UnitprobeWarning

TESTS = Path(__file__).parent


def run(*arguments, cwd=TESTS):
    """Run a command in this process; return (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "argv", ["unitprobe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code or 0, out.getvalue(), err.getvalue()


def run_as_process(*arguments, cwd=TESTS):
    """Run a command as a user would; return (exit code, standard output, standard error)."""
    command = [sys.executable, "-m", "unitprobe", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def fails(code, *arguments, **options):
    """Run a command that must fail with one line; return that line."""
    returned, out, err = run(*arguments, **options)
    lines = err.strip().splitlines()
    assert returned == code, (returned, out, err)
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Thirty-two small images of four classes, as a folder."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(32):
        place = folder / f"class{index % 4}"
        place.mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "s.h5"
    code, out, err = run("record", "networks:build_tiny", f"imagefolder:{images}", "--out", path)
    assert code == 0, err
    assert "recorded 2 layers, 32 stimuli" in out
    assert err == ""  # no progress bar where there is no terminal
    return path


@pytest.mark.process
def test_record_analyze_ablate_report(images, store, tmp_path):
    code, out, _ = run_as_process(
        *(
            "analyze",
            store,
            "--n-permutations",
            20,
            "--n-bootstrap",
            20,
            "--model",
            "networks:build_tiny",
        ),
        *("--out", tmp_path / "a.h5", "--csv", tmp_path / "units.csv"),
    )
    assert code == 0
    assert "relu_1" in out
    units = (tmp_path / "units.csv").read_text().splitlines()
    assert len(units) == 13
    assert "incoming_l1" in units[0]
    code, out, err = run_as_process(
        *("ablate", "networks:build_tiny", f"imagefolder:{images}", "--units", "0-2,4"),
        *("--out", tmp_path / "g.h5"),
    )
    assert code == 0, err
    assert "ablated 8 units of 2 layers" in out
    code, out, err = run_as_process(
        *("report", tmp_path / "a.h5", "--ablation", tmp_path / "g.h5"),
        *("--out", tmp_path / "report"),
    )
    assert code == 0, err
    assert "Weights in" in (tmp_path / "report" / "index.html").read_text()


def test_the_command_line_and_python_give_the_same_file(images, store, tmp_path, monkeypatch):
    import networks

    tree = up.record(
        networks.build_tiny(), up.load_stimuli(f"imagefolder:{images}"), tmp_path / "p.h5"
    )
    with xr.open_datatree(store, engine="h5netcdf") as other:
        np.testing.assert_array_equal(tree["relu"]["response"], other["relu"]["response"])


def test_report_takes_a_recording_and_adds_the_null_itself(store, tmp_path):
    code, _, err = run(
        *(
            "report",
            store,
            "--n-permutations",
            20,
            "--n-bootstrap",
            20,
            "--out",
            tmp_path / "report",
        )
    )
    assert code == 0, err
    assert "class_selectivity_q" in (tmp_path / "report" / "units.csv").read_text()


def test_layers_prints_a_table():
    code, out, _ = run("layers", "resnet10t", "--layers", "activations")
    assert code == 0
    assert "layer1.0.act1" in out
    assert out.count("relu") == 11
    code, out, _ = run("layers", "networks:ResNet20", "--input-size", "3,32,32")
    assert code == 0
    assert "layer3.2.relu_1" in out


def test_weights_on_disk_need_no_network(images, tmp_path):
    weights = tmp_path / "w.pt"
    torch.manual_seed(5)
    import networks

    module = networks.build_tiny()
    torch.nn.init.normal_(module.conv1.weight)
    torch.save(module.state_dict(), weights)
    code, _, err = run(
        *("record", "networks:build_tiny", "--weights", weights, f"imagefolder:{images}"),
        *("--layers", "conv1", "--out", tmp_path / "s.h5"),
    )
    assert code == 0, err
    tree = up.open_store(tmp_path / "s.h5")
    expected = up.load_model("networks:build_tiny", weights=weights).fingerprint
    assert tree.attrs["weights_fingerprint"] == expected


class TestMistakes:
    """Each is one line that names the thing, with the right exit code and nothing lost."""

    MODEL = "networks:build_tiny"

    def test_unknown_layer(self, images, tmp_path):
        line = fails(
            2,
            *("record", self.MODEL, f"imagefolder:{images}"),
            *("--layers", "rellu", "--out", tmp_path / "s.h5"),
        )
        assert "'rellu'" in line
        assert "relu_1" in line

    def test_unknown_network(self, images, tmp_path):
        line = fails(
            2, "record", "timm:resnet18x", f"imagefolder:{images}", "--out", tmp_path / "s.h5"
        )
        assert "resnet18x" in line
        assert "resnet18" in line.replace("resnet18x", "")

    def test_no_labels(self, tmp_path):
        np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 8, 8), np.float32))
        line = fails(
            2, "record", self.MODEL, f"array:{tmp_path / 'x.npz'}", "--out", tmp_path / "s.h5"
        )
        assert "x.npz" in line

    def test_one_class_only(self, tmp_path):
        np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 8, 8), np.float32), y=np.zeros(4, np.int64))
        line = fails(
            2, "record", self.MODEL, f"array:{tmp_path / 'x.npz'}", "--out", tmp_path / "s.h5"
        )
        assert "two" in line

    def test_a_class_with_no_image(self, images, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "a" / "0.png")
        out = tmp_path / "s.h5"
        line = fails(2, "record", self.MODEL, f"imagefolder:{tmp_path}", "--out", out)
        assert "b" in line
        assert "no image" in line

    def test_images_of_the_wrong_size(self, tmp_path):
        np.savez(tmp_path / "x.npz", x=np.zeros((4, 5, 8, 8), np.float32), y=np.arange(4) % 2)
        line = fails(
            2, "record", self.MODEL, f"array:{tmp_path / 'x.npz'}", "--out", tmp_path / "s.h5"
        )
        assert "(4, 5, 8, 8)" in line

    def test_nan_responses(self, tmp_path):
        x = np.zeros((4, 3, 8, 8), np.float32)
        x[2] = 3e38
        np.savez(tmp_path / "x.npz", x=x, y=np.arange(4) % 2)
        line = fails(
            2, "record", self.MODEL, f"array:{tmp_path / 'x.npz'}", "--out", tmp_path / "s.h5"
        )
        assert "layer 'relu" in line
        assert "NaN or infinite" in line

    def test_a_corrupt_image(self, images, tmp_path):
        for index, source in enumerate(sorted(images.rglob("*.png"))):
            place = tmp_path / "images" / source.parent.name
            place.mkdir(parents=True, exist_ok=True)
            data = source.read_bytes()
            (place / source.name).write_bytes(data[:60] if index == 17 else data)
        broken = sorted((tmp_path / "images").rglob("*.png"))[17]
        spec = f"imagefolder:{tmp_path / 'images'}"
        for workers in (0, 1):
            line = fails(
                2,
                *("record", self.MODEL, spec, "--workers", workers),
                *("--out", tmp_path / "s.h5"),
            )
            assert str(broken) in line
            assert len(line) < 400

    def test_weights_of_another_architecture(self, images, tmp_path):
        torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "w.pt")
        line = fails(
            2,
            *("record", self.MODEL, f"imagefolder:{images}", "--weights", tmp_path / "w.pt"),
            *("--out", tmp_path / "s.h5"),
        )
        assert "w.pt" in line

    def test_a_store_that_is_truncated_or_none(self, store, tmp_path):
        half = tmp_path / "half.h5"
        half.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
        assert "damaged" in fails(2, "analyze", half, "--out", tmp_path / "a.h5")
        assert "does not exist" in fails(2, "analyze", tmp_path / "no.h5", "--out", tmp_path / "a")
        half.write_text("nothing")
        assert "not an HDF5 file" in fails(2, "report", half, "--out", tmp_path / "r")

    def test_an_output_that_exists(self, images, store, tmp_path):
        before = store.read_bytes()
        line = fails(2, "record", self.MODEL, f"imagefolder:{images}", "--out", store)
        assert "--overwrite" in line
        assert store.read_bytes() == before
        assert "--overwrite" in fails(2, "analyze", store, "--out", store)

    def test_a_directory_that_is_not_there(self, images, tmp_path):
        out = tmp_path / "none" / "s.h5"
        assert "none" in fails(1, "record", self.MODEL, f"imagefolder:{images}", "--out", out)

    def test_hub_weights_without_a_network(self, images, tmp_path):
        out = tmp_path / "s.h5"
        model = "torchvision:squeezenet1_0"
        line = fails(1, "record", model, f"imagefolder:{images}", "--out", out)
        assert "--weights" in line
        assert "--no-pretrained" in line

    def test_classes_that_the_outputs_do_not_fit(self, store, tmp_path):
        np.savez(tmp_path / "x.npz", x=np.zeros((6, 3, 8, 8), np.float32), y=np.arange(6) % 3)
        fails(2, "ablate", self.MODEL, f"array:{tmp_path / 'x.npz'}", "--out", tmp_path / "g.h5")

    def test_one_file_for_two_things(self, store, tmp_path):
        before = store.read_bytes()
        assert "different" in fails(2, "analyze", store, "--out", store, "--overwrite")
        both = tmp_path / "y.h5"
        assert "different" in fails(2, "analyze", store, "--out", both, "--csv", both)
        assert store.read_bytes() == before

    def test_a_network_beside_a_network(self, images, tmp_path):
        line = fails(
            *(2, "analyze", self.MODEL, f"imagefolder:{images}", "--model", self.MODEL),
            *("--out", tmp_path / "a.h5"),
        )
        assert "--model networks:build_tiny is for a recording" in line

    def test_words_that_the_command_line_does_not_know(self, store, tmp_path):
        assert "--n-permutations" in fails(
            2, "analyze", store, "--out", tmp_path / "a.h5", "--n-permutations", "abc"
        )
        assert "STIMULI" in fails(2, "record", self.MODEL, "--out", tmp_path / "s.h5")
        assert "seed=-1" in fails(2, "analyze", store, "--out", tmp_path / "a.h5", "--seed", "-1")

    def test_invalid_numbers(self, images, tmp_path):
        assert "3,32,32" in fails(2, "layers", "networks:ResNet20", "--input-size", "32x32")
        out = tmp_path / "g.h5"
        line = fails(
            2, "ablate", self.MODEL, f"imagefolder:{images}", "--units", "one", "--out", out
        )
        assert "'one'" in line


def test_what_needs_a_recording_is_named(images, tmp_path):
    command = ["analyze", "networks:build_tiny", f"imagefolder:{images}", "--memory", "1kB"]
    with pytest.warns(UnitprobeWarning, match=r"memory='1kB'; left out: .*twonn_dimension"):
        CliRunner().invoke(app, [*command, "--out", str(tmp_path / "all.h5")])


@pytest.mark.parametrize(
    "option",
    [("--split", "train"), ("--layers", "relu"), ("--memory", "3GB"), ("--num-classes", 3)],
)
def test_options_of_networks_are_refused_for_a_recording(store, tmp_path, option):
    line = fails(2, "analyze", store, *option, "--out", tmp_path / "a.h5")
    assert f"{option[0]} has no effect on a recording" in line


@pytest.mark.process
def test_a_network_is_analyzed_without_a_recording_by_one_process_or_two(images, store, tmp_path):
    options = ["--metrics", "class_selectivity", "--metrics", "kurtosis", "--n-permutations", "20"]
    recorded, direct, shared = (tmp_path / f"{name}.h5" for name in ("store", "one", "two"))
    network = ["networks:build_tiny", f"imagefolder:{images}"]
    assert run("analyze", store, *options, "--out", recorded)[0] == 0
    code, out, _ = run("analyze", *network, *options, "--out", direct)
    assert code == 0
    assert "analyzed 2 layers" in out
    assert "only from a recording" not in out
    _, everything, _ = run("analyze", *network, "--out", tmp_path / "all.h5")
    assert "only from a recording" not in everything
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "unitprobe", "analyze", *network, *options, "--out", shared]
    done = subprocess.run(
        list(map(str, command)), cwd=TESTS, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("analyzed 2 layers") == 1
    expected = up.open_store(recorded)
    for path in (direct, shared):
        found = up.open_store(path)
        for layer in expected.children:
            for name in ("class_selectivity", "class_selectivity_null_mean", "kurtosis"):
                np.testing.assert_allclose(
                    found[layer][name], expected[layer][name], atol=1e-5, err_msg=name
                )


@pytest.mark.process
def test_many_processes_record_the_file_of_one(images, tmp_path):
    network = ["networks:build_tiny", f"imagefolder:{images}", "--batch-size", "8"]
    code, out, _ = run("record", *network, "--out", tmp_path / "one.h5")
    assert code == 0
    # Before it starts: the size on the disk, and the time.
    assert re.match(r"recording 2 layers of 32 stimuli: \d+\.\d kB on disk, about \d+ s\n", out)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "unitprobe", "record", *network, "--out", tmp_path / "two.h5"]
    done = subprocess.run(
        list(map(str, command)), cwd=TESTS, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("recorded 2 layers, 32 stimuli") == 1
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_status_tells_of_a_finished_file_and_of_none(store, tmp_path):
    code, out, _ = run("status", store)
    assert code == 0
    assert "complete, 32 of 32 stimuli (100%)" in out
    assert "layers: 2" in out
    assert "size: " in out
    assert "does not exist" in fails(2, "status", tmp_path / "none.h5")


def test_status_verifies_the_numbers_if_asked(store, tmp_path):
    code, out, _ = run("status", store, "--verify")
    assert code == 0
    assert "numbers: unchanged since they were recorded" in out
    data = bytearray(store.read_bytes())
    with h5py.File(store) as file:
        data[file["relu/response"].id.get_chunk_info(0).byte_offset] ^= 1
    (tmp_path / "copy.h5").write_bytes(data)
    assert "numbers of the stimuli 0 to 31 have" in fails(
        2, "status", tmp_path / "copy.h5", "--verify"
    )


def test_a_file_larger_than_allowed_is_refused_before_anything_is_written(images, tmp_path):
    record = ["record", "networks:build_tiny", f"imagefolder:{images}", "--out", tmp_path / "s.h5"]
    line = fails(2, *record, "--max-size", "2kB")
    assert re.search(r"would take \d+\.\d kB, more than max_size 2\.0 kB", line)
    assert "'lots'" in fails(2, *record, "--max-size", "lots")
    assert list(tmp_path.iterdir()) == []
