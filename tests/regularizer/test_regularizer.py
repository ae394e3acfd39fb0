import math

import networks
import numpy as np
import pytest
import torch
from torch import nn

import unitprobe as up
from unitprobe.errors import LabelError, LayerNotFoundError, OptionError, UnitprobeWarning


def batch(count=24, classes=4):
    return torch.randn(count, 3, 32, 32), torch.arange(count) % classes


def literal_selectivity(responses, labels):
    """Selectivity of one layer, one unit and class at a time: the reference."""
    values = []
    for unit in responses.T:
        means = sorted(unit[labels == c].mean() for c in np.unique(labels))
        top, rest = means[-1], np.mean(means[:-1])
        values.append(0.0 if top + rest == 0 else (top - rest) / (top + rest))
    return np.mean(values)


def test_the_term_is_minus_alpha_times_the_selectivity_that_is_measured():
    model = networks.ResNet20(classes=4).eval()
    images, labels = batch()
    with up.Probe(model) as probe:
        responses = probe(images)
    expected = np.mean(
        [literal_selectivity(r.double().numpy(), labels.numpy()) for r in responses.values()]
    )
    with up.SelectivityRegularizer(model, alpha=-2.5) as regularizer:
        model(images)
        term = regularizer(labels)
    assert len(regularizer.layer_selectivity) == 19
    assert float(regularizer.selectivity) == pytest.approx(expected, abs=1e-5)
    assert float(term.detach()) == pytest.approx(2.5 * expected, abs=1e-5)


def test_the_first_batch_counts_for_functional_layers_too():
    # The layers of a network of unknown input size are found while its first batch waits.
    model = networks.ResNet20(classes=4).train()
    images, labels = batch()
    with up.SelectivityRegularizer(model) as regularizer:
        model(images)
        first = regularizer(labels)
        model(images)
        second = regularizer(labels)
    assert first.requires_grad
    assert float(first.detach()) == pytest.approx(float(second.detach()), abs=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    model = nn.Sequential(nn.Linear(5, 6), nn.Softplus(), nn.Linear(6, 3)).double()
    images, labels = torch.randn(12, 5, dtype=torch.double), torch.arange(12) % 3

    def term(weight):
        with up.SelectivityRegularizer(model, alpha=1.0) as regularizer:
            torch.func.functional_call(model, {"0.weight": weight}, (images,))
            return regularizer(labels)

    assert torch.autograd.gradcheck(term, (model[0].weight.detach().requires_grad_(),))


@pytest.mark.parametrize(("alpha", "factor"), [(-5.0, 0.5), (5.0, 2.0)])
def test_descending_the_term_suppresses_or_promotes_selectivity(alpha, factor):
    model = networks.ReusedInPlace().train()
    images, labels = torch.randn(40, 3, 8, 8), torch.arange(40) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = []
    with up.SelectivityRegularizer(model, alpha=alpha) as regularizer:
        for _ in range(15):
            model(images)
            optimizer.zero_grad()
            regularizer(labels).backward()
            optimizer.step()
            values.append(float(regularizer.selectivity))
    ratio = values[-1] / values[0]
    assert ratio < factor if alpha < 0 else ratio > factor


def test_absent_classes_and_dead_units_give_finite_gradients():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9))
    with torch.no_grad():
        model[0].bias[:3] = -100
    with up.SelectivityRegularizer(model) as regularizer:
        model(torch.rand(5, 4))
        regularizer(torch.tensor([8, 2, 2, 8, 0])).backward()
    assert all(torch.isfinite(p.grad).all() for p in model[0].parameters())
    assert math.isfinite(float(regularizer.selectivity))


def test_a_batch_of_one_class_pulls_nowhere():
    model = networks.ReusedInPlace()
    with up.SelectivityRegularizer(model) as regularizer:
        model(torch.randn(4, 3, 8, 8))
        regularizer(torch.full((4,), 2)).backward()
    assert float(regularizer.selectivity) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_logits_are_never_part_of_the_default_layers():
    model = networks.ReusedInPlace()
    with up.SelectivityRegularizer(model) as regularizer:
        model(torch.randn(8, 3, 8, 8))
        regularizer(torch.arange(8) % 4)
    assert list(regularizer.layer_selectivity) == ["relu", "relu_1"]


def test_hooks_go_when_it_is_detached_and_training_goes_on_without():
    model = networks.ReusedInPlace().train()
    regularizer = up.SelectivityRegularizer(model).attach()
    regularizer.attach()
    model(torch.randn(8, 3, 8, 8))
    assert model.training
    regularizer.detach()
    regularizer.detach()
    assert networks.count_hooks(model) == 0


def test_misuse_is_one_clear_line():
    model = networks.ReusedInPlace()
    for alpha in (math.nan, math.inf):
        with pytest.raises(OptionError, match="not a finite number"):
            up.SelectivityRegularizer(model, alpha=alpha)
    with (
        pytest.raises(LayerNotFoundError, match="rellu"),
        up.SelectivityRegularizer(model, "rellu"),
    ):
        model(torch.randn(4, 3, 8, 8))
    with up.SelectivityRegularizer(model) as regularizer:
        with pytest.raises(OptionError, match="has seen no batch"):
            regularizer(torch.zeros(4, dtype=torch.long))
        model(torch.randn(4, 3, 8, 8))
        with pytest.raises(LabelError, match=r"shape \(3,\), the batch has 4"):
            regularizer(torch.zeros(3, dtype=torch.long))
    assert networks.count_hooks(model) == 0


def test_two_regularizers_of_one_network_do_not_disturb_each_other():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    one = up.SelectivityRegularizer(model, "1", -1.0).attach()
    other = up.SelectivityRegularizer(model, "3", 1.0).attach()
    for _ in range(2):
        model(images)
        assert one(labels).requires_grad
        assert other(labels).requires_grad
        assert list(one.layer_selectivity) == ["1"]
    one.detach()
    other.detach()
    assert networks.count_hooks(model) == 0


def test_a_probe_between_the_batch_and_its_term_is_not_taken_for_the_batch():
    model = networks.ReusedInPlace()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    with up.SelectivityRegularizer(model) as regularizer:
        model(images)
        expected = float(regularizer(labels).detach())
        model(images)
        with up.Probe(model) as probe:
            probe(torch.randn(8, 3, 8, 8))
        term = regularizer(labels)
    assert term.requires_grad
    assert float(term.detach()) == pytest.approx(expected)


def test_a_term_without_a_gradient_is_warned_of():
    model = networks.ReusedInPlace()
    with up.SelectivityRegularizer(model) as regularizer:
        with torch.no_grad():
            model(torch.randn(8, 3, 8, 8))
        with pytest.warns(UnitprobeWarning, match="use_reentrant"):
            regularizer(torch.arange(8) % 4)


def test_every_argument_of_the_network_is_passed_on():
    class Conditional(networks.ReusedInPlace):
        def forward(self, image, scale, shift=None):
            return super().forward(image * scale + shift)

    model = Conditional()
    with up.SelectivityRegularizer(model) as regularizer:
        model(image=torch.randn(8, 3, 8, 8), scale=2.0, shift=torch.ones(8, 1, 1, 1))
        assert regularizer(torch.arange(8) % 4).requires_grad


def gradients(model):
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in found])


class Plain(nn.Module):
    """Convolutions and ReLUs of every form, without batch statistics."""

    def __init__(self, in_place=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=in_place)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = nn.functional.relu(self.conv2(x))
        return self.linear(x.mean((2, 3)))


def test_a_compiled_network_has_one_graph_and_the_same_gradient():
    for model in (networks.ResNet20(classes=4), networks.ReusedInPlace(), Plain(in_place=True)):
        size = 32 if isinstance(model, networks.ResNet20) else 8
        images, labels = torch.randn(8, 3, size, size), torch.arange(8) % 4
        found = []
        for forward in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
            torch._dynamo.reset()
            with up.SelectivityRegularizer(forward, class_count=4, example=images) as regularizer:
                for _ in range(2):
                    model.zero_grad()
                    forward(images)
                    regularizer(labels).backward()
                found.append(gradients(model))
        assert torch._dynamo.utils.counters["graph_break"] == {}
        torch.testing.assert_close(found[0], found[1])


class Operators(nn.Module):
    """Operations called as operators, methods, properties and functions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.tanh(3 - (x * 2 + x).T.mT.relu_()[:, :4] / 2)
        return self.last(x)


def test_operations_of_a_compiled_network_are_told_apart_by_name():
    model, images, labels = Operators(), torch.randn(8, 6), torch.arange(8) % 2
    found = []
    for forward in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch._dynamo.reset()
        regularizer = up.SelectivityRegularizer(
            forward, ["relu", "relu_1", "add", "sub"], measure="d_prime", example=images
        )
        with regularizer:
            model.zero_grad()
            forward(images)
            regularizer(labels).backward()
            found.append((regularizer.layer_selectivity, gradients(model)))
    assert list(found[0][0]) == ["relu", "add", "relu_1", "sub"]
    torch.testing.assert_close(found[0], found[1])


def test_a_compiled_network_needs_an_example_before_its_first_batch():
    model = torch.compile(Plain(), backend="eager")
    with pytest.raises(OptionError, match="give the regularizer some stimuli, example=images"):
        up.SelectivityRegularizer(model)


def test_autocast_changes_little():
    model = networks.ResNet20(classes=4).to(memory_format=torch.channels_last)
    images, labels = batch()
    found = []
    for half in (False, True):
        with up.SelectivityRegularizer(model) as regularizer:
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                model(images)
                term = regularizer(labels)
            assert term.dtype == torch.float32
            term.backward()
            found.append((float(regularizer.selectivity), gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=0.01)
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.95


def test_gradient_checkpointing_changes_nothing():
    model = Plain()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4

    class Checkpointed(Plain):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    twin = Checkpointed()
    twin.load_state_dict(model.state_dict())
    for network in (model, twin):
        with up.SelectivityRegularizer(network) as regularizer:
            (network(images).square().mean() + regularizer(labels)).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_layers_can_have_weights():
    model = Plain()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    with up.SelectivityRegularizer(model, weights={"relu": 3.0, "rel*_1": 0.0}) as regularizer:
        model(images)
        regularizer(labels)
    assert list(regularizer.layer_selectivity) == ["relu", "relu_1"]
    first = regularizer.layer_selectivity["relu"]
    assert float(regularizer.selectivity) == pytest.approx(float(first))


def test_left_out_dead_units_neither_count_nor_pay():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias[:3] = -100
        model[0].bias[3:] = 1
    images, labels = torch.rand(9, 4), torch.arange(9) % 3
    found = []
    for leave_out in (False, True):
        with up.SelectivityRegularizer(model, leave_out_dead=leave_out) as regularizer:
            model(images)
            regularizer(labels)
        found.append(float(regularizer.selectivity))
    assert found[1] == pytest.approx(2 * found[0])
    with torch.no_grad():
        model[0].bias[:] = -100
    with up.SelectivityRegularizer(model, leave_out_dead=True) as regularizer:
        model(images)
        regularizer(labels).backward()
    assert float(regularizer.selectivity) == 0


def test_d_prime_is_the_one_that_is_measured():
    model = Plain()
    images, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % 4
    with up.Probe(model) as probe:
        responses = probe(images)
    expected = np.mean(
        [up.metrics.d_prime(r.double().numpy(), labels.numpy()).mean() for r in responses.values()]
    )
    with up.SelectivityRegularizer(model, measure="d_prime") as regularizer:
        model(images)
        regularizer(labels).backward()
    assert float(regularizer.selectivity) == pytest.approx(expected, rel=1e-2)
    assert torch.isfinite(gradients(model)).all()


def test_the_corrected_selectivity_of_noise_is_around_zero():
    model = nn.Sequential(nn.Linear(10, 200), nn.ReLU())
    labels = torch.arange(100) % 20
    with (
        up.SelectivityRegularizer(model) as raw,
        up.SelectivityRegularizer(model, measure="class_selectivity_corrected") as corrected,
    ):
        model(torch.randn(100, 10))
        raw(labels)
        corrected(labels).backward()
    assert float(raw.selectivity) > 0.3
    assert abs(float(corrected.selectivity)) < 0.1
    assert torch.isfinite(gradients(model)).all()


@pytest.mark.parametrize("measure", ["class_selectivity_corrected", "d_prime"])
def test_every_measure_bears_one_class_dead_units_and_absent_classes(measure):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 9))
    with torch.no_grad():
        model[0].bias[:3] = -100
    for labels in ([8, 2, 2, 8, 0], [3, 3, 3, 3, 3]):
        with up.SelectivityRegularizer(model, measure=measure) as regularizer:
            model(torch.rand(5, 4))
            model.zero_grad()
            regularizer(torch.tensor(labels)).backward()
        assert torch.isfinite(gradients(model)).all()
        assert math.isfinite(float(regularizer.selectivity))
    assert not gradients(model).any()


def test_batches_that_are_accumulated_have_the_gradient_of_one_large_batch():
    model = Plain().double()
    images, labels = torch.randn(24, 3, 8, 8, dtype=torch.double), torch.arange(24) % 4
    parts = torch.arange(24).split([5, 9, 10])
    with up.SelectivityRegularizer(model) as regularizer:
        model(images)
        regularizer(labels).backward()
        expected, selectivity = gradients(model), regularizer.selectivity
    with up.SelectivityRegularizer(model, accumulation=3, class_count=4) as regularizer:
        for _ in range(2):  # in the first round fewer than three batches have gone before
            model.zero_grad()
            for part in parts:
                model(images[part])
                (regularizer(labels[part]) / 3).backward()
    torch.testing.assert_close(gradients(model), expected)
    torch.testing.assert_close(regularizer.selectivity, selectivity)


def test_the_first_accumulated_batches_are_weighted_by_what_the_window_holds():
    torch.manual_seed(0)
    model = Plain().eval()
    images, labels = torch.randn(24, 3, 8, 8), torch.arange(24) % 4
    with up.SelectivityRegularizer(model) as regularizer:
        model(images)
        regularizer(labels).backward()
        alone = gradients(model)
    with up.SelectivityRegularizer(model, accumulation=4, class_count=4) as regularizer:
        for _ in range(4):  # the same batch: the window never changes the selectivity
            model.zero_grad()
            model(images)
            regularizer(labels).backward()
            torch.testing.assert_close(gradients(model), alone)


def test_the_accumulated_gradient_only_approximates_that_of_the_large_batch():
    torch.manual_seed(0)
    model = Plain().eval()
    images, labels = torch.randn(2, 4, 32, 3, 8, 8), torch.arange(32) % 4
    with up.SelectivityRegularizer(model) as regularizer:
        model(images[1].flatten(0, 1))
        regularizer(labels.repeat(4)).backward()
        exact = gradients(model)
    with up.SelectivityRegularizer(model, accumulation=4, class_count=4) as regularizer:
        for step in images:
            model.zero_grad()
            for batch in step:
                model(batch)
                (regularizer(labels) / 4).backward()
    error = float((gradients(model) - exact).norm() / exact.norm())
    assert error > 0.05


def test_an_alpha_of_zero_measures_and_adds_nothing():
    model = Plain()
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    with up.SelectivityRegularizer(model, alpha=0.0) as regularizer:
        (model(images).sum() + regularizer(labels)).backward()
        measured = float(regularizer.selectivity)
        with_term = gradients(model)
        regularizer.alpha = -1.0
        model(images)
        assert regularizer(labels).item() == pytest.approx(measured)
        with pytest.raises(OptionError, match="nan is not a finite number"):
            regularizer.alpha = math.nan
    model.zero_grad()
    model(images).sum().backward()
    torch.testing.assert_close(with_term, gradients(model))


def test_a_mistaken_argument_is_named():
    model = Plain()
    for arguments, message in (
        ({"measure": "selectivity"}, "measure='selectivity' is not known"),
        ({"weights": {"relu": -1.0}}, "'relu' has -1.0; give 0 or more"),
        ({"accumulation": 0}, "accumulation=0 is not positive"),
        ({"class_count": 1}, "at least two classes"),
    ):
        with pytest.raises(OptionError, match=message):
            up.SelectivityRegularizer(model, **arguments)
    example = torch.randn(2, 3, 8, 8)
    with pytest.raises(LayerNotFoundError, match="'rellu' matches none of the 2 layers"):
        up.SelectivityRegularizer(model, weights={"rellu": 1.0}, example=example).attach()
    with pytest.raises(OptionError, match="all 2 layers have weight 0"):
        up.SelectivityRegularizer(model, weights={"*": 0.0}, example=example).attach()
    with up.SelectivityRegularizer(model, class_count=3) as regularizer:
        for labels, message in (
            (torch.tensor([0, 1, 2, 3]), "label 3 is not one of the classes 0..2"),
            (torch.tensor([0, 1, 2, -1]), "the lowest is -1"),
            (torch.tensor([0.0, 1, 2, 1]), "must be integers"),
        ):
            model(torch.randn(4, 3, 8, 8))
            with pytest.raises(LabelError, match=message):
                regularizer(labels)
    assert networks.count_hooks(model) == 0


def test_layers_that_can_be_negative_are_warned_of():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 6), nn.ReLU())
    example = torch.rand(4, 4)
    with pytest.warns(UnitprobeWarning, match=r"1 of 2 .* the first '1' \(gelu\)"):
        up.SelectivityRegularizer(model, example=example).attach().detach()
    up.SelectivityRegularizer(model, measure="d_prime", example=example).attach().detach()
    up.SelectivityRegularizer(model, "kind:relu", example=example).attach().detach()


@pytest.mark.parametrize("measure", ["class_selectivity", "d_prime"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_term_does_not_depend_on_the_scale_of_responses(measure, dtype):
    torch.manual_seed(0)
    images = torch.rand(40, 12, dtype=dtype)
    images[:, 3] = 0.0  # a silent unit
    images[:, 4] = 0.5  # a constant unit
    labels = torch.arange(40) % 4
    found = []
    for scale in (1.0, 1e-3, 1e-6, 1e4):
        model = nn.ReLU()
        scaled = (scale * images).requires_grad_()
        with up.SelectivityRegularizer(model, measure=measure) as regularizer:
            model(scaled)
            regularizer(labels).backward()
        assert torch.isfinite(scaled.grad).all()
        found.append(float(regularizer.selectivity))
    np.testing.assert_allclose(found, found[0], rtol=2e-6)


def test_weights_of_layers_keep_the_precision_of_the_network():
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.ReLU()).double()
    images, labels = torch.rand(12, 6, dtype=torch.float64), torch.arange(12) % 3
    weights = {"0": 0.1, "2": 0.7}
    with up.SelectivityRegularizer(model, weights=weights) as regularizer:
        model(images)
        regularizer(labels)
    of_layers = {name: float(value) for name, value in regularizer.layer_selectivity.items()}
    expected = (0.1 * of_layers["0"] + 0.7 * of_layers["2"]) / 0.8
    assert float(regularizer.selectivity) == pytest.approx(expected, rel=1e-15)
