"""The mean over positions is that of values in single precision, whatever the layout."""

import pytest
import torch
from layouts import LAYOUTS

from unitprobe.means import mean_over_positions


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_half_precision_is_averaged_in_single_precision(layout, dtype):
    shape, unit, memory_format = layout
    values = torch.randn(shape, dtype=dtype)
    if len(shape) == 4:
        values = values.to(memory_format=memory_format)
    mean = mean_over_positions(values, unit)
    assert mean.dtype == torch.float32
    axes = [axis for axis in range(1, len(shape)) if axis != unit % len(shape)]
    torch.testing.assert_close(mean, values.float().mean(axes) if axes else values.float())


def test_a_large_half_precision_map_is_averaged_in_single_precision():
    values = torch.randn(3, 48, 100, 101).bfloat16().to(memory_format=torch.channels_last)
    mean = values.float().mean((2, 3))
    torch.testing.assert_close(mean_over_positions(values, 1), mean)
    torch.testing.assert_close(mean_over_positions(values.contiguous(), 1), mean)


def test_what_is_not_finite_stays_so_in_the_mean_of_half_precision():
    values = torch.ones(1, 4, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    values[0, :3, 1, 1] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    expected = torch.tensor([[torch.inf, -torch.inf, torch.nan, 1.0]])
    torch.testing.assert_close(mean_over_positions(values, 1), expected, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_single_and_double_precision_stay_so_and_nothing_is_a_view(layout):
    shape, unit, _ = layout
    for dtype in (torch.float32, torch.float64):
        values = torch.randn(shape, dtype=dtype)
        axes = [axis for axis in range(1, len(shape)) if axis != unit % len(shape)]
        expected = values.mean(axes) if axes else values.clone()
        mean = mean_over_positions(values, unit)
        values.zero_()
        assert mean.dtype == dtype
        assert torch.equal(mean, expected)


def test_the_mean_of_no_stimuli_is_empty():
    values = torch.empty(0, 4, 3, 3, dtype=torch.bfloat16)
    assert mean_over_positions(values, 1).shape == (0, 4)
    assert mean_over_positions(values.to(memory_format=torch.channels_last), 1).shape == (0, 4)
