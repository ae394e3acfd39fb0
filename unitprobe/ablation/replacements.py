"""What takes the place of an ablated coordinate: zero, a mean, another stimulus, noise, a value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from unitprobe.ablation.targets import Targets

#: What takes the place of what is ablated; see `unitprobe.ablate`.
Mode = Literal["zero", "mean", "class_mean", "resample", "noise", "value", "weights"]


@dataclass(frozen=True)
class Batch:
    """Some stimuli on their way through the network.

    Attributes
    ----------
    images : Tensor
        (stimulus, channel, y, x), as the network takes them.
    labels : Tensor
        (stimulus,), their classes.
    numbers : sequence of int
        Which stimuli of all they are.
    """

    images: Tensor
    labels: Tensor
    numbers: Sequence[int]


class Replacement(Protocol):
    """Gives the values that replace coordinates, each by itself, whatever else is replaced."""

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
        means = self.statistics[targets.layer.name].class_mean[batch.labels.cpu()]
        return _spread(means[:, list(which)], intact)


@dataclass
class Noise:
    """The intact value and Gaussian noise, scaled to the coordinate's own standard deviation.

    The noise of a stimulus depends on the seed, the layer and the stimulus alone, so batches do
    not matter, and a coordinate gets the same noise alone and in a group. After Morcos et al.
    2018, section 3.1.

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
        numbers = tuple(int(self.partner[number]) for number in batch.numbers)
        kept = self._kept
        if kept is None or kept[:2] != (targets.layer.name, numbers):
            kept = (targets.layer.name, numbers, self.activations(targets, numbers))
            self._kept = kept
        return targets.coordinates(kept[2], which)


@dataclass(frozen=True)
class Statistics:
    """Of a layer's coordinates, over stimuli and positions.

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
        self._classes = classes
        self._count = torch.zeros(classes, dtype=torch.float64)
        self._sum: Tensor | None = None
        self._square: Tensor | None = None

    def add(self, coordinates: Tensor, labels: Tensor) -> None:
        """Add a batch of coordinates (stimulus, coordinate, *positions)."""
        rows = coordinates.detach().double().flatten(2) if coordinates.ndim > 2 else None
        mean = coordinates.detach().double() if rows is None else rows.mean(2)
        square = (mean**2) if rows is None else (rows**2).mean(2)
        mean, square, labels = mean.cpu(), square.cpu(), labels.cpu()
        if self._sum is None:
            self._sum = torch.zeros(self._classes, mean.shape[1], dtype=torch.float64)
            self._square = torch.zeros(mean.shape[1], dtype=torch.float64)
        assert self._square is not None
        self._sum.index_add_(0, labels, mean)
        self._square += square.sum(0)
        self._count += torch.bincount(labels, minlength=self._classes)

    def compute(self) -> Statistics:
        """Return the statistics of all batches."""
        assert self._sum is not None
        assert self._square is not None
        total = self._count.sum()
        mean = self._sum.sum(0) / total
        variance = (self._square / total - mean**2).clamp(min=0)
        return Statistics(mean, self._sum / self._count[:, None], variance.sqrt())


def random_partners(count: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return another stimulus for each of `count`, each once and none its own.

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


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Return (stimulus or 1, coordinate) values with the positions of another tensor."""
    return values.to(like.device, like.dtype).reshape(*values.shape, *(1,) * (like.ndim - 2))
