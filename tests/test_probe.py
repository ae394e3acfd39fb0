import warnings

import networks
import pytest
import timm
import torch
from torch import nn

from unitprobe import Probe, list_layers
from unitprobe.errors import (
    LayerError,
    LayerNotFoundError,
    ModelError,
    OptionError,
    UnitprobeWarning,
)
from unitprobe.probe import watch_layers


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


def probed(model, layers, images):
    with Probe(model, layers) as probe:
        return probe(images)


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
    with Probe(reused, "kind:relu") as probe:
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


def test_tokens_have_no_centre_in_windows_either():
    with (
        pytest.raises(LayerError, match="has tokens"),
        Probe(networks.Windows(), "inside", pool="center") as probe,
    ):
        probe(torch.randn(2, 6, 8, 8))


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


@pytest.mark.parametrize("pool", ["mean", "max", "center", "none"])
def test_responses_go_where_they_are_wanted_if_they_fit(reused, pool):
    images = torch.randn(2, 3, 8, 8)
    with Probe(reused, ["conv1", "relu"], pool=pool) as probe:
        expected = probe(images)
        # As a recording has it: maps unit after unit.
        room = torch.empty_like(expected["conv1"].transpose(0, 1)).transpose(0, 1)
        found = probe(images, {"conv1": room, "relu": torch.empty(2, 1)})
        again = probe(images)
    assert found["conv1"] is room
    assert again["conv1"] is not room
    for name, response in expected.items():
        torch.testing.assert_close(found[name], response, rtol=0, atol=0)


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
        with Probe(model, "kind:gelu", pool=pool) as probe:
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


def test_windows_are_pooled_by_stimulus():
    model, images = networks.Windows(), torch.randn(3, 6, 8, 8)
    windows = plain_hooks(model, images, ["inside"])["inside"]  # (stimulus * window, token, unit)
    with Probe(model, ["inside", "relu"]) as probe:
        response = probe(images)["inside"]
    torch.testing.assert_close(response, windows.view(3, 4, 16, 6).mean((1, 2)), rtol=0, atol=1e-6)
    with Probe(model, "inside", pool="none") as probe:
        activation = probe(images)["inside"]  # (stimulus, unit, window, token)
    assert torch.equal(activation, windows.view(3, 4, 16, 6).permute(0, 3, 1, 2))


def test_what_replaces_an_activation_goes_back_into_its_windows_and_into_its_tuple():
    model, images = networks.Windows().eval(), torch.randn(3, 6, 8, 8)
    chosen = [layer for layer in list_layers(model) if layer.name == "inside"]

    def silence(_layer, activation, _args):
        activation = activation.clone()
        activation[1] = 0  # the second stimulus, all windows
        return activation

    with watch_layers(model, chosen, silence), torch.no_grad():
        changed = model(images)
    with torch.no_grad():
        intact = model(images)
    assert torch.equal(changed[[0, 2]], intact[[0, 2]])
    assert torch.equal(changed[1], torch.relu(model.after(torch.zeros(8, 8, 6))))

    recurrent = networks.Recurrent().eval()
    chosen = [layer for layer in list_layers(recurrent) if layer.name == "lstm[0]"]
    with watch_layers(recurrent, chosen, lambda _l, x, _a: torch.zeros_like(x)), torch.no_grad():
        outputs = recurrent(torch.randn(2, 3, 8, 8))
    torch.testing.assert_close(outputs[0], outputs[1])


class TestForwardStopsAfterTheLastWantedLayer:
    def test_what_comes_later_does_not_run(self):
        ran = []
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        images = torch.randn(2, 3, 8, 8)
        with Probe(model, "1") as probe:
            expected = probe(images)["1"]
            handle = model[2].register_forward_hook(lambda *_: ran.append(1))
            assert torch.equal(probe(images)["1"], expected)
        handle.remove()
        assert not ran
        assert networks.count_hooks(model) == 0

    def test_only_when_the_probe_runs_the_network(self):
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        images = torch.randn(5, 4)
        expected = model(images)
        with Probe(model, "1") as probe:
            before = probe(images)["1"]
            assert torch.equal(model(images), expected)
            assert model(images).requires_grad
            assert torch.equal(probe(images)["1"], before)

    def test_no_network_swallows_it_and_nothing_stays_behind(self):
        class Catches(nn.Module):
            def forward(self, x):
                try:
                    torch.relu(x)
                except Exception:
                    return x
                raise AssertionError("ran on")

        class Listed(Catches):
            def forward(self, x):
                return super().forward(x) if self.armed else torch.relu(x)

        model = Listed()
        model.armed = False
        model.train()
        with Probe(model, "relu") as probe:
            probe.resolve(torch.zeros(2, 3, 4, 4))
            model.armed = True
            assert probe(torch.ones(2, 3, 4, 4))["relu"].shape == (2, 3)
            assert torch._C._len_torch_function_stack() == 0
            assert model.training
            assert torch.is_grad_enabled()
        assert networks.count_hooks(model) == 0


def test_an_interruption_leaves_no_mode_behind():
    class Interrupted(nn.Module):
        calm = True

        def forward(self, x):
            x = torch.relu(x)
            if not self.calm:
                raise KeyboardInterrupt
            return torch.tanh(x)

    model = Interrupted()
    with Probe(model, "tanh") as probe:
        probe.resolve(torch.ones(2, 3, 4, 4))
        model.calm = False
        with pytest.raises(KeyboardInterrupt):
            probe(torch.ones(2, 3, 4, 4))
        assert torch._C._len_torch_function_stack() == 0
        model.calm = True
        assert list(probe(torch.ones(2, 3, 4, 4))) == ["tanh"]


class TestPathsThatDependOnTheData:
    images = torch.stack([torch.full((3, 8, 8), value) for value in (1.0, -1.0, 2.0, -3.0, 4.0)])
    bright = torch.tensor([True, False, True, False, True])

    def test_layers_that_any_stimulus_reaches_are_listed_in_order(self):
        model = networks.Experts()
        one = [layer.name for layer in list_layers(model, example=self.images[:1])]
        both = [layer.name for layer in list_layers(model, example=self.images)]
        assert "bright.1" in one
        assert "dark.1" not in one
        assert set(one) < set(both)
        assert [name for name in both if name in one] == one
        assert both.index("relu") < both.index("dark.1") < both.index("tanh")

    def test_responses_are_nan_where_a_stimulus_did_not_reach_the_layer(self):
        model = networks.Experts().eval()
        with pytest.warns(UnitprobeWarning, match=r"'bright.1' was .* by 2 of 5 stimuli \(and 1"):
            seen = probed(model, "activations", self.images)
        assert torch.equal(seen["bright.1"].isnan().all(1), ~self.bright)
        assert torch.equal(seen["dark.1"].isnan().any(1), self.bright)
        with torch.no_grad():
            features = torch.relu(model.stem(self.images.mean((2, 3))))
            expected = model.bright(features)[self.bright]
        torch.testing.assert_close(seen["bright.1"][self.bright], expected)
        assert not seen["tanh"].isnan().any()

    def test_a_response_does_not_depend_on_the_other_stimuli(self):
        class WholeBatch(nn.Module):
            def forward(self, x):
                return torch.relu(x) if x.sum() > 0 else torch.tanh(x)

        with pytest.warns(UnitprobeWarning):
            together = probed(WholeBatch(), "activations", self.images)
        for name, response in together.items():
            reached = [image for image in self.images if (image.sum() > 0) == (name == "relu")]
            with Probe(WholeBatch(), name) as probe:
                alone = iter([probe(image[None])[name] for image in reached])
            each = torch.cat(
                [response[:1] * torch.nan if row.isnan().all() else next(alone) for row in response]
            )
            torch.testing.assert_close(response, each, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(together["relu"].isnan().all(1), ~self.bright)

    def test_a_choice_that_is_not_seen_is_noticed_by_what_is_missing(self):
        class Switched(nn.Module):
            calm = True

            def forward(self, x):
                return torch.relu(x) if self.calm or x.sum() > 0 else x

        model = Switched()
        dark_on_the_whole = self.images * torch.tensor([1, 9, 1, 9, 1]).view(5, 1, 1, 1)
        probe = Probe(model, "relu")
        probe.__enter__()
        probe.resolve(self.images)
        model.calm = False
        seen = probe(dark_on_the_whole)
        with pytest.warns(UnitprobeWarning, match="by 2 of 5"):
            probe.__exit__(None, None, None)
        assert torch.equal(seen["relu"].isnan().all(1), ~self.bright)

    def test_an_ordinary_network_runs_once(self):
        model = networks.ResNet20()
        ran = []
        with Probe(model) as probe:
            model.conv1.register_forward_hook(lambda *_: ran.append(1))
            probe(torch.randn(9, 3, 32, 32))
        assert len(ran) == 4  # once to find the layers, twice to see whether stimuli mix


class Squeezing(nn.Module):
    """Takes the axis of the stimuli away where there is only one, as many a network does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        pooled = self.conv(images).mean((2, 3)).squeeze()
        return self.head(self.relu(pooled)).softmax(1)


@pytest.mark.parametrize("layers", ["relu", "*"])
def test_a_network_that_squeezes_a_single_stimulus_away_responds_to_it_all_the_same(layers):
    network, images = Squeezing(), torch.randn(5, 3, 6, 6)
    with Probe(network, layers) as probe:
        together = probe(images)
        in_parts = [probe(part) for part in images.split(2)]
    assert not probe.unreached
    for name, responses in together.items():
        torch.testing.assert_close(torch.cat([part[name] for part in in_parts]), responses)


def test_any_error_of_a_network_is_one_clear_line():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with Probe(network, "1") as probe:
        probe(torch.zeros(2, 3, 6, 6))
        network[0].forward = lambda images: {}["lost"]
        with pytest.raises(ModelError, match=r"does not run on stimuli of shape .*: 'lost'"):
            probe(torch.zeros(2, 3, 6, 6))


def test_a_scripted_network_is_refused_in_one_clear_line():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        network = torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    with pytest.raises(ModelError, match=r"compiled by torch\.jit"):
        Probe(network)


class Forgetful(nn.Module):
    """Drops out in evaluation mode too, since it does not pass on that mode."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, images):
        return nn.functional.dropout(self.relu(images))


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU()),
            r"statistics of the current batch \(batch_norm in 0\)",
        ),
        (Forgetful(), r"at random, other ones in every run \(dropout in its forward method\)"),
    ],
)
def test_a_warning_where_responses_depend_on_other_stimuli(network, says):
    with Probe(network) as probe, pytest.warns(UnitprobeWarning, match=says):
        probe(torch.randn(4, 3, 5, 5))


class Centred(nn.Module):
    """Takes the mean of the batch from each stimulus."""

    def forward(self, images):
        return nn.functional.relu(images - images.mean(0))


class Noisy(nn.Module):
    def forward(self, images):
        return nn.functional.relu(images + torch.randn_like(images))


@pytest.mark.parametrize("network", [Centred(), Noisy()])
def test_a_network_that_mixes_the_stimuli_of_a_batch_is_warned_of_once(network):
    stimuli = torch.randn(4, 3, 5, 5)
    with Probe(network) as probe, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe(stimuli)
        probe(stimuli)
    (warning,) = caught
    assert str(warning.message) == (
        f"{type(network).__name__}: layer 'relu' (1 of 1 layers) responds differently to a "
        "stimulus shown with another than to it alone: the network mixes the stimuli of a batch, "
        "or draws random numbers, so responses depend on batch_size and on the order of the stimuli"
    )
    assert probe.stimulus_count == 8


class EndsInRounding(nn.Module):
    """Ends in what is like rounding, as PoolFormer's maps less their local average do."""

    def forward(self, images):
        wide = nn.functional.relu(images)
        return nn.functional.gelu(1e-9 * torch.rand(len(images), 3, 5, 5) + 0 * wide)


def test_responses_that_are_rounding_and_nothing_else_are_not_taken_for_mixed():
    with Probe(EndsInRounding()) as probe, warnings.catch_warnings():
        warnings.simplefilter("error")
        responses = probe(torch.randn(4, 3, 5, 5))
    assert len(responses) == 2


def test_to_look_whether_stimuli_mix_leaves_the_stimuli_as_they_are():
    stimuli = torch.randn(3, 4)
    before = stimuli.clone()
    with Probe(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2), nn.ReLU())) as probe:
        assert torch.equal(probe.resolve(stimuli) and stimuli, before)


class StandardizedWeights(nn.Conv2d):
    """A convolution whose weights are normalized by PyTorch's batch norm, as timm has them."""

    def forward(self, images):
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = nn.functional.batch_norm(rows, None, None, training=True, momentum=0.0)
        return nn.functional.conv2d(images, rows.reshape_as(self.weight))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.InstanceNorm2d(3)),
        nn.Sequential(StandardizedWeights(3, 4, 3), nn.ReLU()),
    ],
)
def test_no_warning_for_a_network_that_follows_its_mode(network):
    with Probe(network.train()) as probe, warnings.catch_warnings():
        warnings.simplefilter("error")
        probe(torch.randn(4, 3, 5, 5))


def test_the_output_of_the_network_comes_with_its_responses():
    network = networks.build_tiny()
    stimuli = torch.rand(5, 3, 16, 16)
    with Probe(network, return_output=True) as probe:
        responses, output = probe(stimuli)
    with Probe(network) as probe:
        alone = probe(stimuli)
    assert torch.equal(output, network.eval()(stimuli))
    assert responses.keys() == alone.keys()
    assert all(torch.equal(responses[name], alone[name]) for name in alone)


def test_outputs_of_stimuli_shown_one_by_one_are_joined():
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.relu = torch.nn.Linear(4, 3), torch.nn.ReLU()

        def forward(self, x):
            return self.relu(self.linear(x)) if x.sum() > 0 else self.linear(x)

    network, stimuli = Branching().eval(), torch.randn(6, 4)
    with (
        pytest.warns(UnitprobeWarning, match="depends on the data"),
        Probe(network, return_output=True) as probe,
    ):
        responses, output = probe(stimuli)
    each = [network(stimulus[None]) for stimulus in stimuli]
    assert torch.allclose(output, torch.cat(each))
    assert torch.isnan(responses["relu"]).any(dim=1).tolist() == [
        bool(stimulus.sum() <= 0) for stimulus in stimuli
    ]


def test_an_output_that_cannot_be_joined_is_named():
    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, x):
            return {"logits": self.relu(x) if x.sum() > 0 else self.relu(-x)}

    with (
        Probe(Branching(), return_output=True) as probe,
        pytest.raises(ModelError, match="outputs \\(dict\\) cannot be joined"),
    ):
        probe(torch.randn(4, 3))
