"""Measures of ranking of many resamples, each from one walk down the order of the responses.

A resample takes every stimulus some number of times, for one class or another, and leaves the order
of the responses as it is. So nothing is sorted again: the walk counts, from the highest response
on, how many of each class it has met, and knows after every group of ties all measures of every
class. The time does not grow with the number of classes, nor with that of the measures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import compile_loop, run_in_threads
from unitprobe.metrics.ranking import PRECISION, K
from unitprobe.typing import FloatArray, IntArray

#: The measures of the walk, in the order of its results.
WALKED = (
    "average_precision",
    "max_f1",
    "max_informedness",
    "recall_at_precision",
    "roc_auc",
    "precision_at_k",
    "top_class_selectivity",
)
# Two bytes each for class and times: what a resample needs then stays in the cache.
_BLOCK_BYTES = 16 * 2**20
_UNITS = 16

Shorts = NDArray[np.uint16]


def walk_resamples(
    responses: FloatArray, counts: IntArray, layouts: Iterator[IntArray], names: Sequence[str]
) -> dict[str, FloatArray] | None:
    """Return measures of ranking, of the best class of each unit, in every resample.

    Parameters
    ----------
    responses : array
        (stimulus, unit), finite.
    counts : array
        (class_name,), the number of stimuli of each class, of at least two classes.
    layouts : iterator of array
        For each resample the stimuli (stimulus,) laid out by class, as
        `unitprobe.inference.resampling.draw_layouts` draws them: a stimulus may be drawn several
        times, for one class.
    names : sequence of str
        The measures, of `WALKED`.

    Returns
    -------
    dict of str to array, or None
        (resample, unit) for each name, equal to those of `unitprobe.metrics.ranking` but
        for the order of sums, 1e-12. None without compiled loops, or where a number of stimuli does
        not fit in 16 bits.
    """
    loop = compile_loop(_walk)
    if loop is None or max(len(responses), counts.size) >= 2**16:
        return None
    order = np.argsort(-responses.T, axis=1, kind="stable").astype(np.int32)
    ends = np.ones(order.shape, dtype=np.bool_)
    for unit, row in enumerate(order):
        ordered = responses[row, unit]
        ends[unit, :-1] = ordered[1:] != ordered[:-1]
    starts = range(0, order.shape[0], _UNITS)
    blocks = []
    for classes, times in _blocks(counts, layouts):
        block = np.empty((len(WALKED), len(times), order.shape[0]))

        def fill(
            start: int,
            classes: Shorts = classes,
            times: Shorts = times,
            block: FloatArray = block,
        ) -> None:
            units = slice(start, start + _UNITS)
            scratch = np.empty((2, counts.size), dtype=np.int64), np.empty((5, counts.size))
            stimuli = order[units], ends[units], classes, times, counts
            loop(*stimuli, K, PRECISION, *scratch, block[:, :, units])

        run_in_threads(fill, starts)
        blocks.append(block[[WALKED.index(name) for name in names]])
    return dict(zip(names, np.concatenate(blocks, axis=1), strict=True))


def _blocks(counts: IntArray, layouts: Iterator[IntArray]) -> Iterator[tuple[Shorts, Shorts]]:
    """Yield for some resamples at a time which class each stimulus stands for, and how often."""
    class_of = np.repeat(np.arange(counts.size, dtype=np.uint16), counts)
    size = max(1, _BLOCK_BYTES // (4 * class_of.size))
    while block := list(itertools.islice(layouts, size)):
        classes = np.zeros((len(block), class_of.size), dtype=np.uint16)
        times = np.empty_like(classes)
        for row, layout in enumerate(block):
            classes[row, layout] = class_of
            times[row] = np.bincount(layout, minlength=class_of.size)
        yield classes, times


def _walk(
    order: NDArray[np.int32],
    ends: NDArray[np.bool_],
    classes: Shorts,
    times: Shorts,
    counts: IntArray,
    k: int,
    precision: float,
    hits: IntArray,
    scores: FloatArray,
    best: FloatArray,
) -> None:
    """Fill `best` (measure, resample, unit); `hits` and `scores` (.., class_name) are scratch.

    `order` (unit, rank) are the stimuli from the highest response on, and `ends` tells where the
    next response is lower.
    """
    stimuli = counts.sum()
    met, new = hits[0], hits[1]
    shares, f1, above_diagonal = scores[0], scores[1], scores[2]
    pairs, top_hits = scores[3], scores[4]
    for unit in range(order.shape[0]):
        for resample in range(times.shape[0]):
            hits[:] = 0
            scores[:] = 0
            recall, run = 0.0, 0
            rank, first = 0, 0
            for index in range(order.shape[1]):
                stimulus = order[unit, index]
                new[classes[resample, stimulus]] += times[resample, stimulus]
                if not ends[unit, index]:
                    continue
                before = rank
                for tied in range(first, index + 1):
                    rank += times[resample, order[unit, tied]]
                for tied in range(first, index + 1):
                    class_ = classes[resample, order[unit, tied]]
                    added = new[class_]
                    if added == 0:
                        continue
                    new[class_] = 0
                    false_before = before - met[class_]
                    met[class_] += added
                    hit, count = met[class_], counts[class_]
                    share = hit / rank
                    shares[class_] += added * share
                    # Twice the stimuli of the rest that lie lower, ties half.
                    lower = 2 * (stimuli - count) - false_before - (rank - hit)
                    pairs[class_] += added * lower
                    f1[class_] = max(f1[class_], 2 * hit / (count + rank))
                    above = float(hit * stimuli - rank * count)
                    above_diagonal[class_] = max(above_diagonal[class_], above)
                    if share >= precision:
                        recall = max(recall, hit / count)
                    if rank <= k:
                        top_hits[class_] += added
                    elif before < k:
                        top_hits[class_] += added * ((k - before) / (rank - before))
                    if hit == rank:
                        run = hit
                first = index + 1
            best[:, resample, unit] = 0
            best[3, resample, unit] = recall
            best[6, resample, unit] = run
            for class_ in range(counts.size):
                count = counts[class_]
                if count == 0:
                    continue
                rest = stimuli - count
                precisions = shares[class_] / count
                best[0, resample, unit] = max(best[0, resample, unit], precisions)
                best[1, resample, unit] = max(best[1, resample, unit], f1[class_])
                informed = above_diagonal[class_] / (count * rest)
                best[2, resample, unit] = max(best[2, resample, unit], informed)
                area = pairs[class_] / (2 * count * rest)
                best[4, resample, unit] = max(best[4, resample, unit], area)
                best[5, resample, unit] = max(best[5, resample, unit], top_hits[class_] / k)
