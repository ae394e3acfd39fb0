"""Estimate the effect of every ablation on the loss from gradients, all units at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from unitprobe.ablation.classifier import Classifier
from unitprobe.ablation.forward_passes import (
    Batch,
    check_logits,
    class_outputs,
    intact_logits,
    load,
    load_two,
    run,
)
from unitprobe.ablation.outcome import Answers, Outcomes
from unitprobe.ablation.replacements import (
    Replacement,
    Resample,
    make_replacement,
    random_partners,
)
from unitprobe.ablation.result import labelled, root_result, shares, target_coordinate
from unitprobe.ablation.settings import SweepOptions
from unitprobe.ablation.sweep import Sweep, run_sweep
from unitprobe.ablation.targets import Targets
from unitprobe.batches import load_batches
from unitprobe.errors import LayerError, ModelError, OptionError
from unitprobe.inference import rank_correlation
from unitprobe.layers import Layer, as_input, evaluating
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Attribution:
    """The estimated effects of ablations.

    Attributes
    ----------
    loss_change : dict of str to array
        By layer, (target, class_name): estimated change of the cross-entropy in nats, summed over
        the stimuli of each class.
    intact : Outcomes
        Of the intact network, as one target.
    """

    loss_change: dict[str, FloatArray]
    intact: Outcomes


def run_attribution(
    network: Classifier,
    stimuli: Stimuli,
    swept: Sequence[Targets],
    options: SweepOptions,
    steps: int = 0,
) -> Attribution:
    """Estimate the effect of every ablation on the loss, to first order.

    Parameters
    ----------
    network : Network
        A classifier, on its device.
    stimuli : Stimuli
        Labelled images with their transform.
    swept : sequence of Targets
        What would be ablated, one for each layer.
    options : SweepOptions
        How it would be ablated; any mode but noise.
    steps : int
        As `unitprobe.attribute`.

    Returns
    -------
    Attribution
        Estimates in nats, positive where an ablation would raise the loss.

    Raises
    ------
    LabelError
        The network's outputs cannot be matched to the classes of the stimuli.
    ModelError
        The network is not a classifier, or has no gradients.
    LayerError
        The first axis of a layer's activation is not the stimuli.
    """
    change = {targets.layer.name: _Sums(targets, stimuli) for targets in swept}
    intact = Outcomes.empty(1, len(stimuli.class_names))
    # With intact activations, one pass serves all layers; else each layer needs its own.
    passes = [(list(swept), 0.0)]
    if steps:
        passes = [([one], (i + 0.5) / steps) for one in swept for i in range(steps)]
    total = len(stimuli) * len(passes)
    with evaluating(network.module), _without_parameters(network.module):
        with torch.no_grad():
            logits = intact_logits(network, load_two(network, stimuli).images)
        output_of_class = class_outputs(network, stimuli, logits)
        partners = _Partners(network, stimuli, swept, options.seed)
        resamples = options.mode == "resample" and len(stimuli) > 1
        with torch.no_grad():
            replacement = (
                Resample(partners, partners.partner)
                if resamples
                else make_replacement(network, stimuli, swept, options)
            )
        with progress_bar("attributing", total, "stimuli", enabled=options.progress) as step:
            for batch in load(network, stimuli, options):
                if resamples:
                    partners.load(batch)
                outputs = output_of_class[batch.labels].to(batch.images.device)
                for some, fraction in passes:
                    logits, found = _differentiate(
                        network, batch, outputs, some, replacement, fraction
                    )
                    for name, values in found.items():
                        change[name].add(values / max(1, steps), batch.labels)
                    step(len(batch.labels))
                if steps:
                    logits = intact_logits(network, batch.images)
                answers = Answers.of(network, logits, batch.labels, output_of_class)
                intact.add(0, logits[None], answers)
    return Attribution({name: sums.by_class for name, sums in change.items()}, intact)


def attribution_tree(
    network: Classifier,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    swept: Sequence[Targets],
    options: SweepOptions,
    steps: int,
    check_units: int,
) -> xr.DataTree:
    """Estimate every effect, ablate some targets to check, and label both.

    See `unitprobe.attribute` for what the tree holds.

    Raises
    ------
    OptionError
        With ``mode="weights"``, the weights are used in several calls.
    """
    shared = next((targets for targets in swept if targets.other_calls), None)
    if shared is not None:
        raise OptionError(
            f"mode='weights': the weights of {shared.layer.name!r} are used in "
            f"{1 + len(shared.other_calls)} calls, whose joint effect has no first-order estimate "
            "here; choose another mode, or ablate"
        )
    found = run_attribution(network, stimuli, swept, options, steps)
    drawn = _draw(swept, check_units, options.seed)
    exact = _sweep_some(network, stimuli, swept, drawn, options)
    root = root_result(network, stimuli, found.intact, options)
    root.attrs.update(method="attribution", attribution_steps=steps, check_units=check_units)
    nodes = {}
    for layer, targets, some in zip(layers, swept, drawn, strict=True):
        dim, numbers = target_coordinate(targets)
        change = found.loss_change[targets.layer.name]
        checked = np.full(len(targets), np.nan)
        if len(some):
            assert exact is not None
            loss = exact.ablated[targets.layer.name].loss - exact.intact.loss
            checked[some] = loss / len(stimuli)
        nodes[layer.name] = xr.Dataset(
            {
                "loss_increase": labelled(
                    dim, change.sum(1) / len(stimuli), "estimated increase of the loss", "nats"
                ),
                "class_loss_increase": labelled(
                    (dim, "class_name"),
                    shares(change, root["class_count"].values),
                    "estimated increase of the loss on the class",
                    "nats",
                ),
                "exact_loss_increase": labelled(
                    dim, checked, "increase of the loss, for the units that were checked", "nats"
                ),
            },
            coords={dim: numbers},
        )
    if exact is not None:
        root.attrs["check_method"] = exact.method
        estimates, checks = (
            np.concatenate([node[name].values for node in nodes.values()])
            for name in ("loss_increase", "exact_loss_increase")
        )
        root.update(_agreement(estimates, checks, options.seed))
        for node in nodes.values():
            both = node["loss_increase"].values, node["exact_loss_increase"].values
            node.update(_agreement(*both, options.seed))
    return xr.DataTree.from_dict({"/": root, **nodes})


def _agreement(estimates: FloatArray, exact: FloatArray, seed: int) -> dict[str, xr.Variable]:
    """Return the rank correlation of estimated and exact effects, and its 95% interval."""
    found = rank_correlation(estimates, exact, seed=seed)
    what = "Spearman correlation of estimated and exact increase"
    return {
        "rank_correlation": labelled((), found.value, what),
        "rank_correlation_low": labelled((), found.low, f"{what}, low end of 95%"),
        "rank_correlation_high": labelled((), found.high, f"{what}, high end of 95%"),
    }


class _Sums:
    """Sums over the stimuli of each class, in double precision."""

    def __init__(self, targets: Targets, stimuli: Stimuli) -> None:
        self.by_class: FloatArray = np.zeros((len(targets), len(stimuli.class_names)))

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Add values (stimulus, target)."""
        np.add.at(self.by_class.T, labels.numpy(), values.cpu().double().numpy())


def _differentiate(
    network: Classifier,
    batch: Batch,
    outputs: Tensor,
    swept: Sequence[Targets],
    replacement: Replacement,
    fraction: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a network forward and backward, with a fraction of each layer's change applied.

    Returns
    -------
    logits : Tensor
        (stimulus, output).
    changes : dict of str to Tensor
        By layer, (stimulus, target), the first-order change of each stimulus' loss.
    """
    by_name = {targets.layer.name: targets for targets in swept}
    no_gradients = ModelError(
        f"{network.name} computes its logits without gradients; use ablate instead of attribute"
    )
    changes: dict[str, Tensor] = {}
    starts: list[Tensor] = []

    def visit(layer: Layer, activation: Tensor, args: tuple[Any, ...]) -> Tensor | None:
        if not torch.is_grad_enabled():
            raise no_gradients
        targets = by_name[layer.name]
        everything = range(targets.coordinate_count)
        with torch.no_grad():
            if len(activation) != len(batch.numbers):
                raise LayerError(
                    f"layer {layer.name!r} gives {len(activation)} activations for "
                    f"{len(batch.numbers)} stimuli; attribute needs one for each"
                )
            intact = targets.coordinates(activation)
            new = replacement(targets, everything, intact, batch)
            # A new tensor, because the network may overwrite the activation later.
            change = new - intact
            start = activation
            if fraction:
                start = targets.replace(activation, everything, intact + fraction * change)

        def receive(gradient: Tensor) -> None:
            product = (targets.coordinates(gradient) * change).float()
            by_coordinate = product.flatten(2).sum(2) if product.ndim > 2 else product
            changes[layer.name] = _in_groups(by_coordinate, targets)

        if not start.requires_grad:
            start = start.detach().requires_grad_()
            starts.append(start)
        elif not activation._is_view() or (args and args[0] is activation):
            # A hook on the tensor itself: operations in place keep what their gradient needs.
            activation.register_hook(receive)  # type: ignore[no-untyped-call]
            return None
        # The network may overwrite a copy, but not a leaf of the graph or a view.
        passed = start.clone()
        passed.register_hook(receive)  # type: ignore[no-untyped-call]
        return passed

    layers = [targets.layer for targets in swept]
    with torch.enable_grad(), watch_layers(network.module, layers, visit) as watcher:
        logits = check_logits(network, run(network, batch.images, watcher))
        loss = network.loss(logits[None], outputs).sum()
        if not starts or not loss.requires_grad:
            raise no_gradients
        try:
            torch.autograd.grad(loss, starts, allow_unused=True)
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            raise ModelError(
                f"{network.name} has no gradients ({reason}); use ablate instead of attribute"
            ) from error
    return logits.detach(), changes


def _in_groups(values: Tensor, targets: Targets) -> Tensor:
    """Return sums (stimulus, target) over the coordinates (stimulus, coordinate) of each group."""
    if all(len(group) == 1 for group in targets.groups):
        return values[:, [group[0] for group in targets.groups]]
    return torch.stack([values[:, list(group)].sum(1) for group in targets.groups], dim=1)


@contextmanager
def _without_parameters(module: nn.Module) -> Iterator[None]:
    """Switch the gradients of the weights off, and on again afterwards."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _draw(swept: Sequence[Targets], count: int, seed: int) -> list[IntArray]:
    """Draw `count` of all targets; return the indices of those of each layer."""
    ends = np.cumsum([len(targets) for targets in swept])
    chosen = np.random.default_rng(seed).permutation(ends[-1])[:count]
    chosen.sort()
    begins = ends - [len(targets) for targets in swept]
    return [
        chosen[(chosen >= begin) & (chosen < end)] - begin
        for begin, end in zip(begins, ends, strict=True)
    ]


def _sweep_some(
    network: Classifier,
    stimuli: Stimuli,
    swept: Sequence[Targets],
    drawn: Sequence[IntArray],
    options: SweepOptions,
) -> Sweep | None:
    """Ablate the targets of each layer with the drawn indices; return None if there are none."""
    some = [
        replace(targets, groups=tuple(targets.groups[index] for index in chosen))
        for targets, chosen in zip(swept, drawn, strict=True)
        if len(chosen)
    ]
    if not some:
        return None
    return run_sweep(network, stimuli, some, options)


class _Partners:
    """The activations of all layers on the partners of a batch, from one forward pass."""

    def __init__(
        self, network: Classifier, stimuli: Stimuli, swept: Sequence[Targets], seed: int
    ) -> None:
        self._network = network
        self._stimuli = stimuli
        self._layers = [targets.layer for targets in swept]
        self.partner = random_partners(len(stimuli), seed)
        self._kept: dict[str, Tensor] = {}

    def load(self, batch: Batch) -> None:
        """Run the network on the partners of the next batch."""
        numbers = self.partner[list(batch.numbers)].tolist()
        images, _ = next(load_batches(self._stimuli, numbers, batch_size=len(numbers)))

        def keep(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
            self._kept[layer.name] = activation.clone()

        with torch.no_grad(), watch_layers(self._network.module, self._layers, keep) as watcher:
            run(self._network, as_input(self._network.module, images), watcher)

    def __call__(self, targets: Targets, numbers: Sequence[int]) -> Tensor:
        """Return a layer's activation on the partners of the current batch."""
        return self._kept[targets.layer.name]
