import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import networks
import numpy as np
import pytest
import timm
import torch
import torchvision
import xarray as xr
from conftest import make_stimuli
from PIL import Image
from torch import nn

import unitprobe as up
from unitprobe.errors import (
    ContentsMismatchError,
    LayerError,
    LayerNotFoundError,
    ModelError,
    OptionError,
    ResponseError,
    StimuliError,
    StorageError,
    StoreExistsError,
)

TESTS = Path(__file__).parent


def means_from_hooks(module, images, names):
    """Literal forward hooks with a mean over positions: the reference."""
    kept, handles = {}, []
    for name in names:

        def hook(_module, _inputs, output, name=name):
            kept[name] = output.mean((2, 3)).clone()

        handles.append(module.get_submodule(name).register_forward_hook(hook))
    with torch.no_grad():
        module.eval()(images)
    for handle in handles:
        handle.remove()
    return {name: value.numpy() for name, value in kept.items()}


def contents(path):
    """Every dataset and attribute of a file."""
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
        found["attrs"] = {k: v for k, v in file.attrs.items() if not k.startswith("_")}
    return found


def assert_same_file(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


#: Two batches in a shard.
SHARDS = {"batch_size": 4, "shard_stimuli": 8}


def test_responses_are_those_of_plain_hooks(tmp_path, stimuli):
    model = timm.create_model("resnet10t", pretrained=False).eval()
    tree = up.record(model, stimuli, tmp_path / "s.h5", batch_size=7)
    images = torch.stack([stimuli[i][0] for i in range(len(stimuli))])
    expected = means_from_hooks(model, images, tree.children)
    assert len(tree.children) == 11
    for name, node in tree.children.items():
        np.testing.assert_allclose(node["response"], expected[name], rtol=0, atol=1e-6)


def test_the_store_opens_in_plain_xarray_with_every_axis_named(tmp_path, reused, stimuli):
    up.record(reused, stimuli, tmp_path / "s.h5")
    with xr.open_datatree(tmp_path / "s.h5", engine="h5netcdf") as tree:
        assert list(tree.children) == ["relu", "relu_1"]
        response = tree["relu"]["response"]
        assert response.dims == ("stimulus", "unit")
        assert response.dtype == np.float32
        assert list(response["stimulus"].values) == list(stimuli.ids)
        assert "label" in tree.coords
        np.testing.assert_array_equal(tree["label"], stimuli.labels)
        assert list(tree["class_name"].values) == stimuli.class_names
        for name in ("network", "weights_fingerprint", "preprocessing", "pool", "torch_version"):
            assert tree.attrs[name]
        assert tree["relu"].attrs["kind"] == "relu"


def test_the_store_opens_in_plain_h5py(tmp_path, reused, stimuli):
    tree = up.record(reused, stimuli, tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "r") as file:
        response = file["relu/response"]
        assert [d[0].name for d in response.dims] == ["/stimulus", "/relu/unit"]
        np.testing.assert_array_equal(response[()], tree["relu"]["response"])
        assert file["stimulus"].asstr()[0] == stimuli.ids[0]


def test_unpooled_activations_keep_their_positions(tmp_path, reused, stimuli):
    tree = up.record(reused, stimuli, tmp_path / "s.h5", layers=["conv1", "head"], pool="none")
    assert tree["conv1"]["activation"].dims == ("stimulus", "unit", "y", "x")
    assert tree["head"]["response"].dims == ("stimulus", "unit")
    image, _ = stimuli[3]
    expected = reused.conv1(image[None])[0].detach()
    np.testing.assert_allclose(tree["conv1"]["activation"][3], expected, rtol=0, atol=1e-6)
    tokens = up.record(
        networks.TinyAttention(), stimuli, tmp_path / "t.h5", layers="gelu", pool="none"
    )
    assert tokens["gelu"]["activation"].dims == ("stimulus", "token", "unit")


def test_shards_and_batches_do_not_change_the_file(tmp_path, reused, stimuli):
    up.record(reused, stimuli, tmp_path / "one.h5", batch_size=4)
    tree = up.record(reused, stimuli, tmp_path / "many.h5", **SHARDS)
    assert len(tree["stimulus"]) == 26
    one = up.open_store(tmp_path / "one.h5")
    for name in ("relu", "relu_1"):
        # Batches of other sizes may take another path through the convolution.
        np.testing.assert_allclose(tree[name]["response"], one[name]["response"], rtol=1e-6)
    assert not (tmp_path / "many.h5.partial").exists()


@pytest.mark.parametrize("what", ["transform", "attribute", "buffer"])
def test_changes_that_no_fingerprint_shows_are_noticed(tmp_path, what):
    class Scaled(networks.ReusedInPlace):
        def __init__(self):
            super().__init__()
            self.scale = 1.0
            self.register_buffer("gain", torch.ones(()), persistent=False)

        def forward(self, x):
            return super().forward(x * self.scale * self.gain)

    torch.manual_seed(0)
    model, factor = Scaled().eval(), {"value": 1.0}
    images = [torch.randn(3, 8, 8) for _ in range(26)]
    scaled = up.Stimuli(
        [Image.fromarray((i.permute(1, 2, 0).numpy() * 40 + 128).astype(np.uint8)) for i in images],
        np.arange(26) % 4,
        transform=lambda image: (
            torchvision.transforms.functional.to_tensor(image) * factor["value"]
        ),
    )
    handle = interrupt_after(model, 8)
    with pytest.raises(InterruptedTestError):
        up.record(model, scaled, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    if what == "transform":
        factor["value"] = 10.0
    elif what == "attribute":
        model.scale = 10.0
    else:
        model.gain.fill_(10.0)
    with pytest.raises(ContentsMismatchError, match=r"--no-resume"):
        up.record(model, scaled, tmp_path / "s.h5", **SHARDS)
    assert len(list((tmp_path / "s.h5.partial").glob("shard-*.json"))) == 2


def test_recording_leaves_the_random_state_alone(tmp_path, reused, stimuli):
    before = torch.get_rng_state()
    up.record(reused, stimuli, tmp_path / "s.h5")
    up.ablate(reused, stimuli, units=[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_that_is_not_ours_is_kept(tmp_path, reused, stimuli):
    (tmp_path / "s.h5.partial").mkdir()
    (tmp_path / "s.h5.partial" / "notes.txt").write_text("precious")
    for resume in (True, False):
        with pytest.raises(StoreExistsError, match=r"notes\.txt"):
            up.record(reused, stimuli, tmp_path / "s.h5", resume=resume)
    assert (tmp_path / "s.h5.partial" / "notes.txt").read_text() == "precious"


class InterruptedTestError(Exception):
    pass


def interrupt_after(module, batches):
    """Make a network fail from a batch on, as a crash would."""
    calls = []

    def hook(_module, inputs):
        calls.append(1)
        if len(calls) > batches:
            raise InterruptedTestError

    return module.register_forward_pre_hook(hook)


def test_an_interrupted_recording_goes_on_and_ends_with_the_same_file(tmp_path, reused, stimuli):
    up.record(reused, stimuli, tmp_path / "whole.h5", **SHARDS)
    # Four passes to look at the network, then two shards of two batches.
    handle = interrupt_after(reused, 8)
    with pytest.raises(InterruptedTestError):
        up.record(reused, stimuli, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    assert len(list((tmp_path / "s.h5.partial").glob("shard-*.json"))) == 2
    passes = []
    handle = reused.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    up.record(reused, stimuli, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    assert sum(passes[4:]) == 1 + 26 - 2 * 8  # one to compare, and only what was missing
    assert_same_file(tmp_path / "whole.h5", tmp_path / "s.h5")


@pytest.mark.parametrize("what", ["numbers", "mark", "structure"])
def test_a_damaged_shard_alone_is_recorded_again(tmp_path, reused, stimuli, what):
    up.record(reused, stimuli, tmp_path / "whole.h5", **SHARDS)
    handle = interrupt_after(reused, 8)
    with pytest.raises(InterruptedTestError):
        up.record(reused, stimuli, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    folder = tmp_path / "s.h5.partial"
    with h5py.File(tmp_path / "whole.h5") as file:
        numbers = file["relu_1/response"].id.get_chunk_info(0)  # shard by shard, in this small file
    if what == "numbers":
        damage(folder / "data", numbers.byte_offset + 3)
    elif what == "mark":
        damage(folder / "shard-000000000.json", 5)
    else:
        damage(folder / "data", 40)  # in the structure of the file
    seen = []
    handle = reused.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    up.record(reused, stimuli, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    recorded_again = 0 if what == "structure" else 8
    assert sum(seen[4:]) == 1 + 26 - 2 * 8 + recorded_again
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def damage(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda model, stimuli: (model, stimuli, {"pool": "max"}), "pool 'mean' there, 'max' now"),
        (lambda model, stimuli: (model, stimuli.select(range(20)), {}), "stimuli_fingerprint"),
        (lambda model, stimuli: (networks.ReusedInPlace(), stimuli, {}), "weights_fingerprint"),
        (lambda model, stimuli: (model, stimuli, {"layers": "kind:conv"}), "layers"),
    ],
)
def test_another_recording_never_continues_an_unfinished_one(
    tmp_path, reused, stimuli, change, word
):
    handle = interrupt_after(reused, 8)
    with pytest.raises(InterruptedTestError):
        up.record(reused, stimuli, tmp_path / "s.h5", **SHARDS)
    handle.remove()
    model, others, options = change(reused, stimuli)
    with pytest.raises(ContentsMismatchError, match=word):
        up.record(model, others, tmp_path / "s.h5", **SHARDS, **options)
    assert len(list((tmp_path / "s.h5.partial").glob("shard-*.json"))) == 2
    up.record(model, others, tmp_path / "s.h5", **SHARDS, resume=False, **options)


KILLED = """
import sys, networks, torch
from conftest import make_stimuli
import unitprobe as up
print("ready", flush=True)
up.record(networks.build_tiny(), make_stimuli(4000), sys.argv[1], batch_size=16, shard_stimuli=16)
"""


@pytest.mark.process
def test_a_killed_recording_resumes_to_the_same_file(tmp_path):
    up.record(networks.build_tiny(), make_stimuli(4000), tmp_path / "whole.h5", batch_size=16)
    folder = tmp_path / "s.h5.partial"
    script = [sys.executable, "-c", KILLED, str(tmp_path / "s.h5")]
    for shards in (3, 20):
        process = subprocess.Popen(script, cwd=TESTS, stdout=subprocess.PIPE)
        deadline = time.monotonic() + 300
        while len(list(folder.glob("shard-*.json"))) < shards and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "s.h5").exists()
    subprocess.run(script, cwd=TESTS, check=True, capture_output=True)
    with xr.open_datatree(tmp_path / "whole.h5") as whole, xr.open_datatree(tmp_path / "s.h5") as s:
        assert whole.identical(s)


PEAK = """
import resource, sys, networks, numpy as np, torch, unitprobe as up

class Lazy:
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return torch.full((3, 8, 8), index % 97 / 97)

count = int(sys.argv[1])
ids = [str(index) for index in range(count)]
stimuli = up.Stimuli(Lazy(count), np.arange(count) % 4, ids=ids, transform=lambda image: image)
up.record(networks.build_tiny(), stimuli, sys.argv[2], pool="none")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.process
def test_memory_stays_flat_however_many_stimuli(tmp_path):
    many = 100_000 if os.environ.get("UNITPROBE_LONG_TESTS") else 12_000
    script = [sys.executable, "-c", PEAK]
    peaks = [
        float(
            subprocess.run(
                [*script, str(count), str(tmp_path / f"{count}.h5")],
                cwd=TESTS,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for count in (1_000, many)
    ]
    # 384 float32 in each of two layers: 37 MB for 12,000 stimuli, 307 MB for 100,000.
    assert peaks[1] - peaks[0] < (100 if many == 100_000 else 30)


def test_nan_responses_are_refused_with_layer_and_position(tmp_path, reused, stimuli):
    with torch.no_grad():
        reused.conv2.weight[2].fill_(math.nan)
    with pytest.raises(
        ResponseError, match=r"'relu_1' has 26 NaN or infinite .*first at stimulus '"
    ):
        up.record(reused, stimuli, tmp_path / "s.h5")
    assert list(tmp_path.iterdir()) == []


def test_float16_that_overflows_is_refused(tmp_path, reused, stimuli):
    with torch.no_grad():
        reused.bn1.weight.fill_(1e7)
    with pytest.raises(ResponseError, match="use dtype='float32'"):
        up.record(reused, stimuli, tmp_path / "s.h5", dtype="float16")


def scaled_network(scale):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(192, 4))
    network[1].register_forward_pre_hook(lambda _, args: (args[0] * scale,))
    return network


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_responses_that_are_too_small_for_float16_are_counted_in_one_warning(stimuli, pool):
    network = scaled_network(1e-7)
    exact = up.record(network, stimuli, layers="1", dtype="float32", pool=pool)
    values = exact["1"]["response"].values
    with np.errstate(under="ignore"):
        error = np.abs(values.astype(np.float16) - values) > 0.01 * values
    with pytest.warns(up.errors.UnitprobeWarning) as caught:
        up.record(network, stimuli, layers="1", dtype="float16", pool=pool, batch_size=4)
    messages = [str(each.message) for each in caught]
    expected = f"float16 holds {error.sum():,} of {(values != 0).sum():,} responses of layer '1'"
    assert [message.startswith(expected) for message in messages] == [True]
    assert "dtype='float32'" in messages[0]


def test_float16_of_usual_responses_and_float32_of_small_ones_need_no_warning(stimuli):
    up.record(scaled_network(1.0), stimuli, layers="1", dtype="float16")
    up.record(scaled_network(1e-7), stimuli, layers="1")


def test_rectified_before_pooling_a_token_map_with_a_slightly_negative_mean_is_not_silent():
    """One position of 3.0 among fifteen of -0.25: the mean is -0.047, rectified first 0.1875."""
    images = np.full((6, 1, 4, 4), -0.25, np.float32)
    images[:, :, 0, 0] = 3.0
    stimuli = up.Stimuli(images, np.arange(6) % 2)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.Flatten())
    torch.nn.init.ones_(network[0].weight)
    plain = up.record(network, stimuli, layers="0")
    first = up.record(network, stimuli, layers="0", rectify=True)
    np.testing.assert_allclose(plain["0"]["response"], -0.046875)
    np.testing.assert_allclose(first["0"]["response"], 0.1875)
    assert (plain.attrs["rectify"], first.attrs["rectify"]) == ("no", "before pooling")
    kept = up.record(network, stimuli, layers="0", rectify=True, pool="none")
    assert float(kept["0"]["activation"].min()) == 0
    with up.Probe(network, "0", rectify=True) as probe:
        np.testing.assert_allclose(probe(torch.from_numpy(images))["0"], 0.1875)
    found = up.analyze(network, stimuli, layers="0", rectify=True, metrics=["gini"])
    assert found.attrs["rectify"] == "before pooling"
    assert found["0"].attrs["negative_responses"] == 0
    with pytest.raises(OptionError, match="rectify=True has no effect on a recording"):
        up.analyze(plain, rectify=True)


def test_float16_is_rounded_and_no_more(tmp_path, reused, stimuli):
    full = up.record(reused, stimuli, tmp_path / "full.h5")
    half = up.record(reused, stimuli, tmp_path / "half.h5", dtype="float16")
    expected = full["relu"]["response"].values.astype(np.float16)
    np.testing.assert_array_equal(half["relu"]["response"], expected)


def test_compression_changes_the_size_and_not_the_numbers(tmp_path, reused):
    blank = up.Stimuli(np.zeros((64, 3, 8, 8), np.float32), np.arange(64) % 4)
    plain = up.record(reused, blank, tmp_path / "plain.h5", pool="none")
    packed = up.record(reused, blank, tmp_path / "packed.h5", pool="none", compression="zstd")
    np.testing.assert_array_equal(plain["relu"]["activation"], packed["relu"]["activation"])
    assert (tmp_path / "packed.h5").stat().st_size < (tmp_path / "plain.h5").stat().st_size / 2


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path, reused, stimuli):
    path = tmp_path / "s.h5"
    path.write_text("precious")
    with pytest.raises(StoreExistsError, match="overwrite=True") as caught:
        up.record(reused, stimuli, path)
    assert isinstance(caught.value, FileExistsError)
    assert path.read_text() == "precious"
    up.record(reused, stimuli, path, overwrite=True)
    assert len(up.open_store(path)["stimulus"]) == 26


@pytest.mark.parametrize(
    "what", ["digits", torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8))]
)
def test_only_stimuli_are_accepted(tmp_path, reused, what):
    with pytest.raises(StimuliError, match=f"must be a Stimuli, not a {type(what).__name__}"):
        up.record(reused, what, tmp_path / "s.h5")


def test_a_path_that_cannot_be_written_is_one_line(tmp_path, reused, stimuli):
    (tmp_path / "s.h5.partial").write_text("precious")
    for path in (tmp_path / "s.h5", tmp_path / ("s" * 250)):
        with pytest.raises(StorageError, match=r"\.partial could not be written: "):
            up.record(reused, stimuli, path)
        with pytest.raises(StorageError, match=r"\.partial could not be written: "):
            up.ablate(reused, stimuli, path=path)
    assert (tmp_path / "s.h5.partial").read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path, reused, stimuli):
    with pytest.raises(StorageError, match=r"no_such of s\.h5 does not exist"):
        up.record(reused, stimuli, tmp_path / "no_such" / "s.h5")


FULL = """
import resource, sys, networks
from conftest import make_stimuli
import unitprobe as up
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    up.record(networks.build_tiny(), make_stimuli(200), sys.argv[1], pool="none", shard_stimuli=64)
except up.errors.StorageError as error:
    print(error.exit_code, error)
"""


@pytest.mark.process
def test_a_disk_that_takes_no_more_is_one_line_before_anything_is_computed(tmp_path):
    # A limit on the size of a file stands for a full disk: the file has 620 kB.
    path = tmp_path / "s.h5"
    script = [sys.executable, "-c", FULL, str(path), "500000"]
    run = subprocess.run(script, cwd=TESTS, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("1 ")
    assert "could not be written" in run.stdout
    assert run.stdout.count("\n") == 1
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    tree = up.record(networks.build_tiny(), make_stimuli(200), path, pool="none")
    assert len(tree["stimulus"]) == 200


def test_images_of_several_sizes_are_named(tmp_path, reused):
    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    mixed = up.Stimuli(images, np.array([0, 1, 0]), ids=["a", "b", "c"])
    for batch_size in (1, 64):
        with pytest.raises(StimuliError, match=r"'c' has shape \(3, 8, 9\).*have \(3, 8, 8\)"):
            up.record(reused, mixed, tmp_path / "s.h5", batch_size=batch_size)


def test_images_of_the_wrong_size_for_the_network_are_refused(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU())
    with pytest.raises(ModelError, match=r"shape \(8, 3, 8, 8\)"):
        up.record(model, make_stimuli(8), tmp_path / "s.h5")


def test_a_layer_with_the_name_of_a_coordinate_is_refused(tmp_path, stimuli):
    model = nn.Module()
    model.label = nn.ReLU()
    model.forward = lambda x: model.label(x)
    with pytest.raises(LayerError, match="'label' cannot stand in a file"):
        up.record(model, stimuli, tmp_path / "s.h5")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"layers": "rellu"}, LayerNotFoundError, "'rellu'.*relu"),
        ({"pool": "median"}, OptionError, "mean, max, center, cls, none"),
        ({"compression": "zip"}, OptionError, "'zstd' or None"),
        ({"dtype": "int8"}, OptionError, "float32, float64, float16"),
        ({"layers": None}, LayerNotFoundError, "layers=None"),
        ({"batch_size": 0}, OptionError, "batch_size=0"),
        ({"batch_size": 2.0}, OptionError, "batch_size=2.0 is not a positive integer"),
        ({"batch_size": "4"}, OptionError, "batch_size='4' is not a positive integer"),
        ({"device": "warp"}, OptionError, "device='warp'"),
        ({"device": "meta"}, OptionError, "device='meta'"),
        ({"workers": -1}, OptionError, "workers=-1"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    tmp_path, reused, stimuli, options, error, match
):
    with pytest.raises(error, match=match) as caught:
        up.record(reused, stimuli, tmp_path / "s.h5", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert networks.count_hooks(reused) == 0


def test_autocast_is_by_choice_and_part_of_what_is_recorded(tmp_path, reused, stimuli):
    full = up.record(reused, stimuli, tmp_path / "full.h5")
    cast = up.record(reused, stimuli, tmp_path / "cast.h5", autocast="bfloat16")
    one, other = full["relu_1"]["response"], cast["relu_1"]["response"]
    assert other.dtype == np.float32
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02)
    assert (full.attrs["autocast"], cast.attrs["autocast"]) == ("none", "bfloat16")
    assert cast.attrs["compute_dtype"] == "bfloat16"


@pytest.mark.parametrize(("limit", "fits"), [(10_000, False), ("0.01MB", False), ("1MB", True)])
def test_the_size_is_known_before_and_may_be_limited(tmp_path, reused, stimuli, limit, fits):
    lines = []
    options = {"max_size": limit, "announce": lines.append}
    if fits:
        up.record(reused, stimuli, tmp_path / "s.h5", **options)
        assert re.fullmatch(r"recording 2 layers of 26 stimuli: .* kB on disk, about 1 s", lines[0])
    else:
        with pytest.raises(
            OptionError, match=r"would take \d+\.\d kB, more than max_size 10\.0 kB"
        ):
            up.record(reused, stimuli, tmp_path / "s.h5", **options)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_the_expected_size_is_that_of_the_file(tmp_path, pool):
    lines = []
    path = tmp_path / "s.h5"
    up.record(networks.build_tiny(), make_stimuli(3000), path, pool=pool, announce=lines.append)
    number, unit = re.search(r": (\d+\.\d) (.B) on disk", lines[0]).groups()
    expected = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    size = path.stat().st_size
    assert size <= expected <= 1.1 * size + 300_000


class Branching(nn.Module):
    """Takes the second layer only for stimuli that are bright."""

    def __init__(self):
        super().__init__()
        self.first = nn.ReLU()
        self.second = nn.ReLU()

    def forward(self, x):
        x = self.first(x)
        return self.second(x - 0.1).mean((2, 3)) if x.mean() > 0.4 else x.mean((2, 3))


@pytest.mark.filterwarnings("ignore::unitprobe.errors.UnitprobeWarning")
def test_stimuli_that_do_not_reach_a_layer_are_nan_there_and_counted(tmp_path, stimuli):
    images = torch.stack([stimuli[index][0] for index in range(26)])
    bright = (images.relu().mean((1, 2, 3)) > 0.4).numpy()
    order = np.argsort(~bright, kind="stable")  # the first stimulus has to reach all layers
    bright, stimuli = bright[order], stimuli.select(order)
    assert 0 < bright.sum() < 26
    tree = up.record(Branching(), stimuli, tmp_path / "s.h5", layers="kind:relu", **SHARDS)
    missed = np.isnan(tree["second"]["response"]).all("unit")
    np.testing.assert_array_equal(missed, ~bright)
    assert tree["second"].attrs["unreached_stimuli"] == (~bright).sum()
    assert "unreached_stimuli" not in tree["first"].attrs
    assert not np.isnan(tree["first"]["response"]).any()


def test_without_a_path_the_same_tree_is_kept_in_memory(tmp_path):
    network, stimuli = networks.build_tiny(), make_stimuli(20)
    for pool in ("mean", "none"):
        kept = up.record(network, stimuli, pool=pool, progress=False)
        with up.record(network, stimuli, tmp_path / f"{pool}.h5", pool=pool) as stored:
            xr.testing.assert_identical(kept, stored.load())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mean.h5", "none.h5"]


@pytest.mark.parametrize(
    "option",
    [
        {"overwrite": True},
        {"resume": False},
        {"max_size": "1GB"},
        {"compression": "zstd"},
        {"shard_stimuli": 64},
    ],
)
def test_options_of_the_file_are_refused_without_one(option):
    with pytest.raises(OptionError, match=f"{next(iter(option))}= has no effect without a path"):
        up.record(networks.build_tiny(), make_stimuli(4), **option)


def test_a_shard_holds_whole_batches(tmp_path):
    with pytest.raises(OptionError, match="shard_stimuli=8 is less than batch_size=64"):
        up.record(networks.build_tiny(), make_stimuli(4), tmp_path / "s.h5", shard_stimuli=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard_stimuli", [2.5, "all"])
def test_the_size_of_a_shard_is_an_integer(tmp_path, shard_stimuli):
    with pytest.raises(OptionError, match=r"shard_stimuli=.* is not an integer"):
        up.record(
            networks.build_tiny(), make_stimuli(4), tmp_path / "a.h5", shard_stimuli=shard_stimuli
        )
