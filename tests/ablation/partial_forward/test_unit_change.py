"""A change in one unit of each variant is widened to, and added to, whole activations."""

import torch

from unitprobe.ablation.partial_forward.unit_change import UnitChange, is_channels_last, tile


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_narrow_activation_is_widened_and_added():
    narrow = UnitChange(numbers(3, 2, 4), 1, torch.tensor([1, 3]), numbers(3, 5, 4))
    expected = []
    for variant in range(2):
        whole = narrow.intact.clone()
        whole[:, narrow.units[variant]] = narrow.values[:, variant]
        expected.append(whole)
    assert torch.equal(narrow.widen(), torch.cat(expected))
    added = narrow.intact.repeat(2, 1, 1)
    narrow.add_to(added)
    torch.testing.assert_close(added, torch.cat(expected))


def test_the_units_of_tokens_are_the_last_axis():
    narrow = UnitChange(numbers(3, 4, 2), 2, torch.tensor([1, 3]), numbers(3, 4, 5))
    added = narrow.intact.repeat(2, 1, 1)
    narrow.add_to(added)
    torch.testing.assert_close(added, narrow.widen())


def test_maps_with_units_side_by_side_stay_so():
    maps = numbers(3, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    assert is_channels_last(tile(maps, 2))
