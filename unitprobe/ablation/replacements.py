"""What replaces an ablated coordinate: zero, a mean, another stimulus, noise or a value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unitprobe.ablation.forward_passes import Batch, activation_of, load, run
from unitprobe.ablation.settings import Noise, SweepOptions, Value
from unitprobe.ablation.targets import Targets
from unitprobe.batches import load_batches
from unitprobe.errors import LayerError, OptionError
from unitprobe.layers import Layer, as_input
from unitprobe.models import Network
from unitprobe.probe import watch_layers
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli


class Replacement(Protocol):
    """Gives the new values of coordinates; those of one do not depend on which others there are."""

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return new values.

        Parameters
        ----------
        targets : Targets
            The layer, and what its coordinates are.
        which : sequence of int
            The coordinates.
        intact : Tensor
            (stimulus, coordinate, *positions), their values in the intact network.
        batch : Batch
            The stimuli.

        Returns
        -------
        Tensor
            Broadcasts to the shape of `intact`.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float = 0.0

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return the number."""
        return intact.new_full((1,) * intact.ndim, self.value)


@dataclass(frozen=True)
class Mean:
    """The coordinate's own mean over stimuli and positions; after Morcos et al. 2018, 3.1."""

    statistics: Mapping[str, Statistics]

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return the means."""
        means = self.statistics[targets.layer.name].mean[list(which)]
        return _spread(means[None], intact)


@dataclass(frozen=True)
class ClassMean:
    """The coordinate's mean over positions and over the stimuli of the same class."""

    statistics: Mapping[str, Statistics]

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return the means of each stimulus' class."""
        _check_stimuli(targets, intact, batch, "class_mean")
        means = self.statistics[targets.layer.name].class_mean[batch.labels.cpu()]
        return _spread(means[:, list(which)], intact)


@dataclass
class AddedNoise:
    """The intact value plus Gaussian noise, scaled to the coordinate's own standard deviation.

    The noise of a stimulus depends only on the seed, the layer and the stimulus. So it does not
    depend on the batch size, and a coordinate gets the same noise alone and in a group. After
    Morcos et al. 2018, section 3.1.

    Attributes
    ----------
    statistics : mapping of str to Statistics
        By layer.
    scale : float
        Standard deviation of the noise over that of the coordinate.
    seed : int
        Seed.
    """

    statistics: Mapping[str, Statistics]
    scale: float
    seed: int
    _kept: tuple[str, tuple[int, ...], Tensor] | None = field(default=None, repr=False)

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return intact values with noise."""
        _check_stimuli(targets, intact, batch, "noise")
        deviation = self.statistics[targets.layer.name].deviation[list(which)]
        noise = self._noise_of(targets, batch, tuple(intact.shape[2:]))[:, list(which)]
        added = self.scale * _spread(deviation[None], intact) * noise.to(intact.device)
        return intact + added.to(intact.dtype)

    def _noise_of(self, targets: Targets, batch: Batch, positions: tuple[int, ...]) -> Tensor:
        name, numbers = targets.layer.name, tuple(batch.numbers)
        kept = self._kept
        if kept is None or kept[:2] != (name, numbers):
            shape = (targets.coordinate_count, *positions)
            kept = (name, numbers, torch.stack([self._noise(name, n, shape) for n in numbers]))
            self._kept = kept
        return kept[2]

    def _noise(self, layer: str, number: int, shape: tuple[int, ...]) -> Tensor:
        words = f"{self.seed} {layer} {number}".encode()
        seed = int.from_bytes(hashlib.sha256(words).digest()[:7], "little")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Resample:
    """The coordinate's values on another stimulus, the same for all coordinates.

    Attributes
    ----------
    activations : callable
        (layer name, numbers of stimuli) to the layer's activation on those stimuli.
    partner : array (stimulus,)
        The other stimulus of each.
    """

    activations: Callable[[Targets, Sequence[int]], Tensor]
    partner: np.ndarray[tuple[int], np.dtype[np.int64]]
    _kept: tuple[str, tuple[int, ...], Tensor] | None = field(default=None, repr=False)

    def __call__(
        self, targets: Targets, which: Sequence[int], intact: Tensor, batch: Batch
    ) -> Tensor:
        """Return the values on the other stimuli."""
        _check_stimuli(targets, intact, batch, "resample")
        numbers = tuple(int(self.partner[number]) for number in batch.numbers)
        kept = self._kept
        if kept is None or kept[:2] != (targets.layer.name, numbers):
            kept = (targets.layer.name, numbers, self.activations(targets, numbers))
            self._kept = kept
        return targets.coordinates(kept[2], which)


@dataclass(frozen=True)
class Statistics:
    """Means and standard deviations of a layer's coordinates, over stimuli and positions.

    Attributes
    ----------
    mean : Tensor
        (coordinate,)
    class_mean : Tensor
        (class_name, coordinate); NaN for a class without stimuli.
    deviation : Tensor
        (coordinate,), the standard deviation.
    """

    mean: Tensor
    class_mean: Tensor
    deviation: Tensor


class RunningStatistics:
    """Sums for `Statistics`, batch after batch, in double precision."""

    def __init__(self, classes: int) -> None:
        self._class_count = torch.zeros(classes, dtype=torch.float64)
        self._count = 0
        self._sum = self._square = self._class_sum = torch.empty(0)

    def add(self, coordinates: Tensor, labels: Tensor) -> None:
        """Add a batch of coordinates (stimulus, coordinate, *positions).

        Class means stay NaN if the first axis is not the stimuli.
        """
        rows = coordinates.detach()
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        # Over positions in the activation's own precision, over stimuli in double precision.
        rows = rows.flatten(2) if rows.ndim > 2 else rows[:, :, None]
        variance, mean = (x.cpu().double() for x in torch.var_mean(rows, dim=2, correction=0))
        if self._count == 0:
            coordinate_count = mean.shape[1]
            self._sum = torch.zeros(coordinate_count, dtype=torch.float64)
            self._square = torch.zeros_like(self._sum)
            self._class_sum = torch.zeros(
                len(self._class_count), coordinate_count, dtype=torch.float64
            )
        self._count += len(mean)
        self._sum += mean.sum(0)
        self._square += (variance + mean**2).sum(0)
        if len(mean) == len(labels):
            labels = labels.cpu()
            self._class_sum.index_add_(0, labels, mean)
            self._class_count += torch.bincount(labels, minlength=len(self._class_count))

    def compute(self) -> Statistics:
        """Return the statistics of all batches."""
        mean = self._sum / self._count
        variance = (self._square / self._count - mean**2).clamp(min=0)
        return Statistics(mean, self._class_sum / self._class_count[:, None], variance.sqrt())


def random_partners(count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the index of another stimulus for each of `count` stimuli; each occurs once.

    Examples
    --------
    >>> partners = random_partners(5, seed=0)
    >>> sorted(partners.tolist()), bool((partners == range(5)).any())
    ([0, 1, 2, 3, 4], False)
    """
    order = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[order] = np.roll(order, -1)
    return partners


def make_replacement(
    network: Network, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> Replacement:
    """Return the replacement of a mode; means and deviations are measured on the stimuli."""
    mode = options.mode
    if mode in ("zero", "weights"):
        return Constant()
    if isinstance(mode, Value):
        return Constant(mode.value)
    if mode == "resample":
        if len(stimuli) < 2:
            raise OptionError(f"mode='resample' needs two stimuli or more, not {len(stimuli)}")
        partners = random_partners(len(stimuli), options.seed)
        return Resample(_activations(network, stimuli), partners)
    statistics = measure_coordinates(network, stimuli, swept, options)
    if isinstance(mode, Noise):
        return AddedNoise(statistics, mode.scale, options.seed)
    return Mean(statistics) if mode == "mean" else ClassMean(statistics)


def measure_coordinates(
    network: Network, stimuli: Stimuli, swept: Sequence[Targets], options: SweepOptions
) -> Mapping[str, Statistics]:
    """Return the means and deviations of each layer's coordinates over the stimuli."""
    classes = len(stimuli.class_names)
    sums = {targets.layer.name: RunningStatistics(classes) for targets in swept}
    by_name = {targets.layer.name: targets for targets in swept}
    labels = torch.empty(0)

    def add(layer: Layer, activation: Tensor, _: tuple[Any, ...]) -> None:
        sums[layer.name].add(by_name[layer.name].coordinates(activation), labels)

    chosen = [targets.layer for targets in swept]
    with (
        progress_bar("unit means", len(stimuli), "stimuli", enabled=options.progress) as advance,
        watch_layers(network.module, chosen, add) as watcher,
    ):
        for batch in load(network, stimuli, options):
            labels = batch.labels
            run(network, batch.images, watcher)
            advance(len(batch.numbers))
    return {name: running.compute() for name, running in sums.items()}


def _activations(network: Network, stimuli: Stimuli) -> Any:
    def activations(targets: Targets, numbers: Sequence[int]) -> Tensor:
        images, _ = next(load_batches(stimuli, numbers, batch_size=len(numbers)))
        return activation_of(network, targets.layer, as_input(network.module, images))

    return activations


def _check_stimuli(targets: Targets, intact: Tensor, batch: Batch, mode: str) -> None:
    """Raise an error if the first axis of an activation is not the stimuli."""
    if len(intact) != len(batch.numbers):
        raise LayerError(
            f"mode={mode!r} needs one activation for each stimulus, and layer "
            f"{targets.layer.name!r} gives {len(intact)} for {len(batch.numbers)} stimuli; choose "
            "mode='zero', 'mean' or Value(...), or other layers"
        )


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Return (stimulus or 1, coordinate) values with the positions of another tensor."""
    return values.to(like.device, like.dtype).reshape(*values.shape, *(1,) * (like.ndim - 2))
