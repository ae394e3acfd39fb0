"""What a user may give as indices of units."""

import numpy as np
import pytest
import torch
from torch import nn

import unitprobe as up
from unitprobe.errors import OptionError
from unitprobe.layers import unit_indices


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, [3]),
        (np.int64(3), [3]),
        ([2, 0], [2, 0]),
        ((np.uint8(1),), [1]),
        (range(1, 3), [1, 2]),
        (np.array([3, 1]), [3, 1]),
        (torch.tensor([3]), [3]),
        ([True, False, False, True], [0, 3]),
        (np.array([False, True, False, False]), [1]),
        (torch.tensor([False, True, False, True]), [1, 3]),
        ([], []),
    ],
)
def test_integers_and_masks_are_indices(given, expected):
    assert unit_indices(given, 4, "layer 'relu'") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5], r"units \[0.5\] of layer 'relu' are not indices"),
        ([1.9], "are not indices; give integers such as"),
        (1.0, "are not indices"),
        ([1.0], "are not indices"),
        (True, "units True of layer 'relu' are not indices"),
        (np.bool_(True), "are not indices"),
        ([True, 2], "are not indices"),
        ("3", "units '3' of layer 'relu' are not indices"),
        (["1"], "are not indices"),
        ([[0, 1]], "are not indices"),
        ([None], "are not indices"),
        ([True, False], "mask of 2 booleans does not fit layer 'relu', which has 4 units"),
        ([-1], "unit -1 is not in layer 'relu', which has units 0 to 3"),
        (4, "unit 4 is not in layer"),
    ],
)
def test_anything_else_is_one_line(given, message):
    with pytest.raises(OptionError, match=message) as caught:
        unit_indices(given, 4, "layer 'relu'")
    assert "\n" not in str(caught.value)


NET = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
).eval()
STIMULI = up.Stimuli(np.random.default_rng(0).random((12, 3, 8, 8), np.float32), [0, 1, 2] * 4)


@pytest.mark.parametrize("function", [up.ablate, up.attribute])
def test_ablation_reads_units_and_groups_so(function):
    options = {"layers": "1", "progress": False}
    mask = np.array([False, True, False, True])
    tree = function(NET, STIMULI, units=mask, **options)
    assert tree["1"]["unit"].values.tolist() == [1, 3]
    assert function(NET, STIMULI, units={"1": 3}, **options)["1"]["unit"].values.tolist() == [3]
    masked = function(NET, STIMULI, groups=[mask, ~mask], **options)["1"]["loss_increase"]
    listed = function(NET, STIMULI, groups=[[1, 3], [0, 2]], **options)["1"]["loss_increase"]
    np.testing.assert_array_equal(masked.values, listed.values)
    for wrong in ({"units": [0.5]}, {"units": True}, {"groups": [[0.5]]}, {"groups": 3}):
        with pytest.raises(OptionError):
            function(NET, STIMULI, **wrong, **options)
