import networks
import numpy as np
import pytest
import timm
import torch
from conftest import make_stimuli
from torch import nn

import unitprobe as up
from unitprobe.errors import LabelError, ModelError, OptionError


def literal_drops(stimuli, forward):
    """Accuracy, per-class accuracy and loss from one image at a time: the reference."""
    right, loss = [], []
    for image, label in (stimuli[i] for i in range(len(stimuli))):
        with torch.no_grad():
            logits = forward(image[None])[0].double()
        right.append(int(logits.argmax()) == label)
        loss.append(float(torch.logsumexp(logits, 0) - logits[label]))
    right, labels = np.array(right), stimuli.labels
    classes = [right[labels == c].mean() for c in range(len(stimuli.class_names))]
    return right.mean(), np.array(classes), np.mean(loss)


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.second = nn.Conv2d(5, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x, unit=None, value=0.0):
        x = torch.relu(self.first(x))
        if unit is not None:
            x = torch.cat([x[:, :unit], torch.full_like(x[:, :1], value), x[:, unit + 1 :]], 1)
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("mode", ["zero", "mean"])
def test_drops_equal_a_literal_computation(mode, stimuli):
    model = TwoLayers().eval()
    tree = up.ablate(model, stimuli, layers="relu", mode=mode, batch_size=7)
    images = torch.stack([stimuli[i][0] for i in range(len(stimuli))])
    means = torch.relu(model.first(images)).mean((0, 2, 3)).tolist()
    accuracy, classes, loss = literal_drops(stimuli, model)
    assert float(tree["accuracy"]) == pytest.approx(accuracy)
    np.testing.assert_allclose(tree["class_accuracy"], classes)
    for unit in range(5):
        value = means[unit] if mode == "mean" else 0.0
        ablated = literal_drops(stimuli, lambda x, u=unit, v=value: model(x, u, v))
        node = tree["relu"].isel(unit=unit)
        assert float(node["accuracy_drop"]) == pytest.approx(accuracy - ablated[0])
        np.testing.assert_allclose(node["class_accuracy_drop"], classes - ablated[1], atol=1e-12)
        assert float(node["max_class_accuracy_drop"]) == pytest.approx((classes - ablated[1]).max())
        assert float(node["loss_increase"]) == pytest.approx(ablated[2] - loss, abs=1e-6)


def test_an_in_place_layer_is_silenced_for_everyone_who_holds_its_tensor(stimuli):
    class Aliased(nn.Module):
        input_size = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)
            self.head = nn.Linear(3, 4)

        def forward(self, x):
            x = x * 1.0
            self.relu(x)  # its result is not used: only the tensor that it changed
            return self.head(x.mean((2, 3)))

    model = Aliased().eval()
    tree = up.ablate(model, stimuli, layers="relu", units=[1])
    weight = model.head.weight.detach().clone()
    weight[:, 1] = 0
    expected = literal_drops(
        stimuli, lambda x: torch.relu(x).mean((2, 3)) @ weight.T + model.head.bias
    )
    drop = float(tree["accuracy"] - tree["relu"]["accuracy_drop"][0])
    assert drop == pytest.approx(expected[0])


def test_the_second_call_of_a_reused_module_is_ablated_alone(reused, stimuli):
    tree = up.ablate(reused, stimuli, layers="relu_1")
    images = torch.stack([stimuli[i][0] for i in range(len(stimuli))])
    with up.Probe(reused, "relu_1") as probe:
        pooled = probe(images)["relu_1"]
    for unit in range(6):
        kept = pooled.clone()
        kept[:, unit] = 0
        right = (reused.head(kept).argmax(1).numpy() == stimuli.labels).mean()
        drop = float(tree["relu_1"]["accuracy_drop"][unit])
        assert drop == pytest.approx(float(tree["accuracy"]) - right)


def test_tokens_lose_a_unit_and_not_a_token(stimuli):
    model = networks.TinyAttention().eval()
    tree = up.ablate(model, stimuli, layers="gelu", units=[0, 7])
    images = torch.stack([stimuli[i][0] for i in range(len(stimuli))])
    with up.Probe(model, "gelu") as probe:
        pooled = probe(images)["gelu"]
    pooled[:, 7] = 0
    right = (model.head(pooled).argmax(1).numpy() == stimuli.labels).mean()
    assert float(tree["gelu"].sel(unit=7)["accuracy_drop"]) == pytest.approx(
        float(tree["accuracy"]) - right
    )


def test_a_unit_that_is_silent_already_costs_nothing(stimuli):
    model = TwoLayers().eval()
    with torch.no_grad():
        model.first.weight[2] = 0
        model.first.bias[2] = -1
    node = up.ablate(model, stimuli, layers="relu", units=[2])["relu"]
    assert float(abs(node["class_accuracy_drop"]).max()) == 0
    assert float(node["loss_increase"][0]) == 0


def test_the_batch_size_does_not_change_the_result(stimuli):
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4).eval()
    one, other = (
        up.ablate(model, stimuli, layers="layer4.0.act1", units=range(4), batch_size=size)
        for size in (5, 26)
    )
    for name in ("accuracy_drop", "loss_increase"):
        np.testing.assert_allclose(
            one["layer4.0.act1"][name], other["layer4.0.act1"][name], atol=1e-6
        )


def test_the_network_is_left_as_it_was(reused, stimuli):
    reused.train()
    state = {key: value.clone() for key, value in reused.state_dict().items()}
    up.ablate(reused, stimuli, units=[0])
    assert reused.training
    assert all(torch.equal(state[key], value) for key, value in reused.state_dict().items())
    assert networks.count_hooks(reused) == 0
    assert all(parameter.grad is None for parameter in reused.parameters())


def test_the_result_is_labelled_and_says_what_ran(reused, stimuli, tmp_path):
    tree = up.ablate(reused, stimuli, units=[0, 3])
    assert tree.attrs["method"] == "full"
    assert tree.attrs["mode"] == "zero"
    assert list(tree.children) == ["relu", "relu_1"]
    assert list(tree["relu"]["unit"].values) == [0, 3]
    assert tree["relu"]["class_accuracy_drop"].dims == ("unit", "class_name")
    up.save_tree(tree, tmp_path / "g.h5")
    assert up.open_store(tmp_path / "g.h5").attrs["method"] == "full"


def test_classes_that_the_outputs_do_not_fit_are_refused(reused):
    with pytest.raises(LabelError):
        up.ablate(reused, make_stimuli(12, classes=6))


def test_a_network_without_logits_is_refused(stimuli):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ModelError, match="needs a classifier"):
        up.ablate(model, stimuli)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "median"}, "zero, mean"),
        ({"method": "magic"}, "auto, partial_forward, full"),
        ({"units": [6]}, "unit 6 .*units 0 to 5"),
        ({"units": []}, "units= or groups= is empty"),
    ],
)
def test_a_mistake_is_one_clear_line(reused, stimuli, options, match):
    with pytest.raises(OptionError, match=match):
        up.ablate(reused, stimuli, **options)


def test_a_network_that_works_in_place_on_its_input_gets_a_fresh_one_each_time(stimuli):
    class Overwrites(TwoLayers):
        def forward(self, x, unit=None, value=0.0):
            return super().forward(x.mul_(-0.7).add_(0.3), unit, value)

    model = Overwrites().eval()
    tree = up.ablate(model, stimuli, layers="relu")
    _, _, intact = literal_drops(stimuli, lambda x: model(x.clone()))
    for unit in range(5):
        _, _, loss = literal_drops(stimuli, lambda x, u=unit: model(x.clone(), u))
        increase = float(tree["relu"]["loss_increase"][unit])
        assert increase == pytest.approx(loss - intact, abs=1e-6)


def test_a_class_without_stimuli_has_no_accuracy_and_spoils_no_maximum(reused, stimuli):
    some = stimuli.select(stimuli.labels != 2)
    tree = up.ablate(reused, some, units=[0])
    assert np.isnan(tree["class_accuracy"][2])
    assert np.isfinite(tree["relu"]["max_class_accuracy_drop"]).all()


class Squeezing(TwoLayers):
    """Takes the axis of the stimuli away where there is only one."""

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).squeeze()).log_softmax(1)


def run(method, model, stimuli, **options):
    if method == "attribution":
        return up.attribute(model, stimuli, **options)
    return up.ablate(model, stimuli, method=method, **options)


@pytest.mark.parametrize("mode", ["mean", "weights"])
@pytest.mark.parametrize("method", ["full", "partial_forward", "attribution"])
def test_no_stimulus_is_shown_alone_to_a_network_that_may_squeeze_it_away(stimuli, method, mode):
    model = Squeezing().eval()
    options = {"layers": "relu", "mode": mode, "progress": False}
    together = run(method, model, stimuli, batch_size=len(stimuli), **options)
    for batch_size in (len(stimuli) - 1, 1):
        in_parts = run(method, model, stimuli, batch_size=batch_size, **options)
        for layer in together.children:
            np.testing.assert_allclose(
                in_parts[layer]["loss_increase"], together[layer]["loss_increase"], atol=1e-6
            )


@pytest.mark.parametrize("method", ["full", "attribution"])
def test_a_single_stimulus_that_the_network_squeezes_away_is_refused_in_one_line(stimuli, method):
    with pytest.raises(ModelError, match=r"does not run on stimuli of shape \(1, 3, 8, 8\)"):
        run(method, Squeezing().eval(), stimuli.select([0]), layers="relu")
