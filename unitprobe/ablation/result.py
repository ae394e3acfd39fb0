"""Label what a sweep counted."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.ablation.outcome import Outcomes
from unitprobe.ablation.sweep import Sweep, SweepOptions
from unitprobe.ablation.targets import Targets
from unitprobe.layers import Layer
from unitprobe.models import Network
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION


def result_tree(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    swept: Sequence[Targets],
    sweep: Sweep,
    options: SweepOptions,
) -> xr.DataTree:
    """Label what a sweep found; see `ablate`."""
    intact = sweep.intact
    total = sweep.class_count.sum()
    root = xr.Dataset(
        {
            "accuracy": (
                (),
                float(intact.correct.sum() / total),
                {"long_name": "accuracy of the intact network"},
            ),
            "class_accuracy": ("class_name", shares(intact.correct[0], sweep.class_count)),
            "balanced_accuracy": ("class_name", balanced_accuracy(intact, sweep.class_count)[0]),
            "loss": ((), float(intact.loss[0] / total), {"units": "nats"}),
            "class_count": ("class_name", sweep.class_count),
        },
        coords={"class_name": np.asarray(stimuli.class_names, dtype=object)},
        attrs={
            "unitprobe_content": "ablation",
            "unitprobe_schema": SCHEMA_VERSION,
            "unitprobe_version": version("unitprobe"),
            "network": network.name,
            "weights_fingerprint": network.fingerprint,
            "stimuli": stimuli.name,
            "stimuli_fingerprint": stimuli.fingerprint,
            "stimulus_count": len(stimuli),
            "mode": options.mode,
            "method": sweep.method,
        },
    )
    nodes = {
        layer.name: _layer_result(sweep, targets)
        for layer, targets in zip(layers, swept, strict=True)
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def _layer_result(sweep: Sweep, targets: Targets) -> xr.Dataset:
    intact, ablated = sweep.intact, sweep.ablated[targets.layer.name]
    count = sweep.class_count
    total = count.sum()
    by_class = shares(intact.correct, count) - shares(ablated.correct, count)
    balanced = balanced_accuracy(intact, count) - balanced_accuracy(ablated, count)
    dim = "unit"
    coordinates = targets.single_units
    if coordinates is None:
        dim = "direction" if targets.directions is not None else "group"
        coordinates = list(range(len(targets)))
    return xr.Dataset(
        {
            "accuracy_drop": (dim, (intact.correct.sum() - ablated.correct.sum(1)) / total),
            "class_accuracy_drop": ((dim, "class_name"), by_class),
            "max_class_accuracy_drop": (dim, by_class[:, count > 0].max(axis=1)),
            "balanced_accuracy_drop": ((dim, "class_name"), balanced),
            "loss_increase": (dim, (ablated.loss - intact.loss) / total, {"units": "nats"}),
            "changed_predictions": (dim, ablated.changed, {"units": "stimuli"}),
        },
        coords={dim: np.asarray(coordinates, dtype=np.int64)},
    )


def shares(counts: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return counts over how many there are; NaN for a class without stimuli."""
    of = np.broadcast_to(of, counts.shape)
    result: npt.NDArray[np.float64] = np.full(counts.shape, np.nan)
    np.divide(counts, of, out=result, where=of > 0)
    return result


def balanced_accuracy(
    outcomes: Outcomes, class_count: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the accuracy of telling each class from the rest, (target, class_name), in 0..1.

    Half the share of the class that is classified as it, and half the share of all others that
    are not (Bau et al. 2020, "Understanding the role of individual units in a deep neural
    network", supplement); NaN for a class without stimuli, or with all.
    """
    others = class_count.sum() - class_count
    recall = shares(outcomes.correct, class_count)
    false_positives = outcomes.taken_for - outcomes.correct
    return (recall + 1 - shares(false_positives, others)) / 2
