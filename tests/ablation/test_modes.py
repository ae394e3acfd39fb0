"""What replaces a unit, against the same replacement written out by hand."""

import copy

import numpy as np
import pytest
import torch
from literal_ablation import NETWORKS, Convolutional, assert_is, images_of, lost, with_value
from torch import nn

import unitprobe as up
from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.forward_passes import Batch
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.replacements import (
    AddedNoise,
    ClassMean,
    Mean,
    Resample,
    RunningStatistics,
    Statistics,
    random_partners,
)
from unitprobe.ablation.settings import format_mode, parse_mode
from unitprobe.ablation.targets import Targets
from unitprobe.errors import LayerError, ModelError, OptionError
from unitprobe.layers import Layer

CONSTANT = ("zero", "value", "mean", "class_mean", "resample")


@pytest.fixture(params=NETWORKS)
def network(request):
    build, layer, axis = NETWORKS[request.param]
    return build().eval(), layer, axis


def replaced(mode, activation, axis, labels):
    """The activation that stands for `activation` (stimulus, ...), all its units replaced."""
    moved = activation.movedim(axis, 1).flatten(2)
    if mode == "zero":
        new = torch.zeros_like(moved)
    elif mode == "value":
        new = torch.full_like(moved, 1.25)
    elif mode == "mean":
        new = moved.mean((0, 2))[None, :, None].expand_as(moved)
    elif mode == "class_mean":
        by_class = torch.stack([moved[labels == c].mean((0, 2)) for c in range(4)])
        new = by_class[labels][:, :, None].expand_as(moved)
    else:
        new = moved[random_partners(len(moved), seed=3)]
    return new.unflatten(2, activation.movedim(axis, 1).shape[2:]).movedim(1, axis)


def with_units(activation, new, units, axis):
    mask = torch.zeros(activation.shape[axis], dtype=torch.bool)
    mask[list(units)] = True
    shape = [1] * activation.ndim
    shape[axis] = -1
    return torch.where(mask.reshape(shape), new, activation)


@pytest.mark.parametrize("mode", CONSTANT)
def test_a_unit_is_replaced_at_every_position(mode, network, stimuli):
    model, layer, axis = network
    node = up.ablate(
        model, stimuli, layers=layer, mode=with_value(mode, 1.25), seed=3, batch_size=7
    )
    activation = model.first(images_of(stimuli))
    new = replaced(mode, activation, axis, stimuli.labels)
    intact = model.rest(activation)
    for unit in range(5):
        ablated = model.rest(with_units(activation, new, [unit], axis))
        expected = lost(intact, ablated, stimuli.labels)
        assert_is(node[layer].to_dataset().sel(unit=unit), expected)


@pytest.mark.parametrize("mode", CONSTANT)
def test_the_units_of_a_group_are_replaced_together(mode, network, stimuli):
    model, layer, axis = network
    groups = [[0, 3], [1], [4, 2, 0]]
    node = up.ablate(
        model, stimuli, layers=layer, groups=groups, mode=with_value(mode, 1.25), seed=3
    )
    activation = model.first(images_of(stimuli))
    new = replaced(mode, activation, axis, stimuli.labels)
    for number, group in enumerate(groups):
        ablated = model.rest(with_units(activation, new, group, axis))
        expected = lost(model.rest(activation), ablated, stimuli.labels)
        assert_is(node[layer].to_dataset().sel(group=number), expected)


def test_noise_has_the_units_own_deviation_and_is_added_at_every_position(network, stimuli):
    model, layer, axis = network
    node = up.ablate(model, stimuli, layers=layer, mode=up.Noise(2.0), seed=5)[layer]
    activation = model.first(images_of(stimuli))
    moved = activation.movedim(axis, 1)
    deviation = moved.flatten(2).std((0, 2), correction=0)
    statistics = {layer: Statistics(deviation, deviation, deviation)}
    noise = AddedNoise(statistics, scale=2.0, seed=5)
    normal = torch.stack([noise._noise(layer, i, tuple(moved.shape[1:])) for i in range(26)])
    shape = (1, 5, *(1,) * (moved.ndim - 2))
    new = (moved + 2 * deviation.reshape(shape) * normal).movedim(1, axis)
    for unit in range(5):
        ablated = model.rest(with_units(activation, new, [unit], axis))
        expected = lost(model.rest(activation), ablated, stimuli.labels)
        assert_is(node.to_dataset().sel(unit=unit), expected)


def test_noise_is_standard_normal_and_its_own_for_every_stimulus_layer_and_seed():
    noise = AddedNoise({}, scale=1.0, seed=0)
    draws = torch.stack([noise._noise("relu", number, (8, 50)) for number in range(50)])
    assert abs(float(draws.mean())) < 0.03
    assert abs(float(draws.std()) - 1) < 0.03
    assert len({float(draw[0, 0]) for draw in draws}) == 50
    assert not torch.equal(draws[0], noise._noise("gelu", 0, (8, 50)))
    assert not torch.equal(draws[0], AddedNoise({}, scale=1.0, seed=1)._noise("relu", 0, (8, 50)))


def test_weights_silences_the_convolution_as_zeroed_weight_and_bias_do(stimuli):
    model = Convolutional().eval()
    node = up.ablate(model, stimuli, layers="relu", mode="weights")["relu"].to_dataset()
    for unit in range(5):
        zeroed = copy.deepcopy(model)
        with torch.no_grad():
            zeroed.conv.weight[unit] = 0
            zeroed.conv.bias[unit] = 0
        expected = lost(model(images_of(stimuli)), zeroed(images_of(stimuli)), stimuli.labels)
        assert_is(node.sel(unit=unit), expected)
    zero = up.ablate(model, stimuli, layers="relu")["relu"]
    assert not np.allclose(zero["loss_increase"], node["loss_increase"], atol=1e-4)


class CalledTwice(nn.Module):
    """One convolution that runs twice, with ReLUs of its own for each call."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.head.weight *= 20

    def forward(self, x):
        x = self.relu1(self.shared(self.first(x)))
        return self.head(self.relu2(self.shared(x)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
@pytest.mark.parametrize("method", ["auto", "full"])
def test_weights_of_a_module_that_is_called_twice_are_silenced_in_both_calls(
    layer, method, stimuli
):
    torch.manual_seed(0)
    model = CalledTwice().eval()
    found = up.ablate(model, stimuli, layers=layer, mode="weights", method=method)
    for unit in range(4):
        zeroed = copy.deepcopy(model)
        with torch.no_grad():
            zeroed.shared.weight[unit] = 0
            zeroed.shared.bias[unit] = 0
        expected = lost(model(images_of(stimuli)), zeroed(images_of(stimuli)), stimuli.labels)
        assert_is(found[layer].to_dataset().sel(unit=unit), expected)


def test_the_partial_engine_refuses_weights_that_are_used_twice(stimuli):
    with pytest.raises(ModelError, match=r"'shared_?1?' are used in 2 calls.*method='full'"):
        up.ablate(
            CalledTwice().eval(),
            stimuli,
            layers="relu2",
            mode="weights",
            method="partial_forward",
        )


@pytest.mark.parametrize("mode", [*CONSTANT, "noise"])
def test_the_unit_axes_as_directions_are_the_units(mode, network, stimuli):
    model, layer, _ = network
    options = {"layers": layer, "mode": with_value(mode, 0.5), "seed": 1, "n_permutations": 0}
    units = up.ablate(model, stimuli, **options)[layer]
    rotated = up.ablate(model, stimuli, directions=np.eye(5), **options)[layer]
    scaled = up.ablate(model, stimuli, directions=3 * np.eye(5)[[2]], **options)[layer]
    for name in ("loss_increase", "class_accuracy_drop", "changed_predictions"):
        np.testing.assert_allclose(rotated[name].values, units[name].values, atol=1e-6)
    # Noise is drawn for the directions there are.
    if mode != "noise":
        alone = float(scaled["loss_increase"][0])
        assert alone == pytest.approx(float(units["loss_increase"][2]), abs=1e-6)


def test_a_direction_is_projected_out(network, stimuli):
    model, layer, axis = network
    direction = torch.randn(5, dtype=torch.float64)
    node = up.ablate(model, stimuli, layers=layer, directions=direction[None].numpy())[layer]
    activation = model.first(images_of(stimuli))
    along = (direction / direction.norm()).float()
    moved = activation.movedim(axis, -1)
    projected = moved - (moved @ along)[..., None] * along
    ablated = model.rest(projected.movedim(-1, axis))
    expected = lost(model.rest(activation), ablated, stimuli.labels)
    assert_is(node.to_dataset().isel(direction=0), expected)


@pytest.mark.parametrize("mode", [*CONSTANT, "noise", "weights"])
def test_the_batch_size_changes_nothing(mode, stimuli):
    model = Convolutional().eval()
    few, all_at_once = (
        up.ablate(
            model, stimuli, layers="relu", mode=with_value(mode, 0.0), batch_size=size, seed=2
        )["relu"]
        for size in (5, 26)
    )
    for name, values in few.data_vars.items():
        np.testing.assert_allclose(values, all_at_once[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", [(), (3, 4)])
def test_statistics_are_those_of_all_positions_of_all_batches(dtype, positions):
    values = (torch.randn(20, 3, *positions) * 5 + 40).to(dtype)
    labels = torch.arange(20) % 4
    running = RunningStatistics(5)
    for some in (slice(0, 7), slice(7, 20)):
        running.add(values[some], labels[some])
    found = running.compute()
    rows = values.double().reshape(20, 3, -1)
    np.testing.assert_allclose(found.mean, rows.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.deviation, rows.std((0, 2), correction=0), rtol=1e-4)
    for c in range(4):
        np.testing.assert_allclose(found.class_mean[c], rows[labels == c].mean((0, 2)), rtol=1e-6)
    assert found.class_mean[4].isnan().all()


@pytest.mark.parametrize("mode", [*CONSTANT, "noise", "weights"])
def test_networks_in_half_precision_can_be_ablated(mode, stimuli):
    model = Convolutional().eval().bfloat16()
    node = up.ablate(model, stimuli, layers="relu", mode=with_value(mode, 0.0))["relu"]
    assert np.isfinite(node["loss_increase"]).all()
    assert (node["loss_increase"] != 0).any()


def test_a_class_without_stimuli_leaves_class_means_of_the_others(stimuli):
    model = Convolutional().eval()
    some = stimuli.select(stimuli.labels != 2)
    node = up.ablate(model, some, layers="relu", mode="class_mean")["relu"]
    assert np.isfinite(node["loss_increase"]).all()
    assert np.isnan(node["class_accuracy_drop"][:, 2]).all()


def test_every_stimulus_lends_its_activation_to_one_other():
    for count in (2, 3, 50):
        partners = random_partners(count, seed=0)
        assert sorted(partners) == list(range(count))
        assert not (partners == np.arange(count)).any()


def test_one_stimulus_has_no_other_to_take_from(stimuli):
    with pytest.raises(OptionError, match="two stimuli or more"):
        up.ablate(Convolutional().eval(), stimuli.select([0]), layers="relu", mode="resample")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"units": [0], "groups": [[1]]}, "exclude each other"),
        ({"groups": [[]]}, "has an empty group"),
        ({"groups": [[0, 9]]}, "unit 9"),
        ({"directions": np.eye(4)}, r"shape \(4, 4\) .*5 units"),
        ({"directions": np.zeros((1, 5))}, "zero row"),
        ({"units": {"gelu": [0]}}, "layer 'relu' is ablated, but only 'gelu'"),
        ({"n_permutations": -1}, "n_permutations=-1"),
        ({"mode": "sero"}, "mode='sero' is not known"),
        ({"mode": "value"}, r"mode='value' needs a number; give Value\(0.3\)"),
        ({"method": "attribution"}, "method='attribution' is not known"),
        ({"logit_changes": True}, "give path="),
        ({"resume": False}, "resume=False has no effect"),
        ({"overwrite": True}, "overwrite=True has no effect"),
    ],
)
def test_a_mistake_is_one_clear_line(stimuli, options, match):
    with pytest.raises(OptionError, match=match):
        up.ablate(Convolutional().eval(), stimuli, layers="relu", **options)


def test_weights_of_a_layer_that_adds_two_are_refused(reused, stimuli):
    with pytest.raises(LayerError, match="'relu_1' are not made by one convolution"):
        up.ablate(reused, stimuli, layers="relu_1", mode="weights")


def test_weights_of_two_layers_of_one_convolution_are_refused(stimuli):
    with pytest.raises(LayerError, match="both made by 'conv'"):
        up.ablate(Convolutional().eval(), stimuli, layers=["norm", "relu"], mode="weights")


def test_weights_of_a_branch_beside_are_not_taken_for_those_of_a_layer(stimuli):
    class Branches(nn.Module):
        input_size = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            left, right = self.left(x), self.right(x)
            return (torch.relu(left) + torch.tanh(right)).mean((2, 3))

    with pytest.raises(LayerError, match="'relu' are not made by one"):
        up.ablate(Branches().eval(), stimuli, layers="relu", mode="weights")


class Windows(nn.Module):
    """Rows of the map become stimuli of their own for a while."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(24, 5)
        self.head = nn.Linear(40, 4)

    def forward(self, x):
        rows = x.transpose(1, 2).reshape(-1, 24)
        return self.head(torch.relu(self.inner(rows)).reshape(x.shape[0], -1))


@pytest.mark.parametrize("mode", CONSTANT)
def test_windows_are_replaced_as_the_positions_of_their_stimulus(mode, stimuli):
    model = Windows().eval()
    options = {"mode": with_value(mode, 1.25), "seed": 3, "batch_size": 7}
    node = up.ablate(model, stimuli, layers="relu", **options)["relu"].to_dataset()
    rows = torch.relu(model.inner(images_of(stimuli).transpose(1, 2).reshape(-1, 24)))
    windows = rows.reshape(26, 8, 5)
    new = replaced(mode, windows, 2, stimuli.labels)
    intact = model.head(windows.flatten(1))
    for unit in range(5):
        ablated = model.head(with_units(windows, new, [unit], 2).flatten(1))
        assert_is(node.sel(unit=unit), lost(intact, ablated, stimuli.labels))


@pytest.mark.parametrize("mode", ["class_mean", "resample", "noise"])
def test_an_activation_without_its_stimuli_is_refused_where_they_are_needed(mode):
    layer = Layer("merged", "relu", (1, 5), 1, 5, "", "relu", 0)
    targets = Targets(layer, ((0,),))
    batch = Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64), range(4))
    statistics = {"merged": Statistics(torch.zeros(5), torch.zeros(2, 5), torch.ones(5))}
    replacement = {
        "class_mean": ClassMean(statistics),
        "resample": Resample(lambda targets, numbers: torch.zeros(32, 5), np.arange(4)),
        "noise": AddedNoise(statistics, scale=1.0, seed=0),
    }[mode]
    with pytest.raises(LayerError, match=f"{mode}.* 'merged' gives 32 for 4 stimuli"):
        replacement(targets, [0], torch.zeros(32, 1), batch)
    assert float(Mean(statistics)(targets, [0], torch.zeros(32, 1), batch)) == 0


def test_what_is_lost_is_counted_as_defined(stimuli):
    """The literal reference against a case that can be counted on one hand."""
    intact = torch.tensor([[2.0, 1], [2, 1], [1, 2], [2, 1]])
    ablated = torch.tensor([[1.0, 2], [2, 1], [1, 2], [1, 2]])
    found = lost(intact, ablated, np.array([0, 0, 1, 1]), classes=2)
    assert found["accuracy_drop"] == 0.0
    assert found["class_accuracy_drop"] == [0.5, -0.5]
    assert found["changed_predictions"] == 2


def test_stimuli_that_are_lost_and_gained_are_counted_batch_after_batch():
    logits = torch.randn(40, 4)
    ablated = torch.randn(3, 40, 4)
    labels = torch.arange(40) % 3
    output_of_class = torch.tensor([2, 0, 3])  # output 1 does not stand for a class
    found = Outcomes.empty(4, 3)
    classifier = Classifier(torch.nn.Identity())
    for some in (slice(0, 15), slice(15, 40)):
        answers = Answers.of(classifier, logits[some], labels[some], output_of_class)
        found.add(1, ablated[:, some], answers)
    right = (logits.argmax(1) == output_of_class[labels]).numpy()
    for target in range(3):
        predicted = ablated[target].argmax(1)
        after = (predicted == output_of_class[labels]).numpy()
        assert found.lost[target + 1] == (right & ~after).sum()
        assert found.gained[target + 1] == (~right & after).sum()
        assert list(found.taken_for[target + 1]) == [
            int((predicted == output).sum()) for output in output_of_class
        ]
        assert list(found.correct[target + 1]) == [
            after[(labels == c).numpy()].sum() for c in range(3)
        ]
    assert all((array[0] == 0).all() for array in found.arrays().values())


def test_a_name_of_noise_is_noise_of_the_unit_s_own_deviation(stimuli):
    model = Convolutional().eval()
    by_name, by_scale, less = (
        up.ablate(model, stimuli, layers="relu", mode=mode)
        for mode in ("noise", up.Noise(1.0), up.Noise(0.5))
    )
    assert by_name.identical(by_scale)
    assert by_name.attrs["mode"] == less.attrs["mode"] == "noise"
    assert (by_name.attrs["noise_scale"], less.attrs["noise_scale"]) == (1.0, 0.5)
    assert not np.allclose(by_name["relu"]["loss_increase"], less["relu"]["loss_increase"])


@pytest.mark.parametrize(
    "text", ["zero", "mean", "class_mean", "resample", "weights", "noise:0.5", "value:-0.3"]
)
def test_the_command_line_names_every_mode(text):
    assert format_mode(parse_mode(text)) == text


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: up.Noise(-1), "the scale must be a finite number, 0 or more"),
        (lambda: up.Value(float("nan")), "must be a finite number"),
        (lambda: parse_mode("value"), "needs a number"),
        (lambda: parse_mode("noise:much"), "give noise:0.5"),
        (lambda: parse_mode("mean:3"), "only noise and value take a number"),
    ],
)
def test_a_number_that_a_mode_cannot_take_is_refused(make, match):
    with pytest.raises(OptionError, match=match):
        make()
