import networks
import pytest
import timm
import torch
import torchvision
from torch import nn

import unitprobe as up
from unitprobe import list_layers
from unitprobe.errors import LayerError, LayerNotFoundError, UnitprobeWarning
from unitprobe.layers import repeated_blocks, select_layers


@pytest.fixture(scope="module")
def resnet():
    return networks.ResNet20()


@pytest.fixture(scope="module")
def layers(resnet):
    return list_layers(resnet, input_size=(3, 32, 32))


def names(resnet, layers, selection):
    return [layer.name for layer in select_layers(resnet, layers, selection)]


def test_activations_are_every_nonlinearity(resnet, layers):
    assert len(names(resnet, layers, "activations")) == 19


def test_early_and_late_are_the_halves_of_the_activations(resnet, layers):
    early, late = names(resnet, layers, "early"), names(resnet, layers, "late")
    assert (len(early), len(late)) == (10, 9)
    assert early + late == names(resnet, layers, "activations")
    lone = nn.Sequential(nn.ReLU())
    with pytest.raises(LayerNotFoundError, match="has no layer of kind 'late'"):
        select_layers(lone, list_layers(lone, input_size=(3, 2, 2)), "late")


def test_an_exact_name_wins_over_a_kind_which_has_its_own_form(resnet, layers):
    assert names(resnet, layers, "relu") == ["relu"]
    assert len(names(resnet, layers, "kind:relu")) == 19
    assert names(resnet, layers, "kind:linear") == ["linear"]
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    listed = list_layers(plain, input_size=(3, 8, 8))
    with pytest.raises(LayerNotFoundError, match=r"'relu'.*this kind give 'kind:relu'"):
        select_layers(plain, listed, "relu")


@pytest.mark.parametrize("name", ["activations", "blocks", "early", "kind:conv"])
def test_an_exact_name_wins_over_every_word(name):
    network = nn.Sequential()
    network.add_module("first", nn.Conv2d(3, 4, 3))
    network.add_module(name, nn.Conv2d(4, 5, 3))
    network.add_module("act", nn.ReLU())
    listed = list_layers(network, input_size=(3, 8, 8))
    assert names(network, listed, name) == [name]
    assert names(network, listed, [name, "act"]) == [name, "act"]
    assert names(network, listed, "kind:activations") == ["act"]


def test_blocks_are_the_blocks_where_their_list_has_this_name():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(Block() for _ in range(2)))

        def forward(self, x):
            return self.blocks(x)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, x):
            return x + self.inner(x)

    network = Network()
    assert names(network, list_layers(network, example=torch.ones(1, 4)), "blocks") == [
        "blocks.0",
        "blocks.1",
    ]


def test_modules_classes_and_layers_select_their_calls(resnet, layers):
    first = resnet.layer1[0]
    by_name = {layer.name: layer for layer in layers}
    assert names(resnet, layers, resnet.conv1) == ["conv1"]
    assert names(resnet, layers, [resnet.linear, by_name["relu"]]) == ["relu", "linear"]
    assert names(resnet, layers, by_name["linear"]) == ["linear"]
    assert names(resnet, layers, first) == ["layer1.0"]
    assert names(resnet, layers, nn.Linear) == ["linear"]
    assert len(names(resnet, layers, nn.Conv2d)) == sum(la.kind == "conv" for la in layers)
    assert names(resnet, layers, [nn.Linear, "conv1"]) == ["conv1", "linear"]
    assert names(resnet, layers, nn.ModuleList([first, resnet.conv1])) == ["conv1", "layer1.0"]
    assert names(resnet, layers, nn.DataParallel(resnet.conv1)) == ["conv1"]


def test_a_module_that_is_called_twice_selects_both_calls(reused):
    listed = list_layers(reused, input_size=(3, 8, 8))
    module = next(m for m in reused.modules() if isinstance(m, nn.ReLU))
    assert names(reused, listed, module) == names(reused, listed, nn.ReLU) == ["relu", "relu_1"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ([1], r"layers=1 is not a selection of layers; give a name, a glob"),
        (1, "layers=1 is not a selection"),
        (None, "layers=None is not a selection"),
        (int, "layers=<class 'int'> is not a selection"),
        (nn.ReLU(), "this ReLU is not a module of ResNet20"),
        (nn.LSTM, "no layer of ResNet20 is a call of a LSTM module; the nearest classes are"),
        (torch.nn.functional.relu, "the function given as layers= fails for layer 'conv1'"),
        ("conv1.*", r"no layer of ResNet20 is named 'conv1\.\*'; the nearest of"),
        ("kind:rellu", r"no layer of kind 'rellu'; its kinds are .*relu \(19\)"),
    ],
)
def test_what_selects_nothing_is_one_line(resnet, layers, selection, message):
    with pytest.raises(LayerError, match=message) as caught:
        names(resnet, layers, selection)
    assert "\n" not in str(caught.value)


def test_a_layer_of_another_network_is_looked_for_by_its_name(resnet, layers):
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(LayerNotFoundError, match=r"named 'layer1\.0'"):
        select_layers(
            other,
            list_layers(other, input_size=(3, 8, 8)),
            next(layer for layer in layers if layer.name == "layer1.0"),
        )


def test_every_function_that_takes_layers_takes_the_same():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    stimuli = up.Stimuli(torch.rand(12, 3, 8, 8).numpy(), [0, 1, 2] * 4)
    for layers in (
        nn.ReLU,
        net[1],
        [net[1]],
        up.list_layers(net, example=torch.ones(1, 3, 8, 8))[1],
    ):
        assert list(up.record(net, stimuli, layers=layers, progress=False).children) == ["1"]
        assert list(up.ablate(net, stimuli, layers=layers, progress=False).children) == ["1"]
        assert list(up.attribute(net, stimuli, layers=layers, progress=False).children) == ["1"]
        analysis = up.analyze(net, stimuli, layers=layers, metrics=["gini"], progress=False)
        assert list(analysis.children) == ["1"]
        with up.SelectivityRegularizer(net, layers) as regularizer:
            net(torch.rand(6, 3, 8, 8))
            regularizer(torch.tensor([0, 1, 2] * 2))
        assert list(regularizer.layer_selectivity) == ["1"]


def test_blocks_are_the_outputs_of_repeated_blocks(resnet, layers):
    expected = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert names(resnet, layers, "blocks") == expected


@pytest.mark.parametrize(
    ("model", "first", "count"),
    [
        ("resnet18", "layer1.0", 8),
        ("vit_tiny_patch16_224", "blocks.0", 12),
        ("convnext_atto", "stages.0.blocks.0", 12),
        ("mixer_s32_224", "blocks.0", 8),
        ("regnetx_002", "s1.b1", 13),
    ],
)
def test_blocks_of_timm_networks(model, first, count):
    module = timm.create_model(model, pretrained=False)
    blocks = select_layers(module, list_layers(module), "blocks")
    assert (blocks[0].name, len(blocks)) == (first, count)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "googlenet",
            [f"inception{b}" for b in ("3a", "3b", *(f"4{i}" for i in "abcde"), "5a", "5b")],
        ),
        (
            "inception_v3",
            [f"Mixed_{b}" for b in ("5b", "5c", "5d", *(f"6{i}" for i in "abcde"))]
            + [f"Mixed_7{i}" for i in "abc"],
        ),
    ],
)
def test_blocks_of_inception_networks_are_the_inception_blocks(name, expected):
    module = torchvision.models.get_model(name, weights=None, init_weights=False).eval()
    blocks = select_layers(module, list_layers(module, input_size=(3, 96, 96)), "blocks")
    assert [layer.name for layer in blocks] == expected


def test_blocks_without_a_second_weight_count_where_there_are_no_others():
    def block():
        return nn.Sequential(Dense(6), Dense(6))

    class Dense(nn.Module):
        def __init__(self, units):
            super().__init__()
            self.linear, self.act = nn.Linear(units, units), nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(x))

    assert repeated_blocks(block()) == ["0", "1"]


def test_a_glob_a_list_and_a_function_choose_by_name(resnet, layers):
    assert names(resnet, layers, "layer3.?.relu_1") == [f"layer3.{i}.relu_1" for i in range(3)]
    assert names(resnet, layers, ["linear", "conv1", "conv1"]) == ["conv1", "linear"]
    assert names(resnet, layers, lambda layer: layer.units == 10) == ["linear"]


def test_an_unknown_name_lists_the_nearest(resnet, layers):
    with pytest.raises(LayerNotFoundError, match=r"'layer1.0.rellu'.*layer1\.0\.relu\b") as caught:
        names(resnet, layers, ["conv1", "layer1.0.rellu"])
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_an_absent_kind_lists_the_kinds_there_are(resnet, layers):
    with pytest.raises(
        LayerNotFoundError, match=r"no layer of kind 'gelu'; its kinds are .*relu \(19\)"
    ):
        names(resnet, layers, "kind:gelu")


@pytest.mark.parametrize("selection", [[], lambda layer: False])
def test_selecting_nothing_is_an_error(resnet, layers, selection):
    with pytest.raises(LayerNotFoundError):
        names(resnet, layers, selection)


def test_no_repeated_block_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(LayerNotFoundError, match="no repeated block"):
        select_layers(model, list_layers(model, input_size=(3, 8, 8)), "blocks")


def test_a_layer_without_units_cannot_be_chosen_and_is_never_dropped_silently():
    model = networks.TinyAttention()
    listed = list_layers(model)
    with pytest.raises(LayerError, match="'softmax'"):
        select_layers(model, listed, "softmax")
    with pytest.warns(UnitprobeWarning, match="2 of 3 layers are left out"):
        kept = select_layers(model, listed, ["matmul*", "softmax"])
    assert [layer.name for layer in kept] == ["matmul_1"]
