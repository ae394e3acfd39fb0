"""Measures by class under resampling in one pass, from sums over what each class was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unitprobe.inference.nulls import measure_of_sums
from unitprobe.metrics.registry import MEASURES, measures
from unitprobe.online import Bags, ResampledClassSums, Resamples, merge_across_ranks
from unitprobe.typing import FloatArray

#: Measures that have a null, and an interval where `analyze` gives one, in one pass.
RESAMPLED_MEASURES = (*measures(needs=["means"]), *measures(needs=["moments"]))


def sums_for(names: Sequence[str]) -> list[str]:
    """Return which sums the measures need: of responses without negatives, of all, of squares."""
    kinds = ["non_negative"] if any(MEASURES[name].needs == "means" for name in names) else []
    return (
        [*kinds, "raw", "squares"]
        if any(MEASURES[name].needs == "moments" for name in names)
        else kinds
    )


class ResampledMeasures:
    """The measures by class of one layer in each resample.

    Parameters
    ----------
    names : sequence of str
        The measures, of `RESAMPLED_MEASURES`.
    resamples : Resamples
        Which stimuli stand for which class.
    shift : Tensor
        (unit,), a typical response of each unit, the same in all processes: squares are taken of
        what is left without it, so that a large mean cancels no variance.
    """

    def __init__(self, names: Sequence[str], resamples: Resamples, shift: Tensor) -> None:
        self._names = names
        self._counts = resamples.counts
        self._shift = (
            shift.to(torch.float64) if shift.device.type != "mps" else shift.cpu().double()
        )
        self._sums = {
            kind: ResampledClassSums(len(resamples), resamples.counts) for kind in sums_for(names)
        }

    def update(self, responses: Tensor, non_negative: Tensor, bags: Bags) -> None:
        """Take in responses (stimulus, unit) as they are, and as the sign policy makes them."""
        for kind, sums in self._sums.items():
            if kind == "non_negative":
                sums.update(non_negative, bags)
            else:
                deviations = responses.to(self._shift) - self._shift
                sums.update(deviations if kind == "raw" else deviations**2, bags)

    def merge_across_ranks(self) -> None:
        """Take in what the other processes have seen of this layer."""
        for kind in self._sums:
            self._sums[kind] = merge_across_ranks(self._sums[kind])

    def values(self) -> dict[str, FloatArray]:
        """Return the measures (resample, unit), by name."""
        blocks: dict[str, list[FloatArray]] = {name: [] for name in self._names}
        shift = self._shift.cpu().numpy()
        for sums in zip(*(kind.class_means() for kind in self._sums.values()), strict=True):
            means: Mapping[str, FloatArray] = dict(zip(self._sums, sums, strict=True))
            for name in self._names:
                if MEASURES[name].needs == "means":
                    blocks[name].append(
                        measure_of_sums(MEASURES[name], self._counts, means["non_negative"])
                    )
                else:
                    deviations = means["raw"]
                    variances = np.maximum(means["squares"] - deviations**2, 0.0)
                    moments = (self._counts, deviations + shift, variances)
                    blocks[name].append(measure_of_sums(MEASURES[name], *moments))
        return {name: np.concatenate(parts) for name, parts in blocks.items()}
