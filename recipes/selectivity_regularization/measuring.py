"""What is measured of a network: accuracy, and the selectivity of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recipes.selectivity_regularization.images import ImageSet, Normalization
from unitprobe import metrics
from unitprobe.errors import ResponseError
from unitprobe.inference import class_selectivity_null
from unitprobe.layers import Layer, evaluating
from unitprobe.probe import Probe, watch_layers
from unitprobe.responses import pool_activation

#: Of each layer, (stimulus, unit).
Responses = dict[str, Tensor]
#: Label shuffles for the null of a layer's mean selectivity on test, and their seed.
SHUFFLES = 20
SHUFFLE_SEED = 0
#: Images in one forward pass; the measures do not depend on it.
_BATCH_SIZES = {"cpu": 500, "cuda": 1000}


@dataclass(frozen=True)
class LayerMeasures:
    """What is measured of one layer on test: means over its units, without the dead ones.

    The null of the mean is that of `SHUFFLES` shuffles of the labels.
    """

    class_selectivity: float
    class_selectivity_null_mean: float
    class_selectivity_corrected: float
    dead_share: float
    d_prime: float
    mutual_information: float


class Evaluation:
    """Measures a network on images that lie on its device, in evaluation mode and in float32.

    Parameters
    ----------
    module : nn.Module
        The network, neither compiled nor wrapped.
    selection : sequence of str
        Which layers are measured; see `unitprobe.layers.select_layers`.
    mean, std : tuple of float
        What the images are normalised with.
    image_size : int
        Height and width of the images.

    Attributes
    ----------
    layers : list of Layer

    Raises
    ------
    LayerNotFoundError
        The selection matches no layer.
    """

    def __init__(
        self,
        module: nn.Module,
        selection: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: int,
    ) -> None:
        self._module = module
        device = next(module.parameters()).device
        self._normalize = Normalization(mean, std, device)
        self._batch_size = _BATCH_SIZES.get(device.type, _BATCH_SIZES["cpu"])
        self._example = torch.zeros(2, 3, image_size, image_size, device=device)
        with Probe(module, layers=selection) as probe:
            self.layers: list[Layer] = probe.resolve(self._example)

    def selectivity(
        self, images: Tensor, labels: Tensor, class_count: int
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the accuracy, and the class selectivity of each layer as a mean over its units.

        Parameters
        ----------
        images : Tensor
            Bytes, (stimulus, y, x, channel).
        labels : Tensor
            (stimulus,).
        class_count : int
            Number of classes.

        Raises
        ------
        ResponseError
            A response is NaN or infinite.
        """
        sums: dict[str, Tensor] = {}
        # Added up on the device: to read it would make the processor wait for every batch.
        correct = torch.zeros((), dtype=torch.int64, device=labels.device)
        for logits, responses, chosen in self._passes(images, labels):
            correct += (logits.argmax(1) == chosen).sum()
            for name, response in responses.items():
                batch = metrics.class_sums(response, chosen, class_count)
                sums[name] = sums[name] + batch if name in sums else batch
        counts = metrics.class_counts(labels, class_count)
        by_layer = []
        for layer in self.layers:
            if not bool(sums[layer.name].isfinite().all()):
                raise ResponseError(
                    f"responses of layer {layer.name!r} must be finite; some are not"
                )
            means = sums[layer.name] / counts[:, None]
            by_layer.append(_mean(metrics.selectivity_index(means, counts).cpu().numpy()))
        return int(correct) / len(labels), np.array(by_layer)

    def test(
        self, images: Tensor, labels: Tensor, class_count: int
    ) -> tuple[npt.NDArray[np.float64], list[LayerMeasures]]:
        """Return the accuracy on each class, and the measures of each layer; see `selectivity`."""
        accuracy, responses = self.gather(images, labels, class_count)
        truth = labels.cpu().numpy()
        return accuracy, [measure_layer(of_layer, truth) for of_layer in responses]

    def gather(
        self, images: Tensor, labels: Tensor, class_count: int
    ) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float32]]]:
        """Return the accuracy on each class, and the responses (stimulus, unit) of each layer."""
        gathered: dict[str, list[Tensor]] = {layer.name: [] for layer in self.layers}
        hits = []
        for logits, responses, chosen in self._passes(images, labels):
            hits.append((logits.argmax(1) == chosen).cpu().numpy())
            for name, response in responses.items():
                gathered[name].append(response.cpu())
        truth = labels.cpu().numpy()
        hit = np.bincount(truth, np.concatenate(hits), class_count)
        accuracy = hit / np.bincount(truth, minlength=class_count)
        return accuracy, [torch.cat(gathered.pop(layer.name)).numpy() for layer in self.layers]

    def _passes(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Responses, Tensor]]:
        """Yield logits, responses by layer and labels of each batch."""
        responses: Responses = {}

        def keep(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
            assert layer.unit_axis is not None
            responses[layer.name] = pool_activation(activation, layer.unit_axis, "mean")

        # A Probe stops the network after its last layer, and here the logits are needed.
        with watch_layers(self._module, self.layers, keep) as watcher:
            for batch, chosen in zip(
                torch.split(images, self._batch_size),
                torch.split(labels, self._batch_size),
                strict=True,
            ):
                inputs = self._normalize(batch)
                with evaluating(self._module), torch.no_grad(), watcher.suspending_others():
                    logits = self._module(inputs)
                yield logits, responses, chosen
                responses.clear()


def measure_layer(
    responses: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> LayerMeasures:
    """Return the measures of one layer from its responses (stimulus, unit) and the labels."""
    selectivity = metrics.class_selectivity(responses, labels)
    null = class_selectivity_null(responses, labels, resamples=SHUFFLES, seed=SHUFFLE_SEED)
    floor = null.mean(axis=0)
    dead = metrics.dead(responses)
    information = np.where(dead, np.nan, metrics.mutual_information(responses, labels))
    return LayerMeasures(
        class_selectivity=_mean(selectivity),
        class_selectivity_null_mean=_mean(floor),
        class_selectivity_corrected=_mean(selectivity - floor),
        dead_share=float(dead.mean()),
        d_prime=_mean(metrics.d_prime(responses, labels)),
        mutual_information=_mean(information),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean over units that have a value, NaN if none has."""
    valued = values[~np.isnan(values)]
    return float(valued.mean()) if len(valued) else math.nan


def as_tensors(images: ImageSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images and labels on a device."""
    return torch.from_numpy(images.images).to(device), torch.from_numpy(images.labels).to(device)
