"""Ablate single units of a network, and label what was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr
from torch import nn

from unitprobe.ablation.attribution import attribute
from unitprobe.ablation.checkpoint import Checkpoint
from unitprobe.ablation.choice import (
    Directions,
    Groups,
    Units,
    choose_targets,
    targets_of_weights,
)
from unitprobe.ablation.identity import identify_sweep, kept_in
from unitprobe.ablation.logit_changes import LogitChanges
from unitprobe.ablation.replacements import Mode
from unitprobe.ablation.result import result_tree
from unitprobe.ablation.sweep import Method, SweepOptions, load_two, run_sweep
from unitprobe.ablation.targets import Targets
from unitprobe.batches import prepare
from unitprobe.errors import OptionError
from unitprobe.layers import Layer, Selection, list_layers, select_layers
from unitprobe.models import Network
from unitprobe.stimuli import Stimuli
from unitprobe.store import check_layer_names, check_output, open_store, save_tree


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
    null: int = 1000,
    seed: int = 0,
    attribution_steps: int = 0,
    check_units: int = 32,
    path: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    logit_changes: bool = False,
    resume: bool = True,
    overwrite: bool = False,
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
    method : {"auto", "partial_forward", "full", "attribution"}
        ``"full"`` runs the whole network for every unit. ``"partial_forward"`` captures it as a
        graph and computes only what a unit reaches; ``"auto"`` does so where the network allows
        and there is more to do than to capture it.
        ``"attribution"`` estimates the loss of all units at once from one gradient, and says how
        well by sweeping `check_units` of them; see Notes.
    memory : int
        Bytes that the partial forward may take for what it keeps and computes, beside the weights;
        where the intact values of all layers do not fit, it computes them again for each.
    null : int
        Draws for the chance level of ``max_class_accuracy_drop``; 0 leaves it out.
    seed : int
        For ``"resample"`` and ``"noise"``, the chance level and the choice of `check_units`.
    attribution_steps : int
        0 takes the gradient at the intact activation, in one pass for all layers; k averages the
        gradients at k points on the way from it to the layer ablated whole, in k passes a layer.
    check_units : int
        Of all units of all layers, how many are also ablated to check an attribution; 0 checks
        none.
    path : path, optional
        Write the result to this file too. Until it is finished, what was counted is kept in the
        folder ``PATH.partial``: if the sweep is interrupted, the same call goes on where it stopped
        and ends with the same numbers.
    keep : path, optional
        Without `path`: keep what was counted in this folder, from which the same call goes on. Many
        sweeps may share one; it is yours to delete.
    logit_changes : bool
        Also write the change of every logit to the file: ``logit_change`` (stimulus, unit,
        output) of each layer, ablated minus intact, float32.
    resume : bool
        Go on with an unfinished sweep at the same path; if False, begin anew.
    overwrite : bool
        Replace an existing file.
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
        ablated in -1..1, NaN for a class without stimuli; ``max_class_accuracy_drop`` (unit), the
        largest over classes, which is above 0 by chance alone, with ``..._null_mean`` and ``..._p``
        if as many stimuli were hit whatever their class; ``loss_increase`` (unit), ablated minus
        intact; ``balanced_accuracy_drop`` (unit, class_name), of telling one class from the rest:
        the mean of the share of the class and of the share of the others that are told right (Bau
        et al. 2020); ``changed_predictions`` (unit), stimuli with another answer. Groups and
        directions have the dimension ``group`` or ``direction`` in the place of ``unit``. An
        attribution has an estimated ``loss_increase`` (unit), ``class_loss_increase`` (unit,
        class_name) and, NaN where not checked, ``exact_loss_increase`` (unit), with Spearman's
        ``rank_correlation`` () of the two and its 95% interval, ``..._low`` and ``..._high``: over
        the units of the layer, NaN for fewer than three, and at the root over those of all layers.
        With `path` the tree is that of the file, opened by `unitprobe.open_store`.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    LayerNotFoundError
        The selection matches no layer.
    OptionError
        The mode, method or a unit does not exist.
    StoreExistsError, ContentsMismatchError, StorageError
        The file exists, another unfinished sweep is in its place, or it cannot be written.

    Notes
    -----
    The activation is silenced, not the weights: under batch normalisation a unit without weights
    still passes on a constant. The chance level of the largest drop draws the stimuli that an
    ablation loses and gains irrespective of their class; see
    `unitprobe.ablation.chance.max_drop_chance`. An attribution is a gradient times the change of
    the activation, summed over positions, from one forward and one backward pass for all layers;
    see `unitprobe.ablation.attribution.run_attribution` for sources, and for how good it is.

    After Zhou, Sun, Bau and Torralba 2018, "Revisiting the importance of individual units in CNNs
    via ablation", section 3; the mean clamp and noise are from Morcos et al. 2018.

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
    target = None if path is None else check_output(path, overwrite=overwrite)
    _check_options(method, mode, null, target, logit_changes)
    if keep is not None and target is not None:
        raise OptionError("keep= is for a sweep without a file; path= keeps its counts beside it")
    options = SweepOptions(
        mode, value, noise_scale, seed, batch_size, workers, method, memory, progress
    )
    with prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images):
        two = load_two(network, images).images
        listed = list_layers(network, example=two[:1])
        chosen = select_layers(network.module, listed, layers)
        check_layer_names(layer.name for layer in chosen)
        swept = [choose_targets(layer, units, groups, directions) for layer in chosen]
        if mode == "weights":
            swept = targets_of_weights(network, two, swept, listed)
        if method == "attribution":
            tree = attribute(
                network, images, chosen, swept, options, attribution_steps, check_units
            )
            if target is not None:
                save_tree(tree, target, overwrite=overwrite)
        elif target is None:
            with kept_in(keep, network, images, swept, options) as checkpoint:
                sweep = run_sweep(network, images, swept, options, checkpoint)
            tree = result_tree(network, images, chosen, swept, sweep, options, null)
        else:
            tree = _sweep_into_file(
                network,
                images,
                chosen,
                swept,
                options,
                null,
                target,
                resume=resume,
                logit_changes=logit_changes,
            )
    return tree if target is None else open_store(target)


def _check_options(
    method: Method, mode: Mode, null: int, path: Path | None, logit_changes: bool
) -> None:
    if null < 0:
        raise OptionError(f"null={null} is negative; 1000 is usual, 0 leaves the chance level out")
    if logit_changes and path is None:
        raise OptionError("logit_changes=True needs a file to write to; give path=")
    if logit_changes and method == "attribution":
        raise OptionError("method='attribution' computes no ablated logits; choose another method")
    if method == "attribution" and mode == "noise":
        raise OptionError(
            "mode='noise' has no first-order effect on average; choose another mode for "
            "method='attribution', or method='auto'"
        )


def _sweep_into_file(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    swept: Sequence[Targets],
    options: SweepOptions,
    null: int,
    path: Path,
    *,
    resume: bool,
    logit_changes: bool,
) -> xr.DataTree:
    """Sweep, keep the counts on the way, and save the result; return what is saved."""
    contents, logits = identify_sweep(network, stimuli, swept, options)
    contents["logit_changes"] = str(logit_changes)
    with Checkpoint(path, contents, logits, resume=resume) as checkpoint:
        changes = None
        if logit_changes:
            changes = LogitChanges(checkpoint, swept, len(stimuli), len(logits))
        sweep = run_sweep(network, stimuli, swept, options, checkpoint, changes)
        tree = result_tree(network, stimuli, layers, swept, sweep, options, null)
        if changes is None:
            save_tree(tree, path, overwrite=True)
        else:
            changes.save(tree, stimuli, path)
        checkpoint.remove()
    return tree
