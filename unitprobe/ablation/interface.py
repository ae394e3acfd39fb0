"""The public functions: `ablate` measures what a network loses, `attribute` estimates it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import xarray as xr
from torch import nn

from unitprobe.ablation.attribution import attribution_tree
from unitprobe.ablation.checkpoint import Checkpoint
from unitprobe.ablation.classifier import Classifier, as_classifier
from unitprobe.ablation.forward_passes import load_two
from unitprobe.ablation.identity import identify_sweep, kept_in
from unitprobe.ablation.logit_changes import LogitChanges
from unitprobe.ablation.result import result_tree
from unitprobe.ablation.settings import Method, Mode, Output, SweepOptions, mode_name
from unitprobe.ablation.sweep import run_sweep
from unitprobe.ablation.targets import (
    Directions,
    Groups,
    Targets,
    Units,
    choose_targets,
    targets_of_weights,
)
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
    batch_size: int = 64,
    device: str | torch.device | None = None,
    method: Method = "auto",
    memory: int = 2**30,
    n_permutations: int = 1000,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    logit_changes: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    workers: int = 0,
    output: Output | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Silence every unit in turn and measure what the network loses, overall and per class.

    Parameters
    ----------
    model : Network or nn.Module
        A classifier. It is left unchanged.
    stimuli : Stimuli
        Labelled images.
    layers : str, module, class, Layer, callable, or a list of these
        Which layers; see `unitprobe.layers.select_layers`.
    units : int, sequence of int, mask of bool (unit,), or mapping of str to these, optional
        Which units of each layer, or of each layer by name; all if None.
    groups : sequence of sequences of int, or mapping of str to it, optional
        Ablate several units at once, one group after another, instead of single units.
    directions : array (direction, unit), or mapping of str to it, optional
        Ablate directions in the space of a layer instead of its units: the projection of the
        activation on each direction is replaced. Rows are scaled to length 1.
    mode : {"zero", "mean", "class_mean", "resample", "noise", "weights"}, Noise or Value
        What replaces the unit at every position: zero; its mean over stimuli and positions
        ("mean ablation"), or over those of the stimulus' class; its values on another, random
        stimulus ("resample ablation"); its own values plus Gaussian noise, ``Noise(0.5)``, where
        ``"noise"`` is ``Noise(1.0)``; one number, ``Value(0.3)``. ``"weights"`` sets to zero the
        convolution or linear layer that makes the unit, before its normalization, as zeroing its
        weights and bias does: under batch normalization the unit still passes on a constant.
    batch_size : int
        Stimuli in one forward pass.
    device : str or torch.device, optional
        Where to run; the network's own device if None.
    method : {"auto", "partial_forward", "full"}
        ``"full"`` runs the whole network for every unit. ``"partial_forward"`` captures the
        network as a graph and computes only what a unit reaches. ``"auto"`` does so if the network
        allows it and the sweep is long enough to pay for the capture.
    memory : int
        Bytes that the partial forward engine may use for intermediate values, in addition to the
        weights. If the intact values of all layers need more, it computes them again per layer.
    n_permutations : int
        Permutations for the chance level of ``max_class_accuracy_drop``; 0 leaves it out.
    seed : int
        Seed of other stimuli, of noise and of the permutations.
    path : path, optional
        Also write the result to this file. Until then the counts are kept in the folder
        ``PATH.partial``: after an interruption, the same call resumes and gives the same numbers.
    keep : path, optional
        Without `path`: keep the counts in this folder, from which the same call resumes. Many
        sweeps may share one folder. It is never deleted.
    logit_changes : bool
        Also write the change of every logit to the file: ``logit_change`` (stimulus, unit,
        output) of each layer, ablated minus intact, float32.
    resume : bool
        Resume an unfinished sweep at the same path; if False, start again.
    overwrite : bool
        Replace an existing file.
    workers : int
        Processes that load images.
    output : str, int or callable, optional
        Where the outputs for the classes are in what the network returns: a key, a field, an index,
        or a function that returns the tensor (stimulus, output). By default it is ``logits``,
        ``out``, or the first tensor. Probabilities and single outputs are recognized.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        At the root, of the intact network: ``accuracy`` () and ``class_accuracy`` (class_name),
        0..1, and ``loss`` (), its mean cross-entropy in nats; the attribute ``output_kind``
        says what the outputs are. Of probabilities the loss is -log p, of one output for two
        classes, or of independent sigmoids, the binary cross-entropy. One node per layer with:

        - ``accuracy_drop`` (unit) and ``class_accuracy_drop`` (unit, class_name), intact minus
          ablated, -1..1; NaN for a class without stimuli;
        - ``max_class_accuracy_drop`` (unit), the largest over classes, which exceeds 0 by chance
          alone; ``..._null_mean`` and ``..._p`` give its chance level if as many stimuli were hit
          regardless of their class;
        - ``balanced_accuracy_drop`` (unit, class_name), of the decision between one class and the
          rest: balanced accuracy is the mean of the recall of the class and the share of other
          stimuli not classified as it (Bau et al. 2020);
        - ``loss_increase`` (unit), ablated minus intact, in nats;
        - ``changed_predictions`` (unit), the number of stimuli with another predicted output.

        For groups and directions the dimension is ``group`` or ``direction`` instead of ``unit``.
        With `path` the tree is that of the file, opened by `unitprobe.open_store`.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    LayerNotFoundError
        The selection matches no layer.
    OptionError
        The mode, the method or a unit does not exist, or an option has no effect.
    StoreExistsError, ContentsMismatchError, StorageError
        The file exists, belongs to another unfinished sweep, or cannot be written.

    See Also
    --------
    attribute : Estimate the effects of all units from gradients.

    Notes
    -----
    After Zhou, Sun, Bau and Torralba 2018, "Revisiting the importance of individual units in CNNs
    via ablation", section 3; mean ablation and noise are from Morcos et al. 2018. The chance level
    is described in `unitprobe.ablation.chance.max_drop_chance`.

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
    if n_permutations < 0:
        raise OptionError(
            f"n_permutations={n_permutations} is negative; 1000 is usual, 0 leaves the chance "
            "level out"
        )
    if logit_changes and target is None:
        raise OptionError("logit_changes=True needs a file to write to; give path=")
    if target is None and (overwrite or not resume):
        name = "overwrite=True" if overwrite else "resume=False"
        raise OptionError(f"{name} has no effect without a file; give path=")
    if keep is not None and target is not None:
        raise OptionError("keep= is for a sweep without a file; path= keeps its counts beside it")
    options = SweepOptions(mode, seed, batch_size, workers, method, memory, progress, output)
    with _prepared(model, stimuli, layers, units, groups, directions, options, device) as (
        network,
        images,
        chosen,
        swept,
    ):
        if target is not None:
            _sweep_into_file(
                network,
                images,
                chosen,
                swept,
                options,
                n_permutations,
                target,
                resume=resume,
                logit_changes=logit_changes,
            )
            return open_store(target)
        with kept_in(keep, network, images, swept, options) as checkpoint:
            sweep = run_sweep(network, images, swept, options, checkpoint)
        return result_tree(network, images, chosen, swept, sweep, options, n_permutations)


def attribute(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    units: Units | None = None,
    groups: Groups | None = None,
    directions: Directions | None = None,
    mode: Mode = "zero",
    steps: int = 0,
    check_units: int = 32,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    memory: int = 2**30,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int = 0,
    output: Output | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Estimate from gradients what ablating each unit does to the loss, and check some exactly.

    Parameters
    ----------
    model, stimuli, layers, units, groups, directions
        As `unitprobe.ablate`.
    mode : {"zero", "mean", "class_mean", "resample", "weights"} or Value
        What would replace the unit, as `unitprobe.ablate`. Noise is refused, because its
        first-order effect is 0 on average.
    steps : int
        0 takes the gradient at the intact activation, in one pass for all layers. k averages the
        gradients at k points on the line to the layer with all units ablated, in k passes per
        layer (integrated gradients).
    check_units : int
        How many units, drawn from all layers, are also ablated to check the estimate; 0 leaves
        the check out.
    batch_size, device, memory, workers, output, progress
        As `unitprobe.ablate`.
    seed : int
        Seed of other stimuli and of the choice of `check_units`.
    path : path, optional
        Also write the result to this file.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    xarray.DataTree
        At the root the same of the intact network as `unitprobe.ablate`. One node per layer with
        the estimates ``loss_increase`` (unit) and ``class_loss_increase`` (unit, class_name) in
        nats, and ``exact_loss_increase`` (unit), NaN for units that were not ablated.
        ``rank_correlation`` () is Spearman's correlation of estimate and exact value, with its 95%
        interval ``..._low`` and ``..._high``: at each layer over the checked units of the layer,
        NaN for fewer than three, and at the root over those of all layers.

    Raises
    ------
    ModelError
        The network has no gradients.
    OptionError
        The mode or a unit does not exist, or a number is negative.
    LabelError, LayerError, LayerNotFoundError, StoreExistsError, StorageError
        As `unitprobe.ablate`.

    See Also
    --------
    ablate : Measure the effects exactly.

    Notes
    -----
    Attribution patching: with the activation a of a unit at a position and its replacement b, the
    estimate is the sum over positions of (b - a) dL/da (Molchanov et al. 2017, "Pruning
    convolutional neural networks for resource efficient inference", eq. 7, with its sign and for
    any b). With steps, dL/da is its mean at the midpoints of k parts of the straight line from the
    layer's activation to that with every unit replaced: integrated gradients (Sundararajan et al.
    2017) in the space of the layer. As k grows, the estimates of all units add up to the effect of
    ablating the whole layer. They do not become better estimates of single units; docs/ablation.md
    has measured correlations. It needs the memory of a training step without weight gradients.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10)
    ... )
    >>> tree = up.attribute(network, up.load_stimuli("digits", limit=50))
    >>> tree["2"]["class_loss_increase"].sizes
    Frozen({'unit': 4, 'class_name': 10})
    """
    target = None if path is None else check_output(path, overwrite=overwrite)
    if target is None and overwrite:
        raise OptionError("overwrite=True has no effect without a file; give path=")
    for name, value in (("steps", steps), ("check_units", check_units)):
        if value < 0:
            raise OptionError(f"{name}={value} is negative; give 0 or more")
    if mode_name(mode) == "noise":
        raise OptionError(
            f"mode={mode!r} has no first-order effect on average; choose another mode, or ablate"
        )
    options = SweepOptions(
        mode, seed, batch_size, workers, memory=memory, progress=progress, output=output
    )
    with _prepared(model, stimuli, layers, units, groups, directions, options, device) as (
        network,
        images,
        chosen,
        swept,
    ):
        tree = attribution_tree(network, images, chosen, swept, options, steps, check_units)
    if target is None:
        return tree
    save_tree(tree, target, overwrite=overwrite)
    return open_store(target)


@contextmanager
def _prepared(
    model: Network | nn.Module,
    stimuli: Stimuli,
    layers: Selection,
    units: Units | None,
    groups: Groups | None,
    directions: Directions | None,
    options: SweepOptions,
    device: str | torch.device | None,
) -> Iterator[tuple[Classifier, Stimuli, list[Layer], list[Targets]]]:
    """Yield the network on its device, its stimuli, the chosen layers and what is ablated there.

    With ``mode="weights"`` the targets are those of the layers that make the units.
    """
    with prepare(model, stimuli, batch_size=options.batch_size, device=device) as (network, images):
        two = load_two(network, images).images
        classifier = as_classifier(network, two, options.output)
        listed = list_layers(network, example=two[:1])
        chosen = select_layers(network.module, listed, layers)
        check_layer_names(layer.name for layer in chosen)
        swept = [choose_targets(layer, units, groups, directions) for layer in chosen]
        if options.mode == "weights":
            swept = targets_of_weights(network, two, swept, listed)
        yield classifier, images, chosen, swept


def _sweep_into_file(
    network: Classifier,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    swept: Sequence[Targets],
    options: SweepOptions,
    n_permutations: int,
    path: Path,
    *,
    resume: bool,
    logit_changes: bool,
) -> None:
    """Sweep, keep the counts meanwhile, and save the result."""
    contents, logits = identify_sweep(network, stimuli, swept, options)
    contents["logit_changes"] = str(logit_changes)
    with Checkpoint(path, contents, logits, resume=resume) as checkpoint:
        changes = None
        if logit_changes:
            changes = LogitChanges(checkpoint, swept, len(stimuli), len(logits))
        sweep = run_sweep(network, stimuli, swept, options, checkpoint, changes)
        tree = result_tree(network, stimuli, layers, swept, sweep, options, n_permutations)
        if changes is None:
            save_tree(tree, path, overwrite=True)
        else:
            changes.save(tree, stimuli, path)
        checkpoint.remove()
