"""The plain single-unit sweep: a full forward pass for every unit and batch, obviously right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from unitprobe.ablation.outcome import Outcome
from unitprobe.batches import load_batches, prepare
from unitprobe.errors import ModelError, OptionError, ResponseError
from unitprobe.layers import (
    Layer,
    Selection,
    as_input,
    evaluating,
    list_layers,
    select_layers,
)
from unitprobe.models import Network, output_indices
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.responses import pool_activation
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION, check_layer_names

#: What takes the place of a unit's activation.
Mode = Literal["zero", "mean"]
Method = Literal["auto", "full"]


def ablate(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    units: Sequence[int] | None = None,
    mode: Mode = "zero",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    method: Method = "auto",
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
    units : sequence of int, optional
        Which units of each layer; all if None.
    mode : {"zero", "mean"}
        Clamp the unit to zero, or to its own mean over stimuli and positions, at every position.
    batch_size : int
        Stimuli in one forward pass.
    device : str or torch.device, optional
        Where to run; the network's own device if None.
    method : {"auto", "full"}
        ``"full"`` runs the whole network for every unit.
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
        intact.

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
    of individual units in CNNs via ablation", section 3; the mean clamp is from Morcos et al. 2018.

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
    _check_option("mode", mode, get_args(Mode))
    _check_option("method", method, get_args(Method))
    with prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images):
        first, _ = next(load_batches(images, range(1), batch_size=1))
        listed = list_layers(network, example=first)
        chosen = select_layers(network.module, listed, layers)
        check_layer_names(layer.name for layer in chosen)
        swept = {layer.name: _check_units(layer, units) for layer in chosen}
        with evaluating(network.module), torch.no_grad():
            sweep = _Sweep(network, images, chosen, swept, batch_size, workers)
            clamps = sweep.means(progress) if mode == "mean" else {}
            sweep.run(clamps, progress)
    return _result(network, images, chosen, sweep, mode)


def _check_option(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"{name}={value!r} is not known; choose one of {', '.join(known)}")


def _check_units(layer: Layer, units: Sequence[int] | None) -> list[int]:
    assert layer.units is not None
    if units is None:
        return list(range(layer.units))
    if len(units) == 0:
        raise OptionError("units=[] names no unit; give indices such as [0, 1], or None for all")
    wrong = [unit for unit in units if not 0 <= unit < layer.units]
    if wrong:
        raise OptionError(
            f"unit {wrong[0]} is not in layer {layer.name!r}, "
            f"which has units 0 to {layer.units - 1}"
        )
    return list(units)


class _Sweep:
    """Runs the network over the stimuli, intact and with one unit of one layer clamped."""

    def __init__(
        self,
        network: Network,
        stimuli: Stimuli,
        layers: Sequence[Layer],
        units: dict[str, list[int]],
        batch_size: int,
        workers: int,
    ) -> None:
        self._network = network
        self._stimuli = stimuli
        self._layers = layers
        self._batch_size = batch_size
        self._workers = workers
        self._outputs: Tensor | None = None
        classes = len(stimuli.class_names)
        self.units = units
        self.intact = Outcome.empty(classes)
        self.ablated = {
            name: [Outcome.empty(classes) for _ in swept] for name, swept in units.items()
        }

    def means(self, progress: bool) -> dict[str, Tensor]:
        """Return the mean activation of each unit over stimuli and positions, (unit,) by layer."""
        sums: dict[str, Tensor] = {}

        def add(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
            assert layer.unit_axis is not None
            pooled = pool_activation(activation, layer.unit_axis, "mean").double().sum(0)
            sums[layer.name] = sums[layer.name] + pooled if layer.name in sums else pooled

        total = len(self._stimuli)
        with (
            progress_bar("unit means", total, "stimuli", enabled=progress) as advance,
            watch_layers(self._network.module, self._layers, add),
        ):
            for images, _ in self._batches():
                self._run(as_input(self._network.module, images))
                advance(len(images))
        return {name: pooled / total for name, pooled in sums.items()}

    def run(self, clamps: dict[str, Tensor], progress: bool) -> None:
        """Count the outcomes of the intact network and of every ablation."""
        total = sum(map(len, self.units.values())) * len(self._stimuli)
        with progress_bar("ablating", total, "stimuli x units", enabled=progress) as advance:
            for images, labels in self._batches():
                images = as_input(self._network.module, images)
                logits = self._logits(images)
                targets = self._targets(logits, labels)
                self.intact.add(logits, targets, labels)
                for layer in self._layers:
                    ablated = self._ablated_logits(images, layer, clamps.get(layer.name))
                    for outcome, logits in zip(self.ablated[layer.name], ablated, strict=True):
                        outcome.add(logits, targets, labels)
                        advance(len(images))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        indices = range(len(self._stimuli))
        return load_batches(
            self._stimuli, indices, batch_size=self._batch_size, workers=self._workers
        )

    def _ablated_logits(
        self, images: Tensor, layer: Layer, clamps: Tensor | None
    ) -> Iterator[Tensor]:
        clamped = (0, 0.0)

        def clamp(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> Tensor:
            assert layer.unit_axis is not None
            unit, value = clamped
            ablated = activation.clone()
            ablated.select(layer.unit_axis, unit).fill_(value)
            return ablated

        with watch_layers(self._network.module, [layer], clamp):
            for unit in self.units[layer.name]:
                clamped = (unit, 0.0 if clamps is None else float(clamps[unit]))
                yield self._logits(images)

    def _run(self, images: Tensor) -> Any:
        # A copy: a network may work in place on what it is given.
        return self._network.module(images.clone())

    def _logits(self, images: Tensor) -> Tensor:
        logits = self._run(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"{self._network.name} gives {what}, not logits (stimulus, output); "
                "ablation needs a classifier"
            )
        return logits

    def _targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._outputs is None:
            names = self._stimuli.class_names
            indices = output_indices(self._network, names, logits.shape[1])
            self._outputs = torch.from_numpy(indices)
        if not bool(torch.isfinite(logits).all()):
            bad = int((~torch.isfinite(logits)).sum())
            raise ResponseError(
                f"{self._network.name} gives {bad} NaN or infinite logits among {logits.numel()}"
            )
        return self._outputs[labels].to(logits.device)


def _result(
    network: Network, stimuli: Stimuli, layers: Sequence[Layer], sweep: _Sweep, mode: str
) -> xr.DataTree:
    intact = sweep.intact
    root = xr.Dataset(
        {
            "accuracy": ((), intact.accuracy, {"long_name": "accuracy of the intact network"}),
            "class_accuracy": ("class_name", intact.class_accuracy),
            "loss": ((), intact.mean_loss, {"units": "nats"}),
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
            "mode": mode,
            "method": "full",
        },
    )
    nodes = {
        layer.name: _layer_result(intact, sweep.ablated[layer.name], sweep.units[layer.name])
        for layer in layers
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def _layer_result(intact: Outcome, ablated: list[Outcome], units: list[int]) -> xr.Dataset:
    by_class: npt.NDArray[np.float64] = np.stack(
        [intact.class_accuracy - outcome.class_accuracy for outcome in ablated]
    )
    present = intact.count > 0
    overall = [intact.accuracy - outcome.accuracy for outcome in ablated]
    loss = [outcome.mean_loss - intact.mean_loss for outcome in ablated]
    return xr.Dataset(
        {
            "accuracy_drop": ("unit", np.asarray(overall)),
            "class_accuracy_drop": (("unit", "class_name"), by_class),
            "max_class_accuracy_drop": ("unit", by_class[:, present].max(axis=1)),
            "loss_increase": ("unit", np.asarray(loss), {"units": "nats"}),
        },
        coords={"unit": np.asarray(units, dtype=np.int64)},
    )
