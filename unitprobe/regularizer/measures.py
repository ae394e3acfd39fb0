"""The measures that can be regularized, computed from the class sums of a batch.

The class sums of several batches or processes are added: `BatchSums`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

from unitprobe.metrics import selectivity_index

#: Names of the measures; see `SelectivityRegularizer`.
RegularizedMeasure = Literal["class_selectivity", "class_selectivity_corrected", "d_prime"]

#: Makes the measure of a unit without responses 0, and its gradient finite. A share: of the mean
#: size of the responses of a unit, or of their variance, so that the measures have no scale.
EPSILON = 1e-7
# The share of the mean square that is added too, for a unit whose variance is rounding.
_EPSILON_OF_SQUARES = 1e-10


@dataclass(frozen=True)
class BatchSums:
    """Sums over the stimuli of a batch, of all units of all layers.

    Attributes
    ----------
    counts : Tensor
        (class_name,), number of stimuli of each class.
    sums : Tensor
        (class_name, unit), sums of the responses to each class.
    other : Tensor
        (class_name, unit): for d-prime the sums of squared responses to each class, for the
        corrected selectivity those of the responses after a permutation of the labels; otherwise
        (0, unit).
    size : Tensor
        (unit,), sums of absolute responses; 0 for a dead unit.
    """

    counts: Tensor
    sums: Tensor
    other: Tensor
    size: Tensor

    def packed(self) -> Tensor:
        """Return everything as one vector, so that it can be added at once."""
        parts = (self.counts, self.sums, self.other, self.size)
        return torch.cat([part.reshape(-1) for part in parts])

    def unpacked(self, vector: Tensor) -> BatchSums:
        """Return the inverse of `packed`, with the shapes of these sums."""
        parts = (self.counts, self.sums, self.other, self.size)
        split = torch.split(vector, [part.numel() for part in parts])
        counts, sums, other, size = (
            piece.reshape(part.shape) for piece, part in zip(split, parts, strict=True)
        )
        return BatchSums(counts.detach(), sums, other, size.detach())


def batch_sums(
    responses: Tensor, labels: Tensor, class_count: int, measure: RegularizedMeasure
) -> BatchSums:
    """Return the sums from which a measure is computed.

    Parameters
    ----------
    responses : Tensor
        (stimulus, unit). All sums except the size have their gradient.
    labels : Tensor
        (stimulus,), integers 0..C-1; not checked.
    class_count : int
        The number of classes C.
    measure : str
        See `SelectivityRegularizer`.
    """
    classes = torch.arange(class_count, device=labels.device)
    members = (labels == classes[:, None]).to(responses.dtype)
    if measure == "class_selectivity":
        other = responses[:0]
    elif measure == "d_prime":
        other = members @ responses.square()
    else:
        permuted = labels[torch.randperm(len(labels), device=labels.device)]
        other = (permuted == classes[:, None]).to(responses.dtype) @ responses
    size = responses.detach().abs().sum(0)
    return BatchSums(members.sum(1), members @ responses, other, size)


def measure_units(sums: BatchSums, measure: RegularizedMeasure) -> Tensor:
    """Return the measure of each unit, (unit,); 0 where fewer than two classes have stimuli."""
    # Not `torch.where`, which copies a number to the device and makes the processor wait for it.
    too_few = (sums.counts > 0).sum() < 2
    # Masked before and after, because the gradient of an undefined value would be NaN.
    of_classes = sums.sums.masked_fill(too_few, 0.0)
    other = sums.other.masked_fill(too_few, 0.0)
    if measure == "d_prime":
        values = _d_prime(sums.counts, of_classes, other)
    else:
        size = sums.size / sums.counts.sum().clamp(min=1)
        scale = size.masked_fill(size == 0, 1.0)
        values = _selectivity(sums.counts, of_classes / scale)
        if measure == "class_selectivity_corrected":
            values = values - _selectivity(sums.counts, other / scale)
    return values.masked_fill(too_few, 0.0)


def _selectivity(counts: Tensor, sums: Tensor) -> Tensor:
    means = sums / counts[:, None].clamp(min=1)
    selectivity: Tensor = selectivity_index(means, counts, eps=EPSILON)
    return selectivity


def _d_prime(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Return the largest d-prime over classes, (unit,), with epsilon in the denominator."""
    added = _share_of_variance(counts, sums.detach(), squares.detach())
    counts = counts[:, None]
    rest = (counts.sum() - counts).clamp(min=1)
    here = counts.clamp(min=1)
    mean = sums / here
    mean_of_rest = (sums.sum(0) - sums) / rest
    variance = (squares / here - mean.square()).clamp(min=0)
    variance_of_rest = ((squares.sum(0) - squares) / rest - mean_of_rest.square()).clamp(min=0)
    # Inside the root, because the gradient of a unit without variance would be infinite.
    deviation = ((variance + variance_of_rest) / 2 + added).sqrt()
    by_class = ((mean - mean_of_rest) / deviation).masked_fill(counts == 0, -torch.inf)
    return by_class.amax(0)


def _share_of_variance(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Return `EPSILON` of the variance of each unit over all stimuli, (unit,); never 0."""
    stimuli = counts.sum().clamp(min=1)
    square = squares.sum(0) / stimuli
    variance = (square - (sums.sum(0) / stimuli).square()).clamp(min=0)
    share = EPSILON * variance + _EPSILON_OF_SQUARES * square
    return share.masked_fill(share == 0, EPSILON)


class _SumOverProcesses(torch.autograd.Function):
    """Sum a tensor over the processes, and its gradient too: each process has its own loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def sum_over_processes(sums: BatchSums) -> BatchSums:
    """Return the sums over all processes of ``torch.distributed``; without it, the input."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sums
    if torch.distributed.get_world_size() == 1:
        return sums
    return sums.unpacked(_SumOverProcesses.apply(sums.packed()))
