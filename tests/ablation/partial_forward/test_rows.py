"""Rows of a run are some stimuli of some variants, one after another."""

import pytest
import torch

from unitprobe.ablation.partial_forward.network_graph import Batched
from unitprobe.ablation.partial_forward.rows import Rows
from unitprobe.ablation.partial_forward.unit_change import Narrow, is_channels_last

CHOSEN = {
    "some": torch.tensor([[True, False, True], [False, True, False]]),
    "all": torch.ones(2, 3, dtype=torch.bool),
}
PLACES = {name: chosen.nonzero().tolist() for name, chosen in CHOSEN.items()}


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("which", CHOSEN)
@pytest.mark.parametrize(("axis", "times"), [(0, 1), (0, 4), (1, 1), (1, 2)])
def test_an_intact_value_is_repeated_for_every_row(which, axis, times):
    shape = [5, 5, 2]
    shape[axis] = 3 * times
    value = numbers(*shape)
    by_stimulus = value.split(times, axis)
    expected = torch.cat([by_stimulus[stimulus] for _, stimulus in PLACES[which]], axis)
    found = Rows(CHOSEN[which]).spread(value, Batched(axis, times))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("which", CHOSEN)
def test_activations_are_combined_with_the_intact_ones_of_their_stimulus(which):
    places, intact = PLACES[which], numbers(3, 4, 2, 2)
    activations = numbers(len(places), 4, 2, 2)
    found = Rows(CHOSEN[which]).combine(torch.sub, activations, intact)
    expected = torch.stack([activations[i] - intact[s] for i, (_, s) in enumerate(places)])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("which", CHOSEN)
def test_a_narrow_activation_is_widened_and_added_in_its_rows(which):
    rows, places = Rows(CHOSEN[which]), PLACES[which]
    narrow = Narrow(numbers(3, 2, 4), 1, torch.tensor([1, 3]), numbers(3, 5, 4))
    expected = []
    for variant, stimulus in places:
        whole = narrow.intact[stimulus].clone()
        whole[narrow.units[variant]] = narrow.values[stimulus, variant]
        expected.append(whole)
    expected = torch.stack(expected)
    assert torch.equal(rows.widen(narrow), expected)
    added = torch.stack([narrow.intact[stimulus] for _, stimulus in places])
    rows.add_change(added, narrow)
    torch.testing.assert_close(added, expected)


@pytest.mark.parametrize("which", CHOSEN)
def test_maps_with_units_side_by_side_stay_so(which):
    maps = numbers(3, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    assert is_channels_last(Rows(CHOSEN[which]).spread(maps, Batched(0, 1)))
