"""The first-order estimate of every ablation, against gradients written out by hand."""

import networks
import numpy as np
import pytest
import scipy.stats
import torch
from literal_ablation import NETWORKS, Convolutional, Tokens, images_of, with_value
from torch import nn
from torch.nn import functional

import unitprobe as up
from unitprobe.ablation.replacements import random_partners
from unitprobe.errors import ModelError, OptionError

MODES = ("zero", "value", "mean", "class_mean", "resample")


def estimate(model, stimuli, layers, **options):
    return up.attribute(model, stimuli, layers=layers, **{"check_units": 0, **options})


def new_values(mode, activation, labels):
    """What replaces an activation (stimulus, unit, position)."""
    if mode == "value":
        return torch.full_like(activation, 0.7)
    if mode == "mean":
        return activation.mean((0, 2), keepdim=True)
    if mode == "class_mean":
        return torch.stack([activation[labels == c].mean((0, 2)) for c in range(4)])[labels][
            :, :, None
        ]
    if mode == "resample":
        return activation[random_partners(len(activation), seed=3)]
    return torch.zeros_like(activation)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_estimate_is_the_gradient_times_the_change(name, mode, stimuli):
    build, layer, axis = NETWORKS[name]
    model = build().eval()
    labels = torch.from_numpy(stimuli.labels)
    activation = model.first(images_of(stimuli)).detach().requires_grad_()
    loss = functional.cross_entropy(model.rest(activation), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, activation)
    moved, slope = (x.detach().movedim(axis, 1).flatten(2) for x in (activation, gradient))
    expected = (slope * (new_values(mode, moved, labels) - moved)).sum(2).numpy()
    node = estimate(model, stimuli, layer, mode=with_value(mode, 0.7), seed=3, batch_size=7)[layer]
    np.testing.assert_allclose(node["loss_increase"], expected.mean(0), atol=2e-6)
    by_class = [expected[stimuli.labels == c].mean(0) for c in range(4)]
    np.testing.assert_allclose(node["class_loss_increase"], np.transpose(by_class), atol=5e-6)


def test_weights_are_estimated_at_the_convolution(stimuli):
    model = Convolutional().eval()
    node = estimate(model, stimuli, "relu", mode="weights")["relu"]
    zero = estimate(model, stimuli, "conv")["conv"]
    np.testing.assert_allclose(node["loss_increase"], zero["loss_increase"])


def test_layers_that_are_overwritten_later_have_their_own_gradient(reused, stimuli):
    """bn1, relu, conv2 and add are all overwritten in place by what follows them."""
    tree = estimate(reused, stimuli, lambda layer: layer.unit_axis is not None)
    images = images_of(stimuli)
    labels = torch.from_numpy(stimuli.labels)

    class NotInPlace(nn.Module):
        def forward(self, x):
            kept = {"conv1": reused.conv1(x)}
            kept["bn1"] = reused.bn1(kept["conv1"])
            kept["relu"] = kept["bn1"].relu()
            kept["conv2"] = reused.conv2(kept["relu"])
            kept["add"] = kept["conv2"] + kept["relu"]
            kept["relu_1"] = kept["add"].relu()
            return reused.head(kept["relu_1"].mean((2, 3))), kept

    logits, kept = NotInPlace()(images)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, list(kept.values()))
    assert set(kept) < set(tree.children)
    for (name, activation), gradient in zip(kept.items(), gradients, strict=True):
        expected = -(activation * gradient).detach().sum((0, 2, 3)) / len(stimuli)
        np.testing.assert_allclose(tree[name]["loss_increase"], expected, atol=2e-6, err_msg=name)


def test_parallel_branches_are_all_estimated(stimuli):
    class Branches(nn.Module):
        input_size = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return (self.left(x) * self.right(x)).mean((2, 3))

    model = Branches().eval()
    both = estimate(model, stimuli, ["left", "right"])
    for name in ("left", "right"):
        alone = estimate(model, stimuli, name)
        np.testing.assert_allclose(both[name]["loss_increase"], alone[name]["loss_increase"])


def test_groups_add_up_and_directions_are_those_of_the_gradient(stimuli):
    model = Tokens().eval()
    units = estimate(model, stimuli, "relu")["relu"]["loss_increase"].values
    groups = estimate(model, stimuli, "relu", groups=[[0, 2], [4]])["relu"]["loss_increase"]
    np.testing.assert_allclose(groups, [units[0] + units[2], units[4]], rtol=1e-5)
    rotated = estimate(model, stimuli, "relu", directions=np.eye(5))["relu"]["loss_increase"]
    np.testing.assert_allclose(rotated, units, atol=1e-7)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    rotated = estimate(model, stimuli, "relu", directions=rotation)["relu"]["loss_increase"]
    assert float(rotated.sum()) == pytest.approx(units.sum(), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_integrated_gradients_add_up_to_the_ablation_of_the_whole_layer(mode, stimuli):
    model = Convolutional().eval()
    options = {"mode": with_value(mode, 0.7), "seed": 3}
    whole = up.ablate(model, stimuli, layers="relu", groups=[range(5)], **options)["relu"]
    found = estimate(model, stimuli, "relu", steps=64, **options)["relu"]
    exact = float(whole["loss_increase"][0])
    assert float(found["loss_increase"].sum()) == pytest.approx(exact, rel=1e-2, abs=1e-4)


def test_the_effect_of_the_only_unit_of_a_layer_is_exact_in_many_steps(stimuli):
    class Narrow(nn.Module):
        input_size = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 1, 3), nn.Linear(1, 4)

        def forward(self, x):
            return self.head(20 * torch.tanh(self.conv(x)).mean((2, 3)))

    model = Narrow().eval()
    exact = float(up.ablate(model, stimuli, layers="conv")["conv"]["loss_increase"][0])
    error = [
        abs(float(estimate(model, stimuli, "conv", steps=k)["conv"]["loss_increase"][0]) - exact)
        for k in (0, 1, 30)
    ]
    assert error[2] < error[0] / 10
    assert error[2] < 1e-2 * abs(exact)


def test_some_units_are_swept_to_say_how_good_the_estimate_is(stimuli):
    model = Convolutional().eval()
    layers = ["norm", "relu"]
    tree = estimate(model, stimuli, layers, check_units=6, seed=1)
    exact = up.ablate(model, stimuli, layers=layers)
    checked = {name: np.isfinite(tree[name]["exact_loss_increase"].values) for name in layers}
    assert sum(mask.sum() for mask in checked.values()) == 6
    for name in layers:
        np.testing.assert_allclose(
            tree[name]["exact_loss_increase"].values[checked[name]],
            exact[name]["loss_increase"].values[checked[name]],
        )
    pairs = np.concatenate(
        [
            np.stack([tree[n]["loss_increase"], tree[n]["exact_loss_increase"]])[:, checked[n]]
            for n in layers
        ],
        axis=1,
    )
    correlation = scipy.stats.spearmanr(*pairs).statistic
    assert float(tree["rank_correlation"]) == pytest.approx(correlation)
    within = pairs[:, : checked["norm"].sum()]
    assert within.shape[1] > 2
    correlation = scipy.stats.spearmanr(*within).statistic
    assert float(tree["norm"]["rank_correlation"]) == pytest.approx(correlation)
    assert tree["rank_correlation_low"] <= tree["rank_correlation"] <= tree["rank_correlation_high"]
    again = estimate(model, stimuli, layers, check_units=6, seed=1)
    other = estimate(model, stimuli, layers, check_units=6, seed=2)
    assert again.identical(tree)
    assert not other.identical(tree)


def test_all_units_are_checked_where_fewer_are_there_and_none_where_none_is_asked(stimuli):
    model = Convolutional().eval()
    tree = estimate(model, stimuli, "relu", check_units=100)
    assert np.isfinite(tree["relu"]["exact_loss_increase"]).all()
    tree = estimate(model, stimuli, "relu", check_units=0)
    assert "rank_correlation" not in tree
    assert np.isnan(tree["relu"]["exact_loss_increase"]).all()


def test_the_root_is_that_of_a_sweep(stimuli):
    model = Convolutional().eval()
    sweep = up.ablate(model, stimuli, layers="relu")
    for steps in (0, 2):
        tree = estimate(model, stimuli, "relu", steps=steps, batch_size=11)
        for name in ("accuracy", "class_accuracy", "balanced_accuracy", "loss", "class_count"):
            np.testing.assert_allclose(tree[name], sweep[name], rtol=1e-6)
        assert tree.attrs["method"] == "attribution"
        assert tree.attrs["attribution_steps"] == steps


def test_the_network_is_left_as_it_was(reused, stimuli):
    reused.train()
    reused.conv1.weight.requires_grad_(False)
    state = {key: value.clone() for key, value in reused.state_dict().items()}
    estimate(reused, stimuli, "activations", check_units=3, steps=1)
    assert reused.training
    assert all(torch.equal(state[key], value) for key, value in reused.state_dict().items())
    assert networks.count_hooks(reused) == 0
    assert all(parameter.grad is None for parameter in reused.parameters())
    frozen = [n for n, parameter in reused.named_parameters() if not parameter.requires_grad]
    assert frozen == ["conv1.weight"]


def test_half_precision_gives_about_the_same(stimuli):
    model = Tokens().eval()
    full = estimate(model, stimuli, "relu")["relu"]["loss_increase"]
    half = estimate(model.bfloat16(), stimuli, "relu")["relu"]["loss_increase"]
    assert float(abs(half - full).max()) < 0.1 * float(abs(full).max())


def test_a_caller_without_gradients_gets_them_all_the_same(stimuli):
    model = Tokens().eval()
    wanted = estimate(model, stimuli, "relu")
    with torch.no_grad():
        assert estimate(model, stimuli, "relu").identical(wanted)
        assert not torch.is_grad_enabled()


def test_a_network_that_keeps_its_gradients_to_itself_is_refused(stimuli):
    class Closed(Tokens):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(ModelError, match=r"without gradients.* use ablate"):
        estimate(Closed().eval(), stimuli, "relu")


def test_the_estimate_can_be_saved(stimuli, tmp_path):
    model = Tokens().eval()
    tree = estimate(model, stimuli, "relu", path=tmp_path / "a.h5", check_units=4)
    with up.open_store(tmp_path / "a.h5") as saved:
        np.testing.assert_array_equal(saved["relu"]["loss_increase"], tree["relu"]["loss_increase"])
        assert saved.attrs["method"] == "attribution"
    tree.close()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "noise"}, "no first-order effect"),
        ({"mode": up.Noise(0.5)}, "no first-order effect"),
        ({"steps": -1}, "steps=-1"),
        ({"check_units": -1}, "check_units=-1"),
    ],
)
def test_a_mistake_is_one_clear_line(stimuli, options, match):
    with pytest.raises(OptionError, match=match):
        estimate(Tokens().eval(), stimuli, "relu", **options)
