import networks
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from unitprobe import list_layers
from unitprobe.errors import ModelError
from unitprobe.layers import NONLINEARITIES


def by_name(model, **options):
    return {layer.name: layer for layer in list_layers(model, **options)}


def test_every_functional_relu_of_a_resnet20_has_an_address():
    layers = by_name(networks.ResNet20(), input_size=(3, 32, 32))
    relus = [name for name, layer in layers.items() if layer.kind == "relu"]
    blocks = [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1, 2)]
    assert relus == ["relu", *(f"{b}.relu{k}" for b in blocks for k in ("", "_1"))]


def test_later_calls_of_a_module_and_of_an_operation_are_numbered(reused):
    layers = by_name(reused)
    assert (layers["relu"].call, layers["relu_1"].call) == (0, 1)
    assert layers["add"].operation == "add"


def test_a_module_keeps_its_name_where_an_operation_would_take_it():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.relu_1 = nn.ReLU()

        def forward(self, x):
            return self.relu_1(self.relu(torch.relu(self.relu(x)) - 1) * 2)

    names = [layer.name for layer in list_layers(Clash(), input_size=(3, 4, 4))]
    assert names == ["relu", "relu_2", "sub", "relu_3", "mul", "relu_1"]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "vgg11", "densenet121"])
def test_names_of_activations_are_those_of_the_torchvision_graph(name):
    model = torchvision.models.get_model(name, weights=None).eval()
    layers = list_layers(model, input_size=(3, 64, 64))
    ours = [layer.name for layer in layers if layer.kind in NONLINEARITIES]
    graph = get_graph_node_names(model)[1]
    assert [node for node in graph if node in ours] == ours
    assert len(ours) == len(set(ours)) > 0


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("resnet10t", {1}),
        ("convnext_atto", {1}),  # maps, its MLP as 1x1 convolutions
        ("convnext_tiny", {-1}),  # (stimulus, y, x, unit) inside its blocks
        ("vit_tiny_patch16_224", {-1}),
        ("mixer_s32_224", {-1}),
    ],
)
def test_the_unit_axis_of_activations_follows_what_produced_them(name, axes):
    model = timm.create_model(name, pretrained=False)
    layers = [layer for layer in list_layers(model) if layer.kind in NONLINEARITIES]
    assert {layer.unit_axis for layer in layers} == axes
    assert all(layer.shape[layer.unit_axis] == layer.units for layer in layers)


def test_the_unit_axis_follows_heads_through_an_attention():
    layers = by_name(networks.TinyAttention())
    assert layers["patch"].unit_axis == 1
    assert layers["transpose"].unit_axis == -1  # patches become tokens
    assert layers["unbind"].unit_axis == -1 if "unbind" in layers else True
    assert layers["matmul"].unit_axis is None  # attention weights have no units
    assert (layers["matmul_1"].shape, layers["matmul_1"].unit_axis) == ((1, 3, 4, 4), -1)
    assert (layers["reshape_1"].shape, layers["reshape_1"].unit_axis) == ((1, 4, 12), -1)
    assert (layers["gelu"].units, layers["mean"].units) == (20, 20)


def test_flattened_maps_have_a_unit_for_every_position():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.ReLU())
    layers = by_name(model, input_size=(3, 6, 6))
    assert (layers["2"].units, layers["2"].unit_axis) == (5 * 4 * 4, -1)


def test_the_shape_has_the_stimulus_axis_of_the_example(reused):
    assert by_name(reused)["conv1"].shape == (1, 6, 8, 8)
    assert by_name(reused, example=torch.zeros(5, 3, 8, 8))["conv1"].shape == (5, 6, 8, 8)


def test_listing_leaves_the_network_as_it_was():
    model = networks.ResNet20().train()
    model.layer2.eval()
    flags = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    list_layers(model, input_size=(3, 32, 32))
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert networks.count_hooks(model) == 0


def test_an_input_of_unknown_size_is_asked_for():
    with pytest.raises(ModelError, match=r"pass input_size=\(channels, height, width\)"):
        list_layers(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_an_input_of_the_wrong_size_is_named_with_the_reason():
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    with pytest.raises(ModelError, match=r"shape \(1, 3, 64, 64\).*224") as caught:
        list_layers(model, input_size=(3, 64, 64))
    assert "\n" not in str(caught.value)
    assert networks.count_hooks(model) == 0


def test_values_seen_are_those_of_the_torchvision_graph_extractor():
    # Without in-place operations the graph extractor is right, and an independent reference.
    model = torchvision.models.resnet18(weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    from unitprobe import Probe

    images = torch.randn(2, 3, 64, 64)
    with Probe(model, "activations", pool="none") as probe:
        ours = probe(images)
    extractor = create_feature_extractor(model, list(ours))
    with torch.no_grad():
        theirs = extractor(images)
    assert len(ours) == 17
    for name, activation in ours.items():
        torch.testing.assert_close(activation, theirs[name], rtol=0, atol=1e-6)


def test_stimuli_are_followed_into_windows_and_out_again():
    layers = by_name(networks.Windows())
    inside = layers["inside"]
    assert (inside.shape, inside.unit_axis, inside.stimuli) == ((1, 4, 16, 6), -1, (0, 1, 4))
    assert inside.position_dims == ("window", "token")
    assert (layers["relu"].unit_axis, layers["relu"].units) == (-1, 6)
    assert (layers["reshape_1"].unit_axis, layers["reshape_1"].units) == (-1, 6)
    assert (layers["relu_1"].unit_axis, layers["relu_1"].units) == (-1, 10)


def test_units_of_a_product_are_those_that_are_not_summed_over():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Conv2d(3, 15, 1)

        def forward(self, x):
            q, k, v = self.qkv(x).flatten(2).chunk(3, 1)  # (stimulus, unit, position)
            weights = (q.transpose(1, 2) @ k).softmax(-1)
            return torch.relu(v @ weights.transpose(1, 2))

    layers = by_name(Mixed(), input_size=(3, 4, 4))
    assert layers["matmul"].unit_axis is None
    assert (layers["relu"].unit_axis, layers["relu"].units) == (1, 5)


def test_stimuli_are_followed_through_convolutions_of_their_own():
    class Conditional(nn.Module):
        """Each stimulus is convolved with weights of its own: one group of a convolution."""

        def __init__(self):
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Linear(8, 5 * 8)

        def forward(self, x):
            x = self.stem(x)
            n, size = len(x), x.shape[2:]
            weights = self.mix(x.mean((2, 3))).view(n * 5, 8, 1, 1)
            x = nn.functional.conv2d(x.reshape(1, n * 8, *size), weights, groups=n)
            return torch.relu(x.view(n, 5, *size))

    layer = by_name(Conditional(), input_size=(3, 4, 4))["relu"]
    assert (layer.shape, layer.unit_axis, layer.units) == ((1, 5, 4, 4), 1, 5)


def activation_of(forward, **modules):
    """The only ReLU of a network with this forward pass."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return torch.relu(forward(self, x))

    return by_name(Network(), input_size=(3, 8, 8))["relu"]


def test_a_norm_keeps_the_axis_of_the_units():
    conv, norm = nn.Conv2d(3, 6, 3), nn.LayerNorm([6, 6, 6])
    layer = activation_of(lambda net, x: net.norm(net.conv(x)), conv=conv, norm=norm)
    assert (layer.unit_axis, layer.units) == (1, 6)


def test_einsum_is_followed_where_it_can_be_and_never_guessed():
    conv = nn.Conv2d(3, 6, 3)
    moved = activation_of(lambda net, x: torch.einsum("bchw->bhwc", net.conv(x)), conv=conv)
    assert (moved.unit_axis, moved.units) == (-1, 6)
    weight = torch.rand(6, 6)
    mixed = activation_of(
        lambda net, x: torch.einsum("bchw,oc->bhwo", net.conv(x), weight), conv=conv
    )
    assert (mixed.unit_axis, mixed.units) == (-1, 6)
    again = activation_of(
        lambda net, x: net.last(torch.einsum("bchw,oc->bohw", net.conv(x), weight)),
        conv=conv,
        last=nn.Conv2d(6, 5, 1),
    )
    assert (again.unit_axis, again.units) == (1, 5)


def test_the_larger_of_two_activations_has_their_axis():
    layer = activation_of(
        lambda net, x: torch.max(net.a(x), net.b(x)), a=nn.Conv2d(3, 5, 3), b=nn.Conv2d(3, 5, 3)
    )
    assert (layer.unit_axis, layer.units) == (1, 5)


def test_an_axis_moved_in_place_is_not_known_and_no_error():
    layer = activation_of(
        lambda net, x: net.conv(x).flatten(2).transpose_(1, 2), conv=nn.Conv2d(3, 5, 3)
    )
    assert layer.unit_axis is None


def test_an_activation_behind_something_that_cannot_be_followed_is_listed_as_such():
    layer = activation_of(
        lambda net, x: torch.from_numpy(net.conv(x).numpy() * 2), conv=nn.Conv2d(3, 5, 3)
    )
    assert layer.unit_axis is None


def test_a_sum_over_branches_keeps_stimuli_and_units():
    layer = activation_of(
        lambda net, x: torch.stack([net.a(x), net.b(x)], 1).sum(1),
        a=nn.Conv2d(3, 5, 3),
        b=nn.Conv2d(3, 5, 3),
    )
    assert (layer.unit_axis, layer.units) == (1, 5)


def test_a_gate_leaves_half_of_the_units():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GLU(dim=1))
    gated = list_layers(network, input_size=(3, 6, 6))[1]
    assert (gated.kind, gated.shape, gated.unit_axis, gated.units) == ("glu", (1, 4, 4, 4), 1, 4)


def test_a_name_has_no_slash_which_would_be_a_group_in_a_file():
    network = nn.Sequential()
    network.add_module("a/b", nn.Linear(4, 3))
    network.add_module("a_b", nn.Linear(3, 2))
    layers = list_layers(network, example=torch.zeros(2, 4))
    assert [(layer.name, layer.owner) for layer in layers] == [("a_b_1", "a/b"), ("a_b", "a_b")]


class DepthToSpace(nn.Module):
    def forward(self, maps):
        n, units, y, x = maps.shape
        apart = maps.view(n, 2, 2, units // 4, y, x)
        return apart.permute(0, 3, 4, 1, 5, 2).reshape(n, units // 4, 2 * y, 2 * x)


@pytest.mark.parametrize(
    ("shuffle", "size"),
    [(nn.PixelShuffle(2), 1), (nn.PixelShuffle(2), 5), (DepthToSpace(), 2), (DepthToSpace(), 5)],
)
def test_units_moved_to_positions_leave_the_axis_of_the_others(shuffle, size):
    network = nn.Sequential(nn.Conv2d(3, 12, 1), shuffle, nn.ReLU())
    last = list_layers(network, input_size=(3, size, size))[-1]
    assert (last.name, last.units, last.unit_axis) == ("2", 3, 1)


class WrittenOut(nn.Module):
    """A convolution as a product of its weight with the patches of the map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, images):
        count, _, height, width = images.shape
        patches = functional.unfold(images, 3)
        maps = self.conv.weight.flatten(1) @ patches + self.conv.bias[:, None]
        return torch.tanh(maps.view(count, 5, height - 2, width - 2))


def test_a_convolution_written_out_has_the_units_of_a_convolution():
    network, images = WrittenOut(), torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(network(images), torch.tanh(network.conv(images)))
    last = list_layers(network, example=images)[-1]
    assert (last.name, last.kind, last.units, last.unit_axis) == ("tanh", "tanh", 5, 1)


class Local(nn.Module):
    """Each channel weighs its own neighbourhood: units split from positions of patches."""

    def forward(self, images):
        count, channels, height, width = images.shape
        patches = functional.unfold(images, 3, padding=1).view(count, channels, 9, height, width)
        return torch.relu((patches * patches.softmax(2)).sum(2))


class Transposed(nn.Module):
    def forward(self, patches):
        return patches.transpose(1, 2)


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize(
    ("patches", "units", "unit_axis"),
    [
        (nn.Unfold(1), 5, 1),
        (nn.Unfold(3, padding=1), 45, 1),
        (nn.Sequential(nn.Unfold(3, padding=1), Transposed(), nn.Linear(45, 7)), 7, -1),
        (Local(), 5, 1),
    ],
)
def test_patches_of_a_map_hold_every_unit_at_every_position(patches, units, unit_axis, size):
    network = nn.Sequential(nn.Conv2d(3, 5, 1), patches, nn.ReLU())
    last = list_layers(network, input_size=(3, size, size))[-1]
    assert (last.name, last.units, last.unit_axis) == ("2", units, unit_axis)


def test_patches_folded_to_a_map_again_have_its_channels():
    there, back = nn.Unfold(3, padding=1), nn.Fold((6, 6), 3, padding=1)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), there, back, nn.ReLU())
    last = list_layers(network, input_size=(3, 6, 6))[-1]
    assert (last.name, last.units, last.unit_axis) == ("3", 5, 1)


class Einsum(nn.Module):
    def __init__(self, equation, *sizes):
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.randn(sizes))

    def forward(self, maps):
        return torch.einsum(self.equation, maps, self.weight).relu()


def test_units_are_never_wrong_in_other_forms_of_einsum():
    conv, weight = nn.Conv2d(3, 6, 3), torch.rand(6, 6)
    numbered = activation_of(
        lambda net, x: torch.einsum(net.conv(x), [0, 1, 2, 3], weight, [4, 1], [0, 4, 2, 3]),
        conv=conv,
    )
    assert (numbered.unit_axis, numbered.units) in [(None, None), (1, 6)]
    for forward in (
        lambda net, x: torch.einsum("bchw,oc", net.conv(x), weight),
        lambda net, x: torch.einsum("bchw,bchw->bh", [net.conv(x)] * 2),
    ):
        assert activation_of(forward, conv=conv).unit_axis is None


@pytest.mark.parametrize(
    ("equation", "sizes", "units", "unit_axis"),
    [
        ("nchw, oc -> nohw", (7, 5), 7, 1),
        ("nchw,co->nhwo", (5, 7), 7, -1),
        ("nchw,ckd->nhwkd", (5, 2, 7), 7, -1),  # two heads of seven units
        ("nchw,hk->nckw", (6, 7), 5, 1),  # positions are mixed, and the units kept
        ("nchw,c->nhw", (5,), None, None),
        ("nc...,oc->no...", (7, 5), None, None),
    ],
)
def test_a_weight_in_an_einsum_makes_units_of_its_own_axis(equation, sizes, units, unit_axis):
    network = nn.Sequential(nn.Conv2d(3, 5, 1), Einsum(equation, *sizes))
    layer = by_name(network, input_size=(3, 6, 6))["1.relu"]
    assert (layer.units, layer.unit_axis) == (units, unit_axis)
