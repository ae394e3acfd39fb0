import networks
import pytest
import timm
import torch
from torch import nn

from unitprobe import Probe
from unitprobe.errors import LayerError, LayerNotFoundError, ModelError, OptionError


def plain_hooks(model, images, modules):
    """Literal forward hooks, each output copied at once: the reference."""
    kept, handles = {}, []
    for name in modules:
        handles.append(
            model.get_submodule(name).register_forward_hook(
                lambda _m, _i, output, name=name: (
                    kept.setdefault(name, output.clone()) is None or None
                )
            )
        )
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return kept


def test_responses_are_the_spatial_means_of_what_plain_hooks_see():
    model = timm.create_model("resnet10t", pretrained=False).eval()
    images = torch.randn(3, 3, 64, 64)
    with Probe(model) as probe:
        responses = probe(images)
    expected = plain_hooks(model, images, responses)
    assert len(responses) == 11
    for name, response in responses.items():
        torch.testing.assert_close(response, expected[name].mean((2, 3)), rtol=0, atol=1e-6)


def test_an_in_place_operation_does_not_reach_what_was_recorded_before(reused):
    images = torch.randn(4, 3, 8, 8)
    with Probe(reused, ["bn1", "relu", "conv2", "add", "relu_1"], pool="none") as probe:
        seen = probe(images)
    assert float(seen["bn1"].min()) < 0  # the in-place ReLU came after
    assert torch.equal(seen["relu"], seen["bn1"].relu())
    assert torch.equal(seen["add"], seen["conv2"] + seen["relu"])
    assert torch.equal(seen["relu_1"], seen["add"].relu())


def test_every_call_of_a_reused_module_is_kept(reused):
    with Probe(reused, "relu") as probe:
        seen = probe(torch.randn(2, 3, 8, 8))
    assert list(seen) == ["relu", "relu_1"]
    assert not torch.equal(seen["relu"], seen["relu_1"])


def test_the_probe_runs_in_evaluation_mode_and_puts_every_flag_back():
    model = networks.ResNet20().train()
    model.bn1.eval()
    flags = [module.training for module in model.modules()]
    mean = model.layer1[0].bn1.running_mean.clone()
    with Probe(model) as probe:
        responses = probe(torch.randn(2, 3, 32, 32))
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model.layer1[0].bn1.running_mean, mean)
    assert not any(response.requires_grad for response in responses.values())


def test_no_hook_or_mode_stays_after_an_error():
    model = networks.FailsLate()
    with Probe(model, ["relu", "mean"]) as probe:
        probe(torch.zeros(2, 3, 8, 8))
        with pytest.raises(ModelError, match="too large"):
            probe(torch.full((2, 3, 8, 8), 1e12))
        assert torch._C._len_torch_function_stack() == 0
    assert networks.count_hooks(model) == 0
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("pool", ["mean", "max", "center", "none"])
def test_pooling_of_a_map_is_what_its_name_says(reused, pool):
    images = torch.randn(2, 3, 8, 8)
    with Probe(reused, "conv1", pool=pool) as probe:
        response = probe(images)["conv1"]
    activation = reused.conv1(images)
    expected = {
        "mean": activation.mean((2, 3)),
        "max": activation.amax((2, 3)),
        "center": activation[:, :, 4, 4],
        "none": activation,
    }[pool]
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-6)


def test_tokens_are_pooled_over_tokens_and_never_over_units():
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1).eval()
    images = torch.randn(2, 3, 224, 224)
    expected = plain_hooks(model, images, ["blocks.0.mlp.act"])["blocks.0.mlp.act"]
    for pool, value in (
        ("mean", expected.mean(1)),
        ("cls", expected[:, 0]),
        ("max", expected.amax(1)),
        ("none", expected),
    ):
        with Probe(model, "gelu", pool=pool) as probe:
            torch.testing.assert_close(probe(images)["blocks.0.mlp.act"], value, rtol=0, atol=1e-6)


def test_units_come_second_in_maps_that_the_network_keeps_last():
    model = timm.create_model("convnext_tiny", pretrained=False).eval()
    images = torch.randn(1, 3, 64, 64)
    name = "stages.0.blocks.0.mlp.act"
    expected = plain_hooks(model, images, [name])[name]
    with Probe(model, name, pool="none") as probe:
        assert torch.equal(probe(images)[name], expected.permute(0, 3, 1, 2))


def test_half_precision_is_averaged_in_single_precision():
    model = nn.Sequential(nn.Identity()).to(torch.bfloat16)
    model.input_size = None
    images = torch.rand(1, 2, 64, 64).to(torch.bfloat16)
    with Probe(model, "0") as probe:
        response = probe(images)["0"]
    assert response.dtype == torch.float32
    torch.testing.assert_close(response, images.float().mean((2, 3)), rtol=0, atol=1e-6)


def test_stimuli_are_given_in_the_precision_of_the_network(reused):
    images = torch.randn(2, 3, 8, 8)
    with Probe(reused, "relu") as probe:
        single = probe(images)["relu"]
    with Probe(reused.double(), "relu") as probe:
        double = probe(images)["relu"]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


def test_fused_attention_does_not_hide_layers():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), Transposed(), encoder)
    with Probe(model, "3.relu") as probe:
        assert probe(torch.randn(2, 3, 8, 8))["3.relu"].shape == (2, 16)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_misuse_is_one_clear_line(reused):
    with pytest.raises(OptionError, match="inside its context"):
        Probe(reused)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(OptionError, match="pool='median' is not known"):
        Probe(reused, pool="median")
    images = torch.zeros(1, 3, 8, 8)
    with pytest.raises(LayerNotFoundError, match="nope"), Probe(reused, "nope") as probe:
        probe(images)
    with pytest.raises(LayerError, match="first token"), Probe(reused, pool="cls") as probe:
        probe(images)
    assert networks.count_hooks(reused) == 0


def test_a_layer_that_the_data_does_not_reach_is_an_error():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(x) if float(x.sum()) > 0 else x

    with Probe(Sometimes(), "relu") as probe:
        probe(torch.ones(2, 3, 4, 4))
        with pytest.raises(LayerError, match="did not reach 1 of 1 layers"):
            probe(-torch.ones(2, 3, 4, 4))
