"""Wrapped, compiled and parametrized networks have the names and numbers of the plain one."""

import copy

import networks
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from unitprobe import Probe, list_layers
from unitprobe.layers import inside

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def responses(model, layers="activations"):
    with Probe(model, layers) as probe:
        return probe(IMAGES)


def names(model):
    return [layer.name for layer in list_layers(model, example=IMAGES)]


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def with_stage(wrap):
    def wrapped(model):
        model.layer2 = wrap(model.layer2)
        return model

    return wrapped


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "torch.compile": compiled,
    "module.compile": compiled_in_place,
    "both": lambda model: nn.DataParallel(compiled(model)),
    "a stage in DataParallel": with_stage(nn.DataParallel),
    "a compiled stage": with_stage(compiled),
    "a stage compiled in place": with_stage(compiled_in_place),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_network_has_the_names_and_numbers_of_the_network_inside(wrapper):
    plain = networks.ResNet20().eval()
    wrapped = WRAPPERS[wrapper](copy.deepcopy(plain))
    assert names(wrapped) == names(plain)
    expected, seen = responses(plain), responses(wrapped)
    assert list(seen) == list(expected)
    for name, response in seen.items():
        assert torch.equal(response, expected[name])
    assert networks.count_hooks(wrapped) == 0


def test_a_network_that_was_compiled_before_is_watched_all_the_same():
    plain = networks.ResNet20().eval()
    wrapped = compiled(copy.deepcopy(plain))
    with torch.no_grad():
        before = wrapped(IMAGES)
        seen = responses(wrapped, "layer3.*.relu*")
        assert torch.equal(wrapped(IMAGES), before)
    for name, response in responses(plain, "layer3.*.relu*").items():
        assert torch.equal(seen[name], response)


def test_blocks_and_the_stated_size_are_those_of_the_network_inside():
    model = timm.create_model("resnet10t", pretrained=False)
    wrapped = nn.DataParallel(model)
    assert inside(wrapped) is model
    plain = [layer.name for layer in list_layers(model)]
    assert [layer.name for layer in list_layers(wrapped)] == plain
    with Probe(wrapped, "blocks") as probe:
        probe.resolve(torch.zeros(1, 3, 64, 64))
    assert [layer.name for layer in probe.layers] == [f"layer{i}.0" for i in (1, 2, 3, 4)]


class Squared(nn.Module):
    def forward(self, weight):
        return torch.tanh(weight) ** 2


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "a parametrization": lambda m: parametrize.register_parametrization(m, "weight", Squared()),
    "old weight_norm": torch.nn.utils.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_a_parametrized_network_has_the_names_of_the_plain_one(kind):
    plain = networks.ResNet20()
    model = copy.deepcopy(plain)
    for block in model.layer2:
        PARAMETRIZATIONS[kind](block.conv1)
    PARAMETRIZATIONS[kind](model.linear)
    model.eval()
    assert names(model) == names(plain)
    layers = {layer.name: layer for layer in list_layers(model, example=IMAGES)}
    assert (layers["layer2.0.conv1"].kind, layers["linear"].kind) == ("conv", "linear")
    seen = responses(model, ["layer2.0.conv1", "layer2.0.relu"])
    with torch.no_grad():
        stem = torch.relu(model.bn1(model.conv1(IMAGES)))
        expected = model.layer2[0].conv1(model.layer1(stem)).mean((2, 3))
    torch.testing.assert_close(seen["layer2.0.conv1"], expected, rtol=0, atol=1e-6)


def test_blocks_of_a_parametrized_network_are_those_of_the_plain_one():
    model = networks.ResNet20()
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            parametrizations.weight_norm(module)
    with Probe(model, "blocks") as probe:
        probe.resolve(IMAGES)
    assert [la.name for la in probe.layers] == [
        f"layer{s}.{b}" for s in (1, 2, 3) for b in range(3)
    ]


def test_a_module_shared_between_parents_has_a_name_for_each_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.one = nn.Sequential(self.conv, nn.ReLU(inplace=True))
            self.two = nn.Sequential(self.conv, nn.ReLU(inplace=True))

        def forward(self, x):
            return self.two(self.one(x))

    model = Shared().eval()
    assert names(model) == ["conv", "one.1", "one", "conv_1", "two.1", "two"]
    with Probe(model, ["conv*", "*.1"], pool="none") as probe:
        seen = probe(IMAGES)
    with torch.no_grad():
        first = model.conv(IMAGES)
        second = model.conv(first.relu())
    for name, value in (("conv", first), ("one.1", first.relu()), ("conv_1", second)):
        assert torch.equal(seen[name], value)
