"""Ablate single units of a network, and label what was found."""

from __future__ import annotations

import torch
import xarray as xr
from torch import nn

from unitprobe.ablation.choice import (
    Directions,
    Groups,
    Units,
    choose_targets,
    layer_that_makes,
)
from unitprobe.ablation.replacements import Mode
from unitprobe.ablation.result import result_tree
from unitprobe.ablation.sweep import Method, SweepOptions, run_sweep
from unitprobe.ablation.targets import Targets
from unitprobe.batches import load_batches, prepare
from unitprobe.layers import Selection, list_layers, select_layers
from unitprobe.models import Network
from unitprobe.stimuli import Stimuli
from unitprobe.store import check_layer_names


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
        swept = [choose_targets(layer, units, groups, directions) for layer in chosen]
        if mode == "weights":
            moved = [layer_that_makes(targets.layer, listed) for targets in swept]
            swept = [Targets(a, t.groups) for a, t in zip(moved, swept, strict=True)]
        sweep = run_sweep(network, images, swept, options)
    return result_tree(network, images, chosen, swept, sweep, options)
