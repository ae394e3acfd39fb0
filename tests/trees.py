"""Analyses and ablations in memory, for the tests of plots and reports."""

import numpy as np
import xarray as xr

import unitprobe as up

LAYERS = {"conv1.relu": 6, "layer1.0.relu": 8, "layer1.0.relu_1": 5}


def make_recording(layers=LAYERS, classes=("zero", "one", "two"), stimuli=60, negative=False):
    """Rectified noise with more class signal the deeper the layer; the last unit is dead."""
    rng = np.random.default_rng(0)
    labels = np.arange(stimuli) % len(classes)
    nodes = {}
    for depth, (name, units) in enumerate(layers.items()):
        preferred = labels[:, None] == np.arange(units) % len(classes)
        responses = rng.standard_normal((stimuli, units)) + 3 * depth / len(layers) * preferred
        responses = responses if negative else np.maximum(responses, 0)
        responses[:, -1] = 0
        nodes[name] = xr.Dataset(
            {"response": (("stimulus", "unit"), responses)}, coords={"unit": np.arange(units)}
        )
    root = xr.Dataset(
        coords={
            "stimulus": [f"image {i}" for i in range(stimuli)],
            "label": ("stimulus", labels),
            "class_name": np.asarray(classes, dtype=object),
        },
        attrs={
            "unitprobe_content": "recording",
            "network": "toy",
            "weights_fingerprint": "abc123",
            "preprocessing": "Resize(8)",
            "pool": "mean",
            "stimuli": "noise",
        },
    )
    return xr.DataTree.from_dict({"/": root, **nodes})


def make_analysis(layers=LAYERS, classes=("zero", "one", "two"), **options):
    options = {"n_permutations": 20, "n_bootstrap": 20, "progress": False} | options
    return up.analyze(make_recording(layers, classes), **options)


def make_ablation(analysis, fingerprint="abc123"):
    """Drops that grow with the number of the unit, and most for the last class."""
    classes = analysis.sizes["class_name"]
    nodes = {}
    for name, node in analysis.children.items():
        units = node.sizes["unit"]
        drops = np.outer(np.arange(units), np.arange(classes)) / (10.0 * units * classes)
        nodes[name] = xr.Dataset(
            {
                "accuracy_drop": ("unit", drops.mean(1)),
                "class_accuracy_drop": (("unit", "class_name"), drops),
                "max_class_accuracy_drop": ("unit", drops.max(1)),
                "loss_increase": ("unit", drops.mean(1)),
            },
            coords={"unit": node["unit"].values},
        )
    root = xr.Dataset(
        {"accuracy": ((), 0.875), "class_accuracy": ("class_name", np.full(classes, 0.875))},
        coords={"class_name": analysis["class_name"].values},
        attrs={
            "unitprobe_content": "ablation",
            "weights_fingerprint": fingerprint,
            "stimuli": "noise",
            "stimulus_count": 60,
            "mode": "zero",
            "method": "full",
        },
    )
    return xr.DataTree.from_dict({"/": root, **nodes})


def assert_allclose(one, other, rtol):
    """Compare trees node by node: early versions of xarray compare no trees."""
    assert set(one.groups) == set(other.groups)
    for group in one.groups:
        xr.testing.assert_allclose(one[group].to_dataset(), other[group].to_dataset(), rtol=rtol)
