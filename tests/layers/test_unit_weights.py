"""Weight norms against the weights themselves, wherever a network hides who reads whom."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from unitprobe.errors import LayerNotFoundError
from unitprobe.layers import weight_norms

NAMES = ["incoming_l1", "incoming_l2", "outgoing_l1", "outgoing_l2"]


def norms(*parts, axis):
    """L1 and L2 over all but one axis of several weights together."""
    rows = torch.cat([p.detach().double().movedim(axis, 0).flatten(1) for p in parts], dim=1)
    return rows.abs().sum(1).numpy(), rows.square().sum(1).sqrt().numpy()


def same(dataset, incoming=None, outgoing=None):
    assert list(dataset) == NAMES
    for side, expected in (("incoming", incoming), ("outgoing", outgoing)):
        for norm, values in zip(("l1", "l2"), expected or (None, None), strict=True):
            found = dataset[f"{side}_{norm}"]
            assert found.dims == ("unit",)
            if values is None:
                assert found.isnull().all(), f"{side}_{norm}"
            else:
                np.testing.assert_allclose(found, values, rtol=1e-6)


def test_a_plain_network_from_convolution_to_flattened_linear_layer():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(),
        nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.GELU(), nn.Linear(7, 2),
    )  # fmt: skip
    found = weight_norms(net, layers=["*"], example=torch.rand(1, 3, 10, 10))
    into, between = norms(net[0].weight, axis=0), norms(net[5].weight, axis=1)
    for name in "01234":
        same(found[name], into, between)
    # Five units at 2 x 2 positions each.
    out = norms(net[8].weight.reshape(7, 5, 4), axis=1)
    same(found["6"], norms(net[5].weight, axis=0), out)
    same(found["9"], norms(net[8].weight, axis=0), norms(net[10].weight, axis=1))
    same(found["10"], norms(net[10].weight, axis=0))
    assert list(found) == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


def test_grouped_and_transposed_convolutions():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 6, 1, groups=6), nn.ReLU(),
    )  # fmt: skip
    found = weight_norms(net, layers="kind:relu", example=torch.rand(2, 3, 8, 8))

    def dense(weight, groups):
        rows, columns = weight.shape[0] // groups, weight.shape[1]
        whole = torch.zeros(groups * rows, groups * columns, *weight.shape[2:])
        for g in range(groups):
            whole[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = weight[
                g * rows : (g + 1) * rows
            ]
        return whole

    grouped, transposed = dense(net[2].weight, 2), dense(net[4].weight, 2)
    depthwise = dense(net[6].weight, 6)
    same(found["1"], norms(net[0].weight, axis=0), norms(grouped, axis=1))
    same(found["3"], norms(grouped, axis=0), norms(transposed, axis=0))
    same(found["5"], norms(transposed, axis=1), norms(depthwise, axis=1))
    same(found["7"], norms(depthwise, axis=0))


def test_a_residual_network_has_no_incoming_norm_after_a_sum():
    net = networks.ResNet20()
    found = weight_norms(net, example=torch.rand(1, 3, 32, 32))
    assert len(found) == 19
    one, two = net.layer1[0], net.layer2[0]
    same(found["relu"], norms(net.conv1.weight, axis=0), norms(one.conv1.weight, axis=1))
    same(found["layer1.0.relu"], norms(one.conv1.weight, axis=0), norms(one.conv2.weight, axis=1))
    same(found["layer1.0.relu_1"], None, norms(net.layer1[1].conv1.weight, axis=1))
    # Read by a shortcut that pads units, too, which goes into a sum and is not counted.
    same(found["layer1.2.relu_1"], None, norms(two.conv1.weight, axis=1))
    same(found["layer3.2.relu_1"], None, norms(net.linear.weight, axis=1))


def test_several_readers_are_taken_together_and_only_those_of_the_layer():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
            self.a, self.b = nn.Conv2d(4, 5, 3), nn.Conv2d(4, 6, 1)

        def forward(self, x):
            x = self.first(x)
            y = torch.relu(x)
            return self.a(y).mean() + self.b(x).mean() + self.head(y.mean((2, 3)))

    net = Branches()
    found = weight_norms(net, layers=["first", "relu"], example=torch.rand(1, 3, 6, 6))
    into = norms(net.first.weight, axis=0)
    same(found["relu"], into, norms(net.a.weight.flatten(2).movedim(1, 0).flatten(1),
                                    net.head.weight.movedim(1, 0), axis=0))  # fmt: skip
    everything = [w.movedim(1, 0).flatten(1) for w in (net.a.weight, net.b.weight, net.head.weight)]
    same(found["first"], into, norms(*everything, axis=0))


def test_a_vision_transformer_block():
    torch.manual_seed(0)
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=3, num_classes=4
    )
    layers = ["blocks.1.mlp.act", "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.1", "patch_embed"]
    found = weight_norms(net, layers=layers, example=torch.rand(1, 3, 16, 16))
    mlp, first = net.blocks[1].mlp, net.blocks[0]
    same(
        found["blocks.1.mlp.act"],
        norms(mlp.fc1.weight, axis=0),
        norms(mlp.fc2.weight, axis=1),
    )
    same(found["blocks.0.norm1"], None, norms(first.attn.qkv.weight, axis=1))
    # Queries, keys and values are read by products of activations alone.
    same(found["blocks.0.attn.qkv"], norms(first.attn.qkv.weight, axis=0))
    same(found["blocks.1"], None, norms(net.head.weight, axis=1))


class Rearranges(nn.Module):
    def __init__(self, rearrange, units=6):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(units, 4, 1)
        self.rearrange = rearrange

    def forward(self, x):
        return self.second(self.rearrange(torch.relu(self.first(x))))


def test_units_in_another_order_are_found_again():
    order = torch.tensor([4, 0, 3, 5, 1, 2])
    net = Rearranges(lambda x: x[:, order].flip(1))
    found = weight_norms(net, layers="kind:relu", example=torch.rand(1, 3, 5, 5))["relu"]
    place = torch.argsort(order.flip(0))
    same(found, norms(net.first.weight, axis=0), norms(net.second.weight[:, place], axis=1))


@pytest.mark.parametrize(
    ("rearrange", "units"),
    [
        (lambda x: x.chunk(2, 1)[0], 3),
        (lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), 6),
        (lambda x: x.mean(1, keepdim=True), 1),
        (lambda x: x.index_select(1, torch.tensor([4, 0, 3, 5, 1, 2])), 6),
    ],
    ids=["split", "shuffled between groups", "averaged", "selected by a tensor"],
)
def test_units_that_are_lost_on_the_way_have_no_norms(rearrange, units):
    net = Rearranges(rearrange, units)
    found = weight_norms(net, layers="kind:relu", example=torch.rand(1, 3, 5, 5))["relu"]
    same(found, norms(net.first.weight, axis=0))


def test_weights_of_another_kind_have_no_norms():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2)
            self.mix = nn.Parameter(torch.rand(5, 3))

        def forward(self, x):
            x = functional.relu(self.first(x))
            return self.second(x).sum() + x @ self.mix

    net = Product()
    found = weight_norms(net, layers="kind:relu", example=torch.rand(1, 4))["relu"]
    same(found, norms(net.first.weight, axis=0))


def test_the_network_is_left_as_it_was():
    net = networks.ReusedInPlace().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = weight_norms(net, example=torch.rand(1, 3, 8, 8))
    assert net.training
    assert networks.count_hooks(net) == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    same(found["relu"], norms(net.conv1.weight, axis=0), norms(net.conv2.weight, axis=1))
    same(found["relu_1"], None, norms(net.head.weight, axis=1))


class Forked(nn.Module):
    """Stimuli above and below a threshold go through different layers, then through one."""

    def __init__(self):
        super().__init__()
        self.first, self.above, self.below = nn.Linear(3, 4), nn.ReLU(), nn.Tanh()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        features = self.first(x)
        return self.last(self.above(features) if float(x.sum()) > 0 else self.below(features))


def test_what_the_pass_does_not_reach_is_not_known():
    net = Forked()
    example = torch.stack([torch.full((3,), 2.0), torch.full((3,), -1.0)])
    found = weight_norms(net, layers=["above", "below"], example=example)
    same(found["above"], norms(net.first.weight, axis=0), norms(net.last.weight, axis=1))
    same(found["below"])


def test_an_unknown_layer_is_refused():
    with pytest.raises(LayerNotFoundError, match="no layer of Sequential is named 'x'"):
        weight_norms(nn.Sequential(nn.Linear(2, 2)), layers="x", example=torch.rand(1, 2))
