"""The mean over positions has the gradient that plain PyTorch gives it, whatever the layout."""

import pytest
import torch
from layouts import LAYOUTS
from torch import nn

from unitprobe.regularizer.pooling import activation_and_mean


def both(activate, layout, pass_on, dtype=torch.float64):
    """Return values and gradients of our mean, and those of plain operations."""
    shape, unit, memory_format = layout
    unit %= len(shape)
    positions = [axis for axis in range(1, len(shape)) if axis != unit]
    torch.manual_seed(1)
    start = torch.randn(shape, dtype=dtype)
    if len(shape) == 4:
        start = start.to(memory_format=memory_format)
    weight = torch.randn(shape[0], shape[unit], dtype=torch.float64)
    results = []
    for ours in (True, False):
        x = start.clone(memory_format=torch.preserve_format).requires_grad_()
        activation = activate(x * 1.0)
        if ours:
            passed_on, mean = activation_and_mean(activation, unit)
            assert passed_on.data_ptr() == activation.data_ptr()
            activation = passed_on if pass_on else activation
        else:
            wide = activation.double()
            mean = wide.mean(positions) if positions else wide
        loss = (activation.double() ** 2).sum() + (weight * mean.double() ** 2).sum()
        loss.backward()
        results.append((mean.detach().double(), x.grad.double()))
    return results


@pytest.mark.parametrize("pass_on", [True, False], ids=["passed on", "not passed on"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(
    "activate",
    [torch.relu, nn.functional.gelu, lambda x: x.relu_(), nn.ReLU(inplace=True)],
    ids=["relu", "gelu", "relu_", "in-place module"],
)
def test_values_and_gradients_are_those_of_plain_operations(activate, layout, pass_on):
    (mean, gradient), (expected, expected_gradient) = both(activate, layout, pass_on)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("layout", ["map, channels last", "tokens", "map"])
def test_half_precision_has_the_gradient_of_plain_operations(layout):
    (_, gradient), (_, expected) = both(torch.relu, LAYOUTS[layout], True, torch.bfloat16)
    torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("activate", [torch.relu, nn.functional.softplus])
def test_a_gradient_of_the_gradient_flows(activate):
    start = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def function(x):
        passed_on, mean = activation_and_mean(activate(x * 1.0), 1)
        return (passed_on**2).sum() + (mean**3).sum()

    assert torch.autograd.gradcheck(function, start)
    assert torch.autograd.gradgradcheck(function, start)


def test_the_mean_alone_or_the_activation_alone_may_be_used():
    for activate in (torch.relu, nn.functional.gelu):
        for use in (0, 1):
            x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
            activation_and_mean(activate(x * 1.0), 1)[use].sum().backward()
            y = x.detach().requires_grad_()
            activation = activate(y)
            (activation.mean((2, 3)) if use else activation).sum().backward()
            torch.testing.assert_close(x.grad, y.grad)


def test_a_gradient_that_another_layer_or_a_hook_holds_is_left_as_it_is():
    x = torch.randn(2, 16, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    shortcut = torch.zeros_like(x).requires_grad_()
    weight = torch.rand_like(x)
    held = []
    passed_on, mean = activation_and_mean(torch.relu(x * 1.0), 1)
    passed_on.register_hook(held.append)
    (((passed_on + shortcut) * weight).sum() + mean.sum()).backward()
    torch.testing.assert_close(shortcut.grad, weight)
    torch.testing.assert_close(held[0], weight)


def test_an_operation_in_place_after_the_layer_is_seen_by_autograd():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    passed_on, mean = activation_and_mean(torch.relu(x * 1.0), 1)
    passed_on.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (passed_on.sum() + mean.sum()).backward()
