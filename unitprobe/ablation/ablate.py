"""Ablate single units of a network, and label what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import nn

from unitprobe.ablation.outcome import Outcomes
from unitprobe.ablation.replacements import Mode
from unitprobe.ablation.sweep import Method, Sweep, SweepOptions, run_sweep
from unitprobe.ablation.targets import Targets
from unitprobe.batches import load_batches, prepare
from unitprobe.errors import LayerError, OptionError
from unitprobe.layers import Layer, Selection, list_layers, select_layers
from unitprobe.models import Network
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION, check_layer_names

#: Units of each layer, or of the layers by name.
Units = Sequence[int] | Mapping[str, Sequence[int]]
Groups = Sequence[Sequence[int]] | Mapping[str, Sequence[Sequence[int]]]
Directions = npt.ArrayLike | Mapping[str, npt.ArrayLike]


def ablate(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    units: Units | None = None,
    groups: Groups | None = None,
    directions: Directions | None = None,
    mode: Mode = "zero",
    value: float = 0.0,
    noise_scale: float = 1.0,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    method: Method = "auto",
    memory: int = 2**30,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> xr.DataTree:
    """Silence every unit in turn and measure what the network loses, overall and per class.

    Parameters
    ----------
    model : Network or nn.Module
        A classifier. It is left as it was found.
    stimuli : Stimuli
        Labelled images.
    layers : str, sequence of str or callable
        Which layers; see `unitprobe.layers.select_layers`.
    units : sequence of int, or mapping of str to it, optional
        Which units of each layer, or of each layer by name; all if None.
    groups : sequence of sequences of int, or mapping of str to it, optional
        Ablate several units at once, a group after another, instead of single units.
    directions : array (direction, unit), or mapping of str to it, optional
        Ablate directions in the space of a layer instead of its units: what is replaced is the
        activation's projection on each. Rows are brought to length 1.
    mode : {"zero", "mean", "class_mean", "resample", "noise", "value", "weights"}
        What takes the unit's place, at every position: zero; its mean over stimuli and positions,
        or over those of the stimulus' class; what it does on another stimulus, drawn at random;
        its own value with Gaussian noise; `value`. ``"weights"`` silences the convolution or
        linear layer that makes the unit, before its normalisation, as zeroing its weights and bias
        does: under batch normalisation the unit still passes on a constant.
    value : float
        For ``mode="value"``.
    noise_scale : float
        Standard deviation of the noise over that of the unit, for ``mode="noise"``.
    batch_size : int
        Stimuli in one forward pass.
    device : str or torch.device, optional
        Where to run; the network's own device if None.
    method : {"auto", "suffix", "full"}
        ``"full"`` runs the whole network for every unit. ``"suffix"`` captures it as a graph and
        computes only what a unit reaches; ``"auto"`` does so where the network allows.
    memory : int
        Bytes that the suffix engine may take for what it keeps.
    seed : int
        For ``"resample"`` and ``"noise"``.
    workers : int
        Processes that load images.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        At the root ``accuracy`` () and ``class_accuracy`` (class_name) of the intact network, in
        0..1, and ``loss``, its mean cross-entropy in nats. A node per layer with
        ``accuracy_drop`` (unit), ``class_accuracy_drop`` (unit, class_name), both intact minus
        ablated in -1..1; ``max_class_accuracy_drop`` (unit), the largest over classes, which is
        biased upward where classes have few stimuli; ``loss_increase`` (unit), ablated minus
        intact; ``balanced_accuracy_drop`` (unit, class_name), of telling one class from the rest:
        the mean of the share of the class and of the share of the others that are told right (Bau
        et al. 2020); ``changed_predictions`` (unit), stimuli with another answer. Groups and
        directions have the dimension ``group`` or ``direction`` in the place of ``unit``.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    LayerNotFoundError
        The selection matches no layer.
    OptionError
        The mode, method or a unit does not exist.

    Notes
    -----
    The activation is silenced, not the weights: under batch normalisation a unit without weights
    still passes on a constant. After Zhou, Sun, Bau and Torralba 2018, "Revisiting the importance
    of individual units in CNNs via ablation", section 3; the mean clamp and noise are from Morcos
    et al. 2018.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10)
    ... )
    >>> tree = up.ablate(network, up.load_stimuli("digits", limit=50))
    >>> tree["2"]["class_accuracy_drop"].sizes
    Frozen({'unit': 4, 'class_name': 10})
    """
    options = SweepOptions(
        mode, value, noise_scale, seed, batch_size, workers, method, memory, progress
    )
    with prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images):
        first, _ = next(load_batches(images, range(1), batch_size=1))
        listed = list_layers(network, example=first)
        chosen = select_layers(network.module, listed, layers)
        check_layer_names(layer.name for layer in chosen)
        swept = [_targets(layer, units, groups, directions) for layer in chosen]
        if mode == "weights":
            moved = [_made_by(targets.layer, listed) for targets in swept]
            swept = [Targets(a, t.groups) for a, t in zip(moved, swept, strict=True)]
        sweep = run_sweep(network, images, swept, options)
    return result_tree(network, images, chosen, swept, sweep, options)


def _targets(
    layer: Layer, units: Units | None, groups: Groups | None, directions: Directions | None
) -> Targets:
    assert layer.units is not None
    if sum(given is not None for given in (units, groups, directions)) > 1:
        raise OptionError("units=, groups= and directions= exclude each other; give one")
    if directions is not None:
        rows = _rows(layer, _of_layer(layer, directions))
        return Targets(layer, tuple((row,) for row in range(len(rows))), rows)
    if groups is not None:
        given = [list(group) for group in _of_layer(layer, groups)]
    elif units is not None:
        given = [[unit] for unit in _of_layer(layer, units)]
    else:
        given = [[unit] for unit in range(layer.units)]
    if not given or not all(given):
        raise OptionError("units=[] names no unit; give indices such as [0, 1], or None for all")
    for group in given:
        wrong = [unit for unit in group if not 0 <= unit < layer.units]
        if wrong:
            raise OptionError(
                f"unit {wrong[0]} is not in layer {layer.name!r}, "
                f"which has units 0 to {layer.units - 1}"
            )
    return Targets(layer, tuple(tuple(group) for group in given))


def _of_layer(layer: Layer, given: object) -> Any:
    if not isinstance(given, Mapping):
        return given
    if layer.name not in given:
        raise OptionError(
            f"layer {layer.name!r} is swept, but only {', '.join(map(repr, given))} are given; "
            "name it too, or choose these layers with layers="
        )
    return given[layer.name]


def _rows(layer: Layer, directions: npt.ArrayLike) -> torch.Tensor:
    rows = torch.as_tensor(np.asarray(directions, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != layer.units:
        raise OptionError(
            f"directions of shape {tuple(rows.shape)} do not fit layer {layer.name!r}, which has "
            f"{layer.units} units; give an array (direction, unit)"
        )
    length = rows.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(rows).all()) or bool((length == 0).any()):
        raise OptionError(f"directions for layer {layer.name!r} hold a zero row, NaN or infinity")
    normalized: torch.Tensor = rows / length
    return normalized


def _made_by(layer: Layer, listed: Sequence[Layer]) -> Layer:
    """Return the convolution or linear layer whose units a layer passes on, normalised or not."""
    between: Layer = layer
    for before in reversed(listed[: listed.index(layer) + 1]):
        if before.kind in ("conv", "linear") and before.units == layer.units:
            return before
        if before is not layer and before.kind not in ("norm", "dropout"):
            between = before
            break
    raise LayerError(
        f"mode='weights': the units of layer {layer.name!r} are not made by one convolution or "
        f"linear layer alone (it follows {between.name!r}); choose other layers or mode='zero'"
    )


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
