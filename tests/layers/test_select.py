import networks
import pytest
import timm
import torchvision
from torch import nn

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


def test_a_kind_takes_all_of_that_kind_even_if_a_layer_has_its_name(resnet, layers):
    assert len(names(resnet, layers, "relu")) == 19
    assert names(resnet, layers, "linear") == ["linear"]


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
        names(resnet, layers, "gelu")


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
