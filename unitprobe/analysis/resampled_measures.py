"""Measures by class under resampling in one pass, from sums over the stimuli of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unitprobe.errors import OptionError
from unitprobe.inference.nulls import measure_of_sums, sum_classes
from unitprobe.inference.resampling import draw_layouts, redraw, shuffle
from unitprobe.metrics.registry import MEASURES
from unitprobe.online import ClassMembership, ResampledClassSums, Resamples, merge_across_ranks
from unitprobe.store import format_size
from unitprobe.typing import BoolArray, FloatArray, IntArray

# The most that the class sums of all units and resamples, with the draws, may occupy.
_MOST_BYTES = 4 * 2**30
# Of a sum of squares in double precision. Responses that differ by less do not in single precision.
_ROUNDING = 1e-13


def _sums_for(names: Sequence[str]) -> list[str]:
    """Return which sums the measures need: of responses without negatives, of all, of squares."""
    needs = {MEASURES[name].needs for name in names}
    non_negative = ["non_negative"] if "means" in needs else []
    return [*non_negative, "raw", "squares"] if "moments" in needs else non_negative


def draw_resamples(
    labels: IntArray,
    counts: IntArray,
    units: int,
    null_names: Sequence[str],
    interval_names: Sequence[str],
    *,
    n_permutations: int,
    n_bootstrap: int,
    seed: int,
) -> dict[str, Resamples]:
    """Draw the resamples that a recording would get with the same seed, before any response.

    Parameters
    ----------
    labels : array
        (stimulus,).
    counts : array
        (class_name,), the number of stimuli of each class.
    units : int
        The number of units of all layers.
    null_names, interval_names : sequence of str
        The measures that get a null, and an interval. An interval needs permutations too.
    n_permutations, n_bootstrap, seed
        As `unitprobe.analyze`.

    Returns
    -------
    dict
        ``"permutations"`` and ``"redraws"``, where there are any.

    Raises
    ------
    OptionError
        Their class sums would not fit in memory.
    """
    permuted = _sums_for([*null_names, *interval_names])
    redrawn = _sums_for(interval_names)
    if not permuted:
        return {}
    wanted = {
        "permutations": n_permutations or n_bootstrap,
        "redraws": n_bootstrap if redrawn else 0,
    }
    each = {
        kind: 8 * len(sums) * len(counts) * units + 3 * len(labels)
        for kind, sums in (("permutations", permuted), ("redraws", redrawn))
    }
    needed = sum(each[kind] * wanted[kind] for kind in wanted)
    if needed > _MOST_BYTES:
        fitting = _MOST_BYTES // sum(each[kind] for kind in wanted if wanted[kind])
        raise OptionError(
            f"n_permutations={n_permutations} and n_bootstrap={n_bootstrap} would need "
            f"{format_size(needed)} for {units:,} units and {len(counts):,} classes, above "
            f"{format_size(_MOST_BYTES)}; {fitting:,} of each fit; choose fewer, or fewer layers "
            "or metrics, or analyze a recording"
        )
    return {
        kind: Resamples(draw_layouts(draw, labels, counts, wanted[kind], seed), counts)
        for kind, draw in (("permutations", shuffle), ("redraws", redraw))
        if wanted[kind]
    }


class ResampledMeasures:
    """The measures by class of one layer in each resample.

    Parameters
    ----------
    names : sequence of str
        The measures, each from class means or moments.
    resamples : Resamples
        Which stimuli are in which class.
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
            kind: ResampledClassSums(len(resamples), resamples.counts) for kind in _sums_for(names)
        }

    def update(self, responses: Tensor, non_negative: Tensor, membership: ClassMembership) -> None:
        """Take in responses (stimulus, unit) as they are, and as the sign policy makes them."""
        for kind, sums in self._sums.items():
            if kind == "non_negative":
                sums.update(non_negative, membership)
            else:
                deviations = responses.to(self._shift) - self._shift
                sums.update(deviations if kind == "raw" else deviations**2, membership)

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
                    values = measure_of_sums(MEASURES[name], *moments)
                    constant = _is_constant(self._counts, deviations, means["squares"])
                    blocks[name].append(np.where(constant, np.nan, values))
        return {name: np.concatenate(parts) for name, parts in blocks.items()}


def _is_constant(counts: IntArray, means: FloatArray, squares: FloatArray) -> BoolArray:
    """Return in which resamples a unit is constant (resample, unit), of class means and squares."""
    whole, total = (sum_classes(counts, sums) for sums in (squares, means))
    constant: BoolArray = whole - total**2 / counts.sum() <= _ROUNDING * whole
    return constant
