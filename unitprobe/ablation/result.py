"""Label what a sweep counted."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe.ablation.chance import max_drop_chance
from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.outcome import Outcomes
from unitprobe.ablation.settings import Noise, SweepOptions, Value, mode_name
from unitprobe.ablation.sweep import Sweep
from unitprobe.ablation.targets import Targets
from unitprobe.layers import Layer
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION


def result_tree(
    network: Classifier,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    swept: Sequence[Targets],
    sweep: Sweep,
    options: SweepOptions,
    n_permutations: int = 0,
) -> xr.DataTree:
    """Label what a sweep found; see `unitprobe.ablate`."""
    root = root_result(network, stimuli, sweep.intact, options)
    root.attrs["method"] = sweep.method
    if n_permutations:
        root.attrs["n_permutations"] = n_permutations
    nodes = {
        layer.name: _layer_result(sweep, targets, n_permutations, options.seed)
        for layer, targets in zip(layers, swept, strict=True)
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def root_result(
    network: Classifier, stimuli: Stimuli, intact: Outcomes, options: SweepOptions
) -> xr.Dataset:
    """Return what the intact network does, and what was asked for."""
    count = np.bincount(stimuli.labels, minlength=len(stimuli.class_names))
    total = count.sum()
    attributes = {
        "unitprobe_content": "ablation",
        "unitprobe_schema": SCHEMA_VERSION,
        "unitprobe_version": version("unitprobe"),
        "network": network.name,
        "weights_fingerprint": network.fingerprint,
        "stimuli": stimuli.name,
        "stimuli_fingerprint": stimuli.fingerprint,
        "stimulus_count": len(stimuli),
        "absent_classes": len(stimuli.absent_classes),
        "mode": mode_name(options.mode),
        "output_kind": network.kind,
        "seed": options.seed,
    }
    if isinstance(options.mode, Value):
        attributes["value"] = options.mode.value
    if isinstance(options.mode, Noise):
        attributes["noise_scale"] = options.mode.scale
    return xr.Dataset(
        {
            "accuracy": labelled((), float(intact.correct.sum() / total), "accuracy"),
            "class_accuracy": labelled(
                "class_name", shares(intact.correct[0], count), "accuracy on the class"
            ),
            "balanced_accuracy": labelled(
                "class_name",
                balanced_accuracy(intact, count)[0],
                "accuracy of telling the class from the rest, each half the weight",
            ),
            "loss": labelled((), float(intact.loss[0] / total), "mean cross-entropy", "nats"),
            "class_count": labelled("class_name", count, "stimuli of the class", "stimuli"),
        },
        coords={"class_name": np.asarray(stimuli.class_names, dtype=object)},
        attrs=attributes,
    )


def target_coordinate(targets: Targets) -> tuple[str, npt.NDArray[np.int64]]:
    """Return the dimension of the targets and their numbers along it."""
    units = targets.single_units
    if units is not None:
        return "unit", np.asarray(units, dtype=np.int64)
    dim = "group" if targets.directions is None else "direction"
    return dim, np.arange(len(targets))


def labelled(
    dims: str | tuple[str, ...], values: npt.ArrayLike, long_name: str, units: str = "1"
) -> xr.Variable:
    """Return a variable that says what it is, and in which units."""
    return xr.Variable(dims, values, {"long_name": long_name, "units": units})


def _layer_result(sweep: Sweep, targets: Targets, n_permutations: int, seed: int) -> xr.Dataset:
    intact, ablated = sweep.intact, sweep.ablated[targets.layer.name]
    count = sweep.class_count
    total = count.sum()
    lost = intact.correct - ablated.correct
    by_class = shares(lost, count)
    balanced = balanced_accuracy(intact, count) - balanced_accuracy(ablated, count)
    dim, numbers = target_coordinate(targets)
    both = (dim, "class_name")
    result = xr.Dataset(
        {
            "accuracy_drop": labelled(
                dim, lost.sum(1) / total, "accuracy of the intact minus that of the ablated network"
            ),
            "class_accuracy_drop": labelled(both, by_class, "accuracy drop on the class"),
            "max_class_accuracy_drop": labelled(
                dim, by_class[:, count > 0].max(axis=1), "largest accuracy drop over classes"
            ),
            "balanced_accuracy_drop": labelled(
                both, balanced, "drop of the accuracy of telling the class from the rest"
            ),
            "loss_increase": labelled(
                dim,
                (ablated.loss - intact.loss) / total,
                "mean cross-entropy of the ablated minus that of the intact network",
                "nats",
            ),
            "changed_predictions": labelled(
                dim, ablated.changed, "stimuli that get another answer", "stimuli"
            ),
        },
        coords={dim: numbers},
    )
    if n_permutations:
        chance = max_drop_chance(
            count,
            intact.correct[0],
            ablated.correct,
            ablated.lost,
            ablated.gained,
            n_permutations=n_permutations,
            seed=seed,
        )
        result["max_class_accuracy_drop_null_mean"] = labelled(
            dim, chance.mean, "mean largest drop if as many stimuli were hit whatever their class"
        )
        result["max_class_accuracy_drop_p"] = labelled(
            dim, chance.p, "share of random sets of as many stimuli with so large a largest drop"
        )
    return result


def shares(counts: npt.NDArray[Any], of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
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
