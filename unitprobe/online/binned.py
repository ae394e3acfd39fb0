"""Measures of ranking and information from counts in bins, with a bound on what binning hides.

The value of each is that of the binned responses, those of one bin being ties. How the responses
of a bin are ordered is not known; the bound holds for every order there can be, ties included. A
bin of a single value, as that of exact 0 or those of a constant unit, hides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unitprobe.online.bounded import Bounded, between
from unitprobe.typing import FloatArray, IntArray


@dataclass(frozen=True)
class BinnedResponses:
    """How many responses of each unit lie in which bin, by class, and what thresholds give.

    A threshold below a bin predicts all that lies in it and above. Every property but `size` and
    `rest` is (unit, class_name, bin), with 1 for the classes where they do not matter.

    Attributes
    ----------
    hits : array
        (unit, class_name, bin), bins from the highest responses to the lowest.
    one_value : array
        (unit, 1, bin), which bins hold a single value.
    """

    hits: FloatArray
    one_value: NDArray[np.bool_]

    @cached_property
    def size(self) -> FloatArray:
        """(unit, class_name) stimuli of each class; NaN for none, or without a rest."""
        size = self.hits.sum(axis=2)
        return np.where((size > 0) & (size < self.stimuli), size, np.nan)

    @cached_property
    def stimuli(self) -> float:
        """Number of stimuli."""
        return float(self.hits[0].sum())

    @cached_property
    def total(self) -> FloatArray:
        """Responses in each bin."""
        total: FloatArray = self.hits.sum(axis=1, keepdims=True)
        return total

    @cached_property
    def found(self) -> FloatArray:
        """Stimuli of the class that a threshold below the bin predicts, j."""
        return np.cumsum(self.hits, axis=2)

    @cached_property
    def predicted(self) -> FloatArray:
        """Stimuli that a threshold below the bin predicts, r."""
        return np.cumsum(self.total, axis=2)

    @cached_property
    def fewest_predicted(self) -> FloatArray:
        """The same, if those of the class come first in the bin."""
        first = self.predicted - self.total + self.hits
        return np.where(self.one_value, self.predicted, first)


def roc_auc(binned: BinnedResponses) -> Bounded:
    """Return the area under the ROC curve: (unit, class_name).

    The error is at most half the share of pairs, one of the class and one of the rest, in one bin.
    """
    rest = binned.total - binned.hits
    higher = np.cumsum(rest, axis=2) - rest
    same = binned.hits * rest
    pairs = binned.size * (binned.stimuli - binned.size)
    lost = (binned.hits * higher).sum(axis=2) + 0.5 * same.sum(axis=2)
    hidden = 0.5 * np.where(binned.one_value, 0.0, same).sum(axis=2)
    return Bounded(1.0 - lost / pairs, hidden / pairs)


def average_precision(binned: BinnedResponses) -> Bounded:
    """Return the average precision: (unit, class_name).

    Each of h hits in a bin has the precision j / r at its own rank. It is highest if they tie and
    come first; lowest if they come last, one by one: (j - h + i) / (r - h + i) for the i-th.
    """
    hits, found, predicted = binned.hits, binned.found, binned.predicted
    total = np.maximum(predicted, 1.0)
    value = (hits * found / total).sum(axis=2)
    high = (hits * found / np.maximum(binned.fewest_predicted, 1.0)).sum(axis=2)
    # With m = r - j, which is the same for all i, this is 1 - m / (r - h + i).
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, binned.stimuli + 1))])
    first = (predicted - hits).astype(np.int64)
    inverse = harmonic[predicted.astype(np.int64)] - harmonic[first]
    last = np.where(
        binned.one_value, hits * found / total, hits - (predicted - found) * inverse
    ).sum(axis=2)
    return between(value / binned.size, last / binned.size, high / binned.size)


def max_informedness(binned: BinnedResponses) -> Bounded:
    """Return the largest TPR - FPR over thresholds: (unit, class_name)."""
    return _best_threshold(binned, _informedness)


def max_informedness_bin(binned: BinnedResponses) -> IntArray:
    """Return below which bin the threshold of `max_informedness` lies: (unit, class_name).

    The highest of those that tie; -1 if none is better than chance.
    """
    values = _informedness(binned, binned.predicted)
    best = np.argmax(values, axis=2)
    return np.where(values.max(axis=2) > 0, best, -1)


def max_f1(binned: BinnedResponses) -> Bounded:
    """Return the largest F1 over thresholds: (unit, class_name)."""
    return _best_threshold(binned, _f1)


def recall_at_precision(binned: BinnedResponses, precision: float) -> Bounded:
    """Return the largest recall over thresholds of at least that precision: (unit, class_name)."""

    def recall(binned: BinnedResponses, predicted: FloatArray) -> FloatArray:
        enough = binned.found / np.maximum(predicted, 1.0) >= precision
        return np.where(enough, binned.found, 0.0) / binned.size[:, :, None]

    return _best_threshold(binned, recall)


def _best_threshold(
    binned: BinnedResponses, score: Callable[[BinnedResponses, FloatArray], FloatArray]
) -> Bounded:
    """Return the largest score, (unit, class_name), and how much a threshold in a bin may add.

    Each score grows with the hits and falls with what is predicted, and a further hit never lowers
    it: within a bin no threshold can be better than after hits that all come first.
    """
    value = np.maximum(score(binned, binned.predicted).max(axis=2), 0.0)
    high = np.maximum(score(binned, binned.fewest_predicted).max(axis=2), 0.0)
    return Bounded(value, np.maximum(high - value, 0.0))


def _informedness(binned: BinnedResponses, predicted: FloatArray) -> FloatArray:
    size = binned.size[:, :, None]
    # In whole numbers, so that equal ones are equal.
    return (binned.found * binned.stimuli - predicted * size) / (size * (binned.stimuli - size))


def _f1(binned: BinnedResponses, predicted: FloatArray) -> FloatArray:
    return 2.0 * binned.found / (binned.size[:, :, None] + predicted)


def mutual_information(binned: BinnedResponses, bins: int) -> Bounded:
    """Return `unitprobe.metrics.mutual_information` in so many quantile bins: (unit,).

    Only where the edge of a quantile lies inside a bin is it not known on which side its responses
    are. With v the counts by class of what is known to be in a quantile and u of what may be there,
    and V, U their sums over classes, its conditional entropy of the class, times its size, is for
    any w that is there of u

    - at least that of v, and log2((V + u_c) / (v_c + u_c)) for each of w: the smallest gradient of
      what is concave and homogeneous;
    - at most the code length log2((V + U) / (v_c + u_c)) of each of v and w: Gibbs' inequality.

    What may be in several quantiles counts with the smallest, or the largest, of theirs.
    """
    stimuli = binned.stimuli
    middle, first, last = _quantiles(binned, bins)
    quantile = np.arange(bins)
    assigned = binned.hits @ (middle[:, :, None] == quantile)
    known = binned.hits @ ((first == last)[:, :, None] & (first[:, :, None] == quantile))

    # One bin at most for each edge of a quantile is uncertain.
    some = np.argsort(first == last, axis=1, kind="stable")[:, : bins - 1]
    first, last = (np.take_along_axis(end, some, axis=1)[:, :, None] for end in (first, last))
    moving = np.take_along_axis(binned.hits, some[:, None], axis=2) * np.swapaxes(
        first < last, 1, 2
    )
    at = (first <= quantile) & (quantile <= last)
    possible = moving @ at

    every = known + possible
    least = _log2((known.sum(axis=1, keepdims=True) + possible) / np.maximum(every, 1.0))
    most = _log2(every.sum(axis=1, keepdims=True) / np.maximum(every, 1.0))
    lowest, highest = np.full(moving.shape, np.inf), np.zeros(moving.shape)
    for q in quantile:
        here = at[:, None, :, q]
        lowest = np.where(here, np.minimum(lowest, least[:, :, q, None]), lowest)
        highest = np.where(here, np.maximum(highest, most[:, :, q, None]), highest)

    low = _entropy(known).sum(axis=1) + (moving * lowest).sum(axis=(1, 2))
    high = (known * most).sum(axis=(1, 2)) + (moving * highest).sum(axis=(1, 2))
    of_classes = binned.hits.sum(axis=2)

    def information(conditional: FloatArray, counts: FloatArray) -> FloatArray:
        """Correct as Miller and Madow do: a quantile adds one fewer than its cells."""
        plug_in = np.clip((_entropy(of_classes) - conditional) / stimuli, 0.0, None)
        excess = np.maximum((counts > 0).sum(axis=1) - 1, 0).sum(axis=1)
        classes = (of_classes > 0).sum(axis=1)
        corrected: FloatArray = plug_in + (classes - 1 - excess) / (2 * stimuli * math.log(2))
        return corrected

    value = information(_entropy(assigned).sum(axis=1), assigned)
    return between(value, information(high, every), information(low, known))


def _quantiles(binned: BinnedResponses, bins: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the middle, lowest and highest quantile (unit, bin) that responses may be in.

    As `unitprobe.metrics.information.bin_responses`, from twice the number of stimuli below the
    middle of a tie, in integers: 1 more than those below the bin for the lowest that has no equal.
    """
    size = binned.total[:, 0].astype(np.int64)
    stimuli = int(binned.stimuli)
    below = stimuli - binned.predicted[:, 0].astype(np.int64)
    middle = 2 * below + size
    alike = binned.one_value[:, 0] | (size == 0)
    ends = (
        middle,
        np.where(alike, middle, 2 * below + 1),
        np.where(alike, middle, 2 * (below + size) - 1),
    )
    quantile, first, last = (np.minimum(bins * end // (2 * stimuli), bins - 1) for end in ends)
    return quantile, first, last


def _entropy(counts: FloatArray) -> FloatArray:
    """Return the entropy in bits over the second axis of (unit, class_name, ...), times the sum."""
    total = counts.sum(axis=1)
    entropy: FloatArray = total * _log2(total) - (counts * _log2(counts)).sum(axis=1)
    return entropy


def _log2(values: FloatArray) -> FloatArray:
    """Return the logarithm, and 0 for 0."""
    logarithm: FloatArray = np.log2(np.where(values > 0, values, 1.0))
    return logarithm
