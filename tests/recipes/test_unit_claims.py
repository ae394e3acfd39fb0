"""The claims about single units: when they are supported, refuted or inconclusive."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import unitprobe as up
from recipes.single_unit_ablation.unit_claims import judge_c9, judge_c10, judge_c11
from unitprobe.errors import StoreError
from unitprobe.protocols import bau_protocol, morcos_protocol, zhou_protocol


@pytest.fixture(scope="module")
def trees():
    torch.manual_seed(0)
    digits = up.load_stimuli("digits", limit=100)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ).eval()
    return {
        "zhou": zhou_protocol(model, digits, n_directions=0, resamples=20),
        "morcos": morcos_protocol(model, digits, n_orders=3, n_points=3, resamples=20),
        "bau": bau_protocol(model, digits, n_random=2),
    }


def sweep(drop, largest, chance=0.0, units=200):
    noise = np.linspace(-0.002, 0.002, units)
    node = {
        "accuracy_drop": ("unit", drop + noise),
        "max_class_accuracy_drop": ("unit", largest + noise),
    }
    if chance is not None:
        node["max_class_accuracy_drop_null_mean"] = ("unit", np.full(units, chance))
    return xr.DataTree.from_dict({"relu": xr.Dataset(node)})


def correlations(of_class, overall, width=0.05, layers=None):
    """A tree whose pooled correlations have these values, as intervals of some width."""
    predictors = ["class_selectivity", "class_correlation", "incoming_l1", "activity"]
    value = np.repeat([[overall], [of_class], [overall]], 4, axis=1)
    dims = ("damage", "predictor")
    pooled = {
        "": value,
        "_low": value - width,
        "_high": value + width,
        "_p": np.full((3, 4), 0.5),
        "_q": np.full((3, 4), 0.5),
        "_units": np.full((3, 4), 5000.0),
    }
    signs = np.array([1.0, 1.0]) if layers is None else np.array(layers)
    by_layer = {
        "": signs[:, None, None] if layers else value[None] * signs[:, None, None],
        "_low": None,
        "_high": None,
    }
    by_layer[""] = np.broadcast_to(by_layer[""], (2, 3, 4))
    by_layer["_low"], by_layer["_high"] = by_layer[""] - width, by_layer[""] + width
    by_layer["_units"] = np.full((2, 3, 4), 2500.0)
    return xr.DataTree(
        xr.Dataset(
            {f"pooled_correlation{part}": (dims, numbers) for part, numbers in pooled.items()}
            | {
                f"correlation{part}": (("layer", *dims), numbers)
                for part, numbers in by_layer.items()
            },
            coords={
                "layer": ["relu1", "relu2"],
                "damage": ["accuracy_drop", "max_class_accuracy_drop", "loss_increase"],
                "predictor": predictors,
            },
        )
    )


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (sweep(drop=0.002, largest=0.12), "supported"),
        (sweep(drop=0.03, largest=0.12), "refuted"),
        (sweep(drop=0.002, largest=0.03), "refuted"),
        # As large as chance makes the largest of several classes.
        (sweep(drop=0.002, largest=0.12, chance=0.11), "refuted"),
        (sweep(drop=0.002, largest=0.12, chance=None), "inconclusive"),
    ],
)
def test_c9_needs_a_small_overall_and_a_large_class_drop(tree, expected):
    assert judge_c9(tree).verdict == expected


@pytest.mark.parametrize(
    ("of_class", "overall", "expected"),
    [
        (0.5, 0.05, "supported"),
        (0.1, 0.05, "refuted"),
        (0.22, 0.05, "inconclusive"),
        # The paper does not say that these fail to predict the overall damage.
        (0.5, 0.5, "supported"),
    ],
)
def test_c10_needs_three_correlations_with_the_damage_to_a_class(of_class, overall, expected):
    judged = judge_c10(correlations(of_class, overall))
    assert judged.verdict == expected
    assert len(judged.findings) == 3


def test_c11_is_refuted_by_layers_whose_signs_cancel():
    judged = judge_c11(correlations(0, 0.0, layers=[-0.6, 0.5]))
    assert judged.verdict == "refuted"
    assert judged.findings[0].verdict == "supported"  # the mean over layers
    assert len(judged.findings) == 6  # accuracy and loss: all units, and two layers


def test_a_refutation_is_held_to_the_level_of_all_findings():
    barely = correlations(0, 0.0, width=0.05, layers=[0.26, 0.0])
    barely["correlation_units"][:] = 800.0
    judged = judge_c11(barely)
    assert judged.verdict == "inconclusive"


def test_an_absence_is_not_supported_by_a_wide_interval_around_nothing():
    assert judge_c11(correlations(0, 0.0, width=0.1)).verdict == "supported"
    wide = judge_c11(correlations(0, 0.0, width=0.3))
    assert wide.verdict == "inconclusive"
    assert (wide.findings[0].low, wide.findings[0].high) == (0.0, 0.3)


def test_trees_of_protocols_are_judged(trees):
    assert judge_c9(trees["zhou"]).findings[1].units == 8
    assert judge_c11(trees["morcos"]).claim == "C11"


def test_a_tree_of_something_else_is_refused(trees):
    with pytest.raises(StoreError, match="no 'accuracy_drop' of single units"):
        judge_c9(trees["bau"])
    with pytest.raises(StoreError, match="'max_class_accuracy_drop' with 'class_selectivity'"):
        judge_c10(trees["morcos"])
    with pytest.raises(StoreError, match="no correlation"):
        judge_c11(trees["bau"])
