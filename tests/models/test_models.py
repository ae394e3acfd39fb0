import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import nn
from torchvision import models as zoo

import unitprobe as up
from unitprobe.errors import (
    DownloadError,
    LabelError,
    ModelError,
    OptionError,
    UnitprobeError,
    WeightsError,
)
from unitprobe.models import (
    ConvertMode,
    Network,
    as_network,
    load_model,
    output_indices,
    plain_transform,
)

TIMM = "timm:test_resnet"


def image(mode="RGB", size=(40, 30)):
    return Image.new(mode, size, 100)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a writer of importable modules in the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def out_of_reach(monkeypatch, tmp_path):
    """Take the network away, and the caches, whatever machine this is."""
    import socket

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)


class TestTimm:
    @pytest.mark.parametrize("name", [TIMM, "test_resnet", "test_resnet.r160_in1k"])
    def test_a_network_comes_ready_to_evaluate(self, name):
        network = load_model(name, pretrained=False)
        assert network.name == name
        assert not network.module.training
        assert network.input_size == (3, 160, 160)
        assert network.transform(image()).shape == network.input_size

    def test_the_preprocessing_is_timms_own(self):
        network = load_model(TIMM, pretrained=False)
        config = timm.data.resolve_model_data_config(network.module)
        own = timm.data.create_transform(**config, is_training=False)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
        assert torch.equal(network.transform(picture), own(picture))

    def test_grey_images_become_rgb(self):
        network = load_model(TIMM, pretrained=False)
        assert network.transform(image("L")).shape == (3, 160, 160)

    def test_num_classes_sets_the_outputs(self):
        network = load_model(TIMM, pretrained=False, num_classes=7)
        assert network.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
        assert network.class_names is None

    def test_the_names_of_imagenet_outputs_are_known(self):
        assert load_model(TIMM, pretrained=False).class_names[:2] == ["tench", "goldfish"]

    def test_an_unknown_network_lists_the_nearest(self):
        with pytest.raises(ModelError, match=r"timm has no network 'resnet_18'.* resnet18"):
            load_model("resnet_18")

    def test_an_unknown_tag_lists_the_nearest(self):
        with pytest.raises(ModelError, match=r"'resnet18\.a1_in2k'.* resnet18\.a1_in1k"):
            load_model("timm:resnet18.a1_in2k")

    def test_a_network_without_pretrained_weights(self):
        with pytest.raises(ModelError, match="no pretrained weights for 'botnet50ts_256'"):
            load_model("botnet50ts_256")


class TestTorchvision:
    def test_a_network_comes_with_the_transforms_and_names_of_its_weights(self):
        network = load_model("torchvision:squeezenet1_0", pretrained=False)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
        entry = zoo.SqueezeNet1_0_Weights.DEFAULT
        assert torch.equal(network.transform(picture), entry.transforms()(picture))
        assert network.input_size == (3, 224, 224)
        assert network.class_names == entry.meta["categories"]
        assert not network.module.training
        assert network.transform(image("L")).shape == (3, 224, 224)

    def test_weights_may_be_named(self):
        network = load_model("torchvision:resnet50.IMAGENET1K_V1", pretrained=False, num_classes=2)
        assert "resize_size=[256]" in network.preprocessing
        assert network.class_names is None

    def test_a_vision_transformer_fits_its_own_transforms(self):
        network = load_model("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1", pretrained=False)
        assert network.module.image_size == network.input_size[1] == 384

    def test_weights_from_a_file_meet_the_network_that_torchvision_would_build(self):
        network = load_model("torchvision:googlenet", pretrained=False)
        assert network.module.transform_input

    def test_an_unknown_network_lists_the_nearest(self):
        with pytest.raises(ModelError, match=r"no image classifier 'resnet_18'.* resnet18"):
            load_model("torchvision:resnet_18")

    def test_unknown_weights_list_the_known(self):
        with pytest.raises(ModelError, match="'V9' for 'resnet50'; it has IMAGENET1K_V1"):
            load_model("torchvision:resnet50.V9")

    def test_pretrained_weights_with_another_number_of_outputs(self):
        with pytest.raises(ModelError, match="have 1000 outputs, not num_classes=10"):
            load_model("torchvision:squeezenet1_0", num_classes=10)


class TestPython:
    def test_a_callable_in_the_current_directory(self, home):
        home("mine", "import torch\ndef make(): return torch.nn.Conv2d(1, 2, 3)")
        network = load_model("mine:make")
        assert isinstance(network.module, nn.Conv2d)
        assert (network.name, network.input_size) == ("mine:make", None)
        assert str(Path.cwd()) not in sys.path
        out = network.transform(image("L", (5, 4)))
        assert (out.shape, out.dtype) == ((1, 4, 5), torch.float32)
        assert out.max() == pytest.approx(100 / 255)

    def test_a_stated_input_size_sets_the_colours(self, home):
        home(
            "mine",
            "import torch\nclass Net(torch.nn.Identity):\n    input_size = (1, 8, 8)",
        )
        network = load_model("mine:Net")
        assert network.input_size == (1, 8, 8)
        assert network.transform(image("RGB", (8, 8))).shape == (1, 8, 8)

    def test_num_classes_is_passed_only_if_given(self, home):
        home("mine", "import torch\ndef make(**given): return torch.nn.Linear(4, len(given) + 1)")
        assert load_model("mine:make").module.out_features == 1
        assert load_model("mine:make", num_classes=3).module.out_features == 2

    def test_a_network_with_its_own_preprocessing_stays_as_it_is(self, home):
        home(
            "mine",
            "import torch\nfrom unitprobe.models import Network\n"
            "def make(): return Network(torch.nn.Linear(2, 2), repr, (1, 1, 2), ['a', 'b'], 'own')",
        )
        network = load_model("mine:make")
        assert (network.transform, network.name, network.class_names) == (repr, "own", ["a", "b"])
        assert not network.module.training

    def test_a_module_that_stands_there_already(self, home):
        home("mine", "import torch\nnet = torch.nn.Linear(2, 2)")
        assert isinstance(load_model("mine:net").module, nn.Linear)

    @pytest.mark.parametrize(
        ("code", "name", "message"),
        [
            ("", "no_such.module:make", "no Python module 'no_such' in"),
            ("", "timmm:resnet18", "no Python module 'timmm'.*'timm:NAME', 'torchvision:NAME'"),
            ("def make(): pass", "mine:mkae", "'mine' has no 'mkae'; nearest: make"),
            ("def make(): return 3", "mine:make", "returned a int; a torch.nn.Module"),
            ("make = 3", "mine:make", "cannot be built: TypeError: 'int' object is not callable"),
            ("def make(): raise KeyError('k')", "mine:make", "cannot be built: KeyError: 'k'"),
            ("import no_such_thing", "mine:make", "needs the module 'no_such_thing'"),
            ("def make(:", "mine:make", "cannot be built: SyntaxError"),
        ],
    )
    def test_mistakes(self, home, code, name, message):
        home("mine", code)
        before = list(sys.path)
        with pytest.raises(ModelError, match=message) as caught:
            load_model(name)
        assert "\n" not in str(caught.value)
        assert sys.path == before

    def test_an_argument_that_the_callable_does_not_take(self, home):
        home("mine", "def make(): pass")
        with pytest.raises(ModelError, match="unexpected keyword argument 'num_classes'"):
            load_model("mine:make", num_classes=3)


@pytest.mark.parametrize("name", ["a/b:c", "mine:", ":make", "hub:a-b"])
def test_a_name_of_no_known_form_lists_the_forms(name):
    with pytest.raises(ModelError, match="give 'timm:NAME', 'torchvision:NAME' or"):
        load_model(name)


def test_num_classes_is_positive():
    with pytest.raises(OptionError, match="num_classes is 0"):
        load_model(TIMM, num_classes=0)


class TestOffline:
    @pytest.mark.parametrize("name", ["timm:resnet10t.c3_in1k", "torchvision:squeezenet1_0"])
    def test_fails_soon_and_says_what_to_do(self, out_of_reach, name):
        start = time.monotonic()
        with pytest.raises(DownloadError, match=r"weights=FILE.*pretrained=False") as caught:
            load_model(name)
        assert time.monotonic() - start < 20
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)

    def test_a_weights_file_needs_no_download(self, out_of_reach, tmp_path):
        path = tmp_path / "weights.safetensors"
        save_file(load_model(TIMM, pretrained=False).module.state_dict(), path)
        load_model(TIMM, weights=path)


@pytest.fixture(scope="module")
def source():
    return load_model(TIMM, pretrained=False, num_classes=5)


class TestWeights:
    def load(self, path):
        return load_model(TIMM, weights=path, num_classes=5)

    def test_safetensors(self, source, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file(source.module.state_dict(), path)
        assert self.load(str(path)).fingerprint == source.fingerprint

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
    @pytest.mark.parametrize(
        "wrap",
        [
            dict,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state},
            lambda state: {f"module.{key}": value for key, value in state.items()},
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
            lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
        ],
    )
    def test_torch_files_as_they_are_saved(self, source, tmp_path, suffix, wrap):
        path = tmp_path / f"w{suffix}"
        torch.save(wrap(source.module.state_dict()), path)
        assert self.load(path).fingerprint == source.fingerprint

    def test_a_prefix_that_is_the_networks_own_is_kept(self, home, tmp_path):
        home(
            "mine",
            "import torch\nclass make(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.module = torch.nn.Linear(2, 2)\n",
        )
        source = load_model("mine:make")
        torch.save(source.module.state_dict(), tmp_path / "w.pt")
        assert load_model("mine:make", weights="w.pt").fingerprint == source.fingerprint

    def test_a_mismatch_counts_and_names_the_keys(self, source, tmp_path):
        state = dict(source.module.state_dict())
        del state["conv1.0.weight"], state["bn1.bias"]
        state["extra"] = torch.zeros(1)
        state["fc.bias"] = torch.zeros(9)
        path = tmp_path / "w.pt"
        torch.save(state, path)
        expected = (
            rf"{path} does not fit network 'timm:test_resnet': 2 missing \(conv1\.0\.weight\), "
            r"1 unexpected \(extra\), 1 of another shape \(fc.bias is \(9,\) in the file, "
            r"\(5,\) in the network\)$"
        )
        with pytest.raises(WeightsError, match=expected):
            self.load(path)

    def test_another_head_advises_num_classes(self, source, tmp_path):
        path = tmp_path / "w.safetensors"
        save_file(source.module.state_dict(), path)
        with pytest.raises(WeightsError, match=r"2 of another shape .* give num_classes"):
            load_model(TIMM, weights=path)

    @pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"garbage" * 20, b"PK\x03\x04" + b"0" * 100])
    def test_a_damaged_file(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name} is damaged or not a weights file"):
            self.load(tmp_path / name)

    @pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
    def test_a_truncated_file(self, source, tmp_path, name):
        path = tmp_path / name
        save = save_file if name.endswith("s") else torch.save
        save(source.module.state_dict(), path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match="is damaged"):
            self.load(path)

    def test_code_in_the_file_is_never_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return pytest.fail, ("code from the file ran",)

        torch.save({"state_dict": Trap()}, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match="holds Python objects, which are never executed"):
            self.load(tmp_path / "w.pt")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds a list, not a state dict"),
            (torch.zeros(3), "holds a Tensor, not a state dict"),
            ({}, "holds an empty dict"),
            ({"epoch": 3}, "is not a state dict: its 'epoch' is a int"),
        ],
    )
    def test_no_state_dict(self, tmp_path, content, message):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=message):
            self.load(tmp_path / "w.pt")

    def test_a_file_that_is_not_there(self):
        with pytest.raises(WeightsError, match=r"nowhere\.pt does not exist"):
            self.load("nowhere.pt")

    def test_a_file_of_another_kind(self):
        with pytest.raises(WeightsError, match=r"w\.h5 is not a \.safetensors, \.pt"):
            self.load("w.h5")


class TestClassNames:
    def test_given_or_from_a_file(self, tmp_path):
        (tmp_path / "names.txt").write_text("ant\nbee\n sea gull \n\n", encoding="utf-8")
        for names in (["ant", "bee", "sea gull"], tmp_path / "names.txt"):
            network = load_model(TIMM, pretrained=False, num_classes=3, class_names=names)
            assert network.class_names == ["ant", "bee", "sea gull"]

    @pytest.mark.parametrize("name", [TIMM, "torchvision:squeezenet1_0"])
    @pytest.mark.parametrize("count", [None, 2])
    def test_a_wrong_number(self, name, count):
        with pytest.raises(ModelError, match=f"holds 1 names but .* has {count or 1000} outputs"):
            load_model(name, pretrained=False, num_classes=count, class_names=["ant"])

    def test_a_blank_line(self, tmp_path):
        (tmp_path / "names.txt").write_text("ant\n\nbee\n")
        with pytest.raises(ModelError, match=r"names\.txt: name 2 is blank"):
            load_model(TIMM, pretrained=False, class_names=tmp_path / "names.txt")

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
    def test_a_file_that_cannot_be_read(self, tmp_path, content):
        if content is not None:
            (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(ModelError, match=r"names\.txt cannot be read"):
            load_model(TIMM, pretrained=False, class_names=tmp_path / "names.txt")


class TestAsNetwork:
    def test_a_network_is_itself(self):
        network = Network(nn.Linear(2, 2))
        assert as_network(network) is network

    def test_a_bare_module_has_no_preprocessing(self):
        network = as_network(nn.Linear(2, 2))
        assert (network.name, network.transform, network.input_size) == ("Linear", None, None)
        assert network.preprocessing == "none"
        assert network.class_names is None

    def test_the_input_size_that_a_module_states(self):
        module = nn.Linear(2, 2)
        module.input_size = [1, 8, 8]
        assert as_network(module).input_size == (1, 8, 8)

    @pytest.mark.parametrize("size", [64, (8, 8), None])
    def test_something_else_called_input_size(self, size):
        module = nn.LSTM(4, 4)
        module.input_size = size
        assert as_network(module).input_size is None

    def test_the_input_size_of_a_timm_module_as_it_was_built(self):
        grey = timm.create_model("test_resnet", in_chans=1)
        small = timm.create_model("test_vit", img_size=64)
        assert as_network(grey).input_size == (1, 160, 160)
        assert as_network(small).input_size == (3, 64, 64)

    def test_neither(self):
        with pytest.raises(ModelError, match="not a str"):
            as_network("resnet18")


class TestFingerprint:
    def test_follows_the_weights(self):
        network = Network(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
        before = network.fingerprint
        assert network.fingerprint == before
        network.module[1].running_mean[2] += 1e-6
        assert network.fingerprint != before

    def test_follows_the_structure(self):
        assert Network(nn.ReLU()).fingerprint != Network(nn.GELU()).fingerprint
        assert Network(nn.ReLU()).fingerprint == Network(nn.ReLU()).fingerprint

    def test_memory_addresses_do_not_count(self):
        class Odd(nn.Module):
            def extra_repr(self):
                return repr(object())

        assert Network(Odd()).fingerprint == Network(Odd()).fingerprint

    @pytest.mark.parametrize(
        "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float8_e5m2]
    )
    def test_every_type_of_weight(self, dtype):
        module = nn.Module()
        module.register_buffer("scalar", torch.tensor(1.0).to(dtype))
        module.register_buffer("flags", torch.ones(2, 3, dtype=torch.bool).T)
        network = Network(module)
        before = network.fingerprint
        module.scalar = torch.tensor(2.0).to(dtype)
        assert network.fingerprint != before

    def test_the_type_itself_counts(self):
        module = nn.Linear(2, 2)
        assert Network(module).fingerprint != Network(nn.Linear(2, 2).double()).fingerprint

    @pytest.mark.parametrize("module", [nn.LazyLinear(2), nn.Linear(2, 2, device="meta")])
    def test_weights_without_values(self, module):
        with pytest.raises(ModelError, match="has no values yet in its weight 'bias'"):
            _ = Network(module).fingerprint


class TestTransforms:
    def test_are_readable_and_the_same_each_time(self):
        text = plain_transform(3)
        assert "ConvertMode(mode='RGB')" in repr(text)
        assert Network(nn.ReLU(), transform=lambda x: x).preprocessing.endswith("<lambda>>")

    @pytest.mark.parametrize(
        ("channels", "mode", "result"),
        [(1, "RGB", 1), (3, "L", 3), (3, "RGBA", 3), (3, "P", 3), (None, "L", 1), (4, "RGBA", 4)],
    )
    def test_a_plain_transform_changes_colours_only(self, channels, mode, result):
        picture = Image.new(mode, (5, 4))
        assert plain_transform(channels)(picture).shape == (result, 4, 5)

    def test_can_be_sent_to_workers(self):
        for transform in (plain_transform(1), load_model(TIMM, pretrained=False).transform):
            copy = pickle.loads(pickle.dumps(transform))
            assert torch.equal(copy(image()), transform(image()))

    def test_tensors_get_the_channels_of_the_network(self):
        tensor = torch.rand(3, 4, 4)
        assert ConvertMode("RGB")(tensor) is tensor
        assert ConvertMode("L")(tensor).shape == (1, 4, 4)
        assert ConvertMode("RGB")(tensor[:1]).shape == (3, 4, 4)


@pytest.fixture(scope="module")
def imagenet():
    return load_model("torchvision:squeezenet1_0", pretrained=False)


class TestOutputIndices:
    def test_by_name(self):
        network = Network(nn.Linear(2, 4), class_names=["ant", "bee", "cat", "dog"])
        assert output_indices(network, ["dog", "ant"], 4).tolist() == [3, 0]
        assert output_indices(network, ["dog", "ant"], 4).dtype == np.int64

    def test_equal_names_in_another_order_are_not_taken_by_order(self):
        network = Network(nn.Linear(2, 2), class_names=["bee", "ant"])
        assert output_indices(network, ["ant", "bee"], 2).tolist() == [1, 0]

    @pytest.mark.parametrize("wrap", [lambda network: network, lambda network: network.module])
    def test_by_the_names_and_word_net_ids_of_imagenet(self, imagenet, wrap):
        network = as_network(wrap(imagenet))
        synsets = ImageNetInfo().label_names()
        assert output_indices(network, [synsets[7], synsets[3]], 1000).tolist() == [7, 3]
        assert output_indices(network, ["goldfish", "tench"], 1000).tolist() == [1, 0]
        assert output_indices(network, synsets, 1000).tolist() == list(range(1000))

    def test_timm_likewise(self):
        network = load_model(TIMM, pretrained=False)
        assert output_indices(network, ["n01443537", "n01440764"], 1000).tolist() == [1, 0]

    def test_larger_imagenets(self):
        module = timm.create_model("test_resnet", num_classes=11821)
        names = ImageNetInfo("imagenet-12k").label_names()
        assert output_indices(Network(module), [names[9], names[2]], 11821).tolist() == [9, 2]

    def test_by_order_only_where_nothing_is_known(self):
        assert output_indices(Network(nn.Linear(2, 3)), ["a", "b", "c"], 3).tolist() == [0, 1, 2]

    def test_names_of_the_users_own_are_not_imagenets(self, imagenet):
        own = [f"own {i}" for i in range(1000)]
        network = Network(imagenet.module, class_names=own)
        with pytest.raises(LabelError, match="first: 'n01440764'"):
            output_indices(network, ["n01440764", "n01443537"], 1000)

    def test_a_thousand_other_classes_are_not_taken_by_order(self, imagenet):
        names = [f"class {i}" for i in range(1000)]
        for network in (imagenet, as_network(imagenet.module)):
            with pytest.raises(LabelError, match="1000 of the stimuli's 1000"):
                output_indices(network, names, 1000)

    def test_a_name_that_two_outputs_share(self):
        network = Network(nn.Linear(2, 3), class_names=["crane", "crane", "tench"])
        assert output_indices(network, ["tench"], 3).tolist() == [2]
        with pytest.raises(LabelError, match=r"1 of the stimuli's 2 class names .* 'crane'"):
            output_indices(network, ["crane", "tench"], 3)

    @pytest.mark.parametrize(
        ("network", "classes", "count", "message"),
        [
            (Network(nn.Linear(2, 5)), ["a", "b"], 5, r"5 outputs and the stimuli have 2 classes"),
            (Network(nn.Linear(2, 2)), ["a", "a"], 2, "more than one class named 'a'"),
            (
                Network(nn.Linear(2, 2), class_names=["a", "b"]),
                ["a", "c"],
                2,
                r"1 of the stimuli's 2 class names .*\(first: 'c'\); give class_names=FILE",
            ),
            (Network(nn.Linear(2, 3), class_names=["a"]), ["a"], 3, "3 outputs but 1 class names"),
        ],
    )
    def test_anything_else_is_an_error(self, network, classes, count, message):
        with pytest.raises(LabelError, match=message) as caught:
            output_indices(network, classes, count)
        assert "\n" not in str(caught.value)


def test_an_error_can_be_raised_again_from_its_message():
    for kind in (ModelError, WeightsError, DownloadError, LabelError):
        assert issubclass(kind, UnitprobeError)
        assert str(kind("one line")) == "one line"


def test_a_bare_timm_module_is_shown_images_as_its_configuration_says():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), np.uint8)
    pictures = [Image.fromarray(each) for each in pixels]
    stimuli = up.Stimuli(pictures, [0, 0, 1, 1])
    module = timm.create_model("test_resnet", pretrained=False).eval()
    bare = up.record(module, stimuli, layers=["conv1.2"])
    loaded = load_model(TIMM, pretrained=False)
    loaded.module = module
    named = up.record(loaded, stimuli, layers=["conv1.2"])
    assert "Normalize" in bare.attrs["preprocessing"]
    assert bare.attrs["preprocessing"] == named.attrs["preprocessing"]
    assert bare["conv1.2"].equals(named["conv1.2"])


@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w.PTH"])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "net", "state_dict_ema"])
def test_weights_in_a_checkpoint_of_a_training_run(tmp_path, name, key):
    import argparse

    module = load_model(TIMM, pretrained=False).module
    state = {f"model.{path}": value for path, value in module.state_dict().items()}
    torch.save({key: state, "args": argparse.Namespace(lr=1), "epoch": 3}, tmp_path / name)
    loaded = load_model(TIMM, weights=tmp_path / name).module.state_dict()
    assert all(torch.equal(value, loaded[path]) for path, value in module.state_dict().items())
