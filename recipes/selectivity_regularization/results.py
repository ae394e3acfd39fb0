"""What is kept of a run: one small Dataset."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from recipes.selectivity_regularization.images import Splits
from recipes.selectivity_regularization.measuring import SHUFFLES, LayerMeasures
from recipes.selectivity_regularization.settings import Settings
from unitprobe.layers import Layer

SCHEMA_VERSION = 1

_CURVES = (
    "train_loss",
    "train_accuracy",
    "train_selectivity",
    "learning_rate",
    "alpha",
    "seconds",
    "validation_accuracy",
)


def make_result(
    settings: Settings,
    splits: Splits,
    layers: list[Layer],
    curves: list[dict[str, Any]],
    class_accuracy: npt.NDArray[np.float64],
    measures: list[LayerMeasures],
    environment: dict[str, Any],
) -> xr.Dataset:
    """Return what is kept of a run; its names and dimensions are described in README.md.

    Parameters
    ----------
    settings : Settings
    splits : Splits
    layers : list of Layer
    curves : list of dict
        A row for each epoch.
    class_accuracy : array
        (class_name,), on test.
    measures : list of LayerMeasures
        One for each layer, on test.
    environment : dict
        From `describe_environment`.
    """
    counts = np.bincount(splits.test.labels, minlength=len(splits.class_names))
    selectivity = [row["validation_class_selectivity"] for row in curves]
    return xr.Dataset(
        {
            **{name: ("epoch", [row[name] for row in curves]) for name in _CURVES},
            **{
                name: ("layer", [asdict(measure)[name] for measure in measures])
                for name in asdict(measures[0])
            },
            "validation_class_selectivity": (("epoch", "layer"), selectivity),
            "units": ("layer", [layer.units for layer in layers]),
            "test_accuracy": float(np.average(class_accuracy, weights=counts)),
            "test_class_accuracy": ("class_name", class_accuracy),
        },
        coords={
            "epoch": np.arange(1, len(curves) + 1),
            "layer": [layer.name for layer in layers],
            "class_name": splits.class_names,
        },
        attrs={
            "schema_version": SCHEMA_VERSION,
            "config": json.dumps(settings.as_json()),
            "environment": json.dumps(environment),
            "null_shuffles": SHUFFLES,
            "test_stimuli": len(splits.test),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def describe_environment(device: torch.device, processes: int, compiled: bool) -> dict[str, Any]:
    """Return what a run was trained with, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "unitprobe": version("unitprobe"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.type}: {name}",
        "processes": processes,
        "compiled": compiled,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
    }
