"""A nonlinearity that is made of operations is one nonlinearity."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import unitprobe as up


class Act(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Network(nn.Module):
    def __init__(self, function, inline):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.act = function if inline else Act(function)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def gelu_new(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


def gelu_fast(x):
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


COMPOSED = {
    "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), "gelu"),
    "gelu_new": (gelu_new, "gelu"),
    "gelu_fast": (gelu_fast, "gelu"),
    "gelu_erf": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), "gelu"),
    "relu2": (lambda x: F.relu(x) ** 2, "relu2"),
    "relu_squared": (lambda x: torch.square(F.relu(x)), "relu2"),
    "silu": (lambda x: x * torch.sigmoid(x), "silu"),
    "silu_in_place": (lambda x: x.mul_(x.sigmoid()), "silu"),
    "silu_of_exp": (lambda x: x / (1 + torch.exp(-x)), "silu"),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "mish"),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, "hardswish"),
    "leaky": (lambda x: torch.where(x > 0, x, 0.1 * x), "nonlinearity"),
    "leaky_max": (lambda x: torch.max(x, 0.1 * x), "nonlinearity"),
}


@pytest.mark.parametrize("inline", [False, True], ids=["module", "inline"])
@pytest.mark.parametrize("name", COMPOSED)
def test_the_whole_function_is_recorded_and_not_its_gate(name, inline):
    function, kind = COMPOSED[name]
    network, images = Network(function, inline).eval(), torch.randn(2, 3, 6, 6)
    with up.Probe(network, pool="none") as probe:
        responses = probe(images)
    (layer,) = probe.layers
    assert layer.kind == kind
    assert inline or layer.name == "act"
    with torch.no_grad():
        expected = function(network.conv(images))
    torch.testing.assert_close(responses[layer.name], expected)
    parts = [each for each in up.list_layers(network, example=images) if each.part_of]
    assert {each.part_of for each in parts} == {layer.name}
    assert {"conv", "head", layer.name}.isdisjoint(each.name for each in parts)


@pytest.mark.parametrize("name", ["quick_gelu", "relu2", "gelu_new"])
@pytest.mark.parametrize("inline", [False, True])
def test_both_engines_and_every_mode_ablate_the_whole_function(name, inline):
    network = Network(COMPOSED[name][0], inline).eval()
    images = torch.randn(12, 3, 6, 6)
    stimuli = up.Stimuli(images.numpy(), [0, 1, 2] * 4)
    by_engine = [
        up.ablate(network, stimuli, method=method, progress=False)
        for method in ("full", "partial_forward")
    ]
    (layer,) = by_engine[0].children
    losses = [tree[layer]["loss_increase"].values for tree in by_engine]
    labels = torch.tensor([0, 1, 2] * 4)
    with torch.no_grad():
        units = network.act(network.conv(images)).mean((2, 3))
        intact = F.cross_entropy(network.head(units), labels)
        for unit in range(4):
            silent = units.clone()
            silent[:, unit] = 0
            expected = float(F.cross_entropy(network.head(silent), labels) - intact)
            assert [loss[unit] for loss in losses] == pytest.approx([expected] * 2, abs=1e-5)
    assert list(up.ablate(network, stimuli, mode="weights", progress=False).children) == [layer]


def activations(module, images):
    with up.Probe(module, pool="none") as probe:
        probe(images)
    return [layer.name for layer in probe.layers]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = nn.Linear(4, 12)

    def forward(self, x):
        gate, value = self.both(x).chunk(2, dim=-1)
        return F.silu(gate) * value + torch.sigmoid(gate) * self.both(x)[:, :6]


def test_a_gate_of_another_tensor_is_a_nonlinearity_by_itself():
    assert activations(Gated(), torch.randn(3, 4)) == ["silu", "sigmoid"]


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        rectified = torch.relu(self.first(x))
        return self.second(rectified) + self.second(rectified * rectified)


def test_a_part_that_is_also_used_by_itself_stays_a_nonlinearity():
    assert activations(UsedTwice(), torch.randn(3, 4)) == ["relu", "mul"]


class HardSigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU6()

    def forward(self, x):
        return self.relu(x + 3) / 6


class HardSwish(nn.Module):
    def __init__(self):
        super().__init__()
        self.sigmoid = HardSigmoid()

    def forward(self, x):
        return x * self.sigmoid(x)


def test_modules_inside_modules_are_one_nonlinearity():
    images = torch.randn(3, 4)
    assert activations(nn.Sequential(nn.Linear(4, 4), HardSwish()), images) == ["1"]
    assert activations(nn.Sequential(nn.Linear(4, 4), HardSigmoid()), images) == ["1"]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        x = self.linear(x)
        return 2 * self.relu(x + self.linear(self.relu(x)))


def test_plain_nonlinearities_stay_as_they_are():
    assert activations(Residual(), torch.randn(3, 4)) == ["relu", "relu_1"]


@pytest.mark.slow
def test_the_nonlinearity_of_clip_is_whole():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    model = transformers.CLIPVisionModel(config).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = []
    for module in model.modules():
        if type(module).__name__ == "QuickGELUActivation":
            module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    with up.Probe(model, pool="none") as probe:
        responses = list(probe(images).values())
    seen = seen[-2:]
    assert len(responses) == 2
    for response, whole in zip(responses, seen, strict=True):
        torch.testing.assert_close(response, whole)
