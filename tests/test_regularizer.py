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
