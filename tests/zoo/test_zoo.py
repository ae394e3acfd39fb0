"""Every family of timm and torchvision, against plain forward hooks and a mode of its own.

A short row of networks runs by default; ``pytest -m zoo tests/zoo`` runs one of every family, with
ZOO_SECONDS as many as fit in that time.
"""

import functools
import gc
import itertools
import os
import time

import members
import networks
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from unitprobe import Probe
from unitprobe.layers import NONLINEARITIES, find_layers

IMAGES = 4
SIZES = (64, 96, 112, 128, 160, 192, 224)
END = time.monotonic() + float(os.environ.get("ZOO_SECONDS", "inf"))

#: The axis along which a module makes channels.
MAKERS = {nn.Conv2d: 1, nn.BatchNorm2d: 1, nn.Linear: -1}

#: Why some nonlinearities of a network have no known units.
WITHOUT_UNITS = {}

SHORT = [
    *("timm:resnet", "timm:vision_transformer", "timm:convnext", "torchvision:swin_t"),
    *("timm:mlp_mixer", "timm:sequencer", "torchvision:googlenet", "torchvision:squeezenet1_1"),
]
FULL = [f"timm:{family}" for family in timm.list_modules()]
FULL += [f"torchvision:{name}" for name in members.TORCHVISION]


def build(name):
    source, _, name = name.partition(":")
    if source == "torchvision":
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **options).eval()
    member = members.TIMM.get(name) or timm.list_models(module=name)[0]
    return timm.create_model(member, pretrained=False).eval()


def images_for(model):
    """Noise of the smallest size that the network takes."""
    own = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    for size in (*SIZES, own[-1]):
        images = torch.randn(IMAGES, own[0], size, size)
        try:
            with torch.no_grad():
                model(images[:1])
        except Exception:  # each network refuses in its own way
            continue
        return images
    raise AssertionError(f"takes no size up to {own}")


class Reference(TorchFunctionMode):
    """Keeps a copy of every output: of modules by plain hooks, of nonlinear functions in order."""

    def __init__(self, model, wanted):
        super().__init__()
        self.model, self.wanted = model, wanted
        self.of_modules = {}
        self.of_functions = []
        self.unit_axes = {}  # by shape, of the last module that made channels of this shape

    def run(self, images):
        handles = []
        for path, module in self.model.named_modules():
            if type(module) in MAKERS:
                handles.append(module.register_forward_hook(self._made))
            if path in self.wanted:
                keep = functools.partial(self._keep, path)
                handles.append(module.register_forward_hook(keep))
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), self:
            self.model(images)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for handle in handles:
            handle.remove()
        return self

    def _made(self, module, _inputs, output):
        self.unit_axes[output.shape] = MAKERS[type(module)]

    def _keep(self, path, _module, _inputs, output):
        if isinstance(output, torch.Tensor):
            axis = self.unit_axes.get(output.shape)
            self.of_modules.setdefault(path, []).append((output.clone(), axis))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").strip("_")
        if name in NONLINEARITIES and isinstance(output, torch.Tensor):
            axis = self.unit_axes.get(output.shape)
            self.of_functions.append((output.clone(), axis))
        return output


def as_recorded(layer, computed):
    """What a Probe with pool="none" gives for a tensor (stimulus, ...)."""
    return computed.movedim(layer.unit_axis, 1) if len(layer.shape) > 3 else computed


def same_numbers(one, other, **tolerances):
    """Whether two tensors hold the same numbers in any order."""
    one, other = one.flatten().sort().values, other.flatten().sort().values
    return one.shape == other.shape and torch.allclose(one, other, equal_nan=True, **tolerances)


def matches(layer, recorded, reference):
    """Whether a recorded activation is a reference, (tensor, unit axis of what made it)."""
    computed, unit_axis = reference
    if computed.numel() != recorded.numel():
        return False
    if unit_axis is not None and layer.stimuli == (0, 1, 1):
        assert layer.unit_axis % computed.ndim == unit_axis % computed.ndim, layer
    if layer.stimuli == (0, 1, 1):
        return torch.equal(recorded, as_recorded(layer, computed))
    return same_numbers(recorded, computed, rtol=0, atol=0)


def check(model, images):
    layers, depend_on_data, warnings = find_layers(model, (images[:1],), {})
    assert not depend_on_data
    assert not warnings
    assert len({layer.name for layer in layers}) == len(layers)
    check_declared_units(model, layers)

    activations = [la for la in layers if la.kind in NONLINEARITIES and not la.part_of]
    usable = [layer for layer in activations if layer.units is not None]
    with Probe(model, [layer.name for layer in usable], pool="none") as probe:
        recorded = probe(images)
    assert list(recorded) == [layer.name for layer in usable]
    assert not model.training
    assert networks.count_hooks(model) == 0
    assert torch._C._len_torch_function_stack() == 0

    paths = {layer.owner for layer in usable if layer.operation is None}
    reference = Reference(model, paths).run(images)
    functions = iter(reference.of_functions)
    for layer in usable:
        seen = recorded[layer.name]
        assert len(seen) == IMAGES, layer
        assert seen.shape[-1 if seen.ndim == 3 and layer.unit_axis == -1 else 1] == layer.units
        if layer.operation is None:
            assert matches(layer, seen, reference.of_modules[layer.owner][layer.call]), layer
        elif layer.operation in NONLINEARITIES:  # a function: among those of its name, in order
            rest = itertools.dropwhile(
                lambda call, la=layer, seen=seen: not matches(la, seen, call), functions
            )
            assert next(rest, None) is not None, layer

    # The axis of the stimuli: one of them alone gives the numbers that it gives in the batch.
    alone = Reference(model, paths).run(images[2:3])
    for layer in usable:
        if layer.operation is None:
            value, _ = alone.of_modules[layer.owner][layer.call]
            scale = float(value.abs().max())
            close = same_numbers(recorded[layer.name][2], value, rtol=1e-3, atol=1e-4 * scale)
            assert close, layer
    check_stimulus_axes(model, images)
    return activations


def check_stimulus_axes(model, images):
    """Every layer with units: a stimulus alone has the responses that it has in a batch."""
    with Probe(model, lambda layer: layer.units is not None) as probe:
        together = probe(images)
        alone = probe(images[2:3])
    for layer in probe.layers:
        assert together[layer.name].shape == (IMAGES, layer.units), layer
        scale = float(alone[layer.name].abs().max())
        close = torch.allclose(
            together[layer.name][2], alone[layer.name][0], rtol=1e-3, atol=1e-3 * scale + 1e-6
        )
        assert close, layer


def check_declared_units(model, layers):
    """The unit axis against the channels that modules and timm's feature_info declare."""
    modules = dict(model.named_modules())
    for layer in layers:
        if layer.operation is None and layer.units is not None and not layer.output:
            module = modules[layer.owner]
            plain = isinstance(module, nn.Conv2d | nn.Linear)
            if plain:
                declared = getattr(module, "out_channels", None) or module.out_features
                assert layer.units == declared, layer
    by_name = {layer.name: layer for layer in layers}
    info = getattr(model, "feature_info", None)
    for feature in info if isinstance(info, list) else ():
        layer = by_name.get(feature.get("module", ""))
        if layer is not None and layer.units is not None:
            assert layer.units == feature["num_chs"], (layer, feature)


def run(name):
    torch.manual_seed(0)
    model = build(name)
    activations = check(model, images_for(model))
    without = [layer.name for layer in activations if layer.units is None]
    assert activations, "no nonlinearity"
    assert bool(without) == (name in WITHOUT_UNITS), without
    del model
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_short_row_of_networks(name):
    run(name)


@pytest.mark.zoo
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in FULL if name not in SHORT])
def test_one_network_of_every_family(name):
    if time.monotonic() > END:
        pytest.skip("ZOO_SECONDS are over")
    run(name)
