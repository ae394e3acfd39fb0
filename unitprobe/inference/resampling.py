"""Class means under resampling: labels shuffled, or stimuli redrawn.

Both lay the stimuli out by class again and take the same sums, in blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from unitprobe.compiled import run_in_threads
from unitprobe.errors import OptionError
from unitprobe.inference.class_sums import ClassDraws, ResponseTiles, prepare_draws
from unitprobe.metrics import class_counts
from unitprobe.metrics._arrays import as_labels, as_responses
from unitprobe.typing import FloatArray, IntArray

#: The most that one block of resampled class means, or of the draws behind it, may occupy, unless
#: one resample alone exceeds it.
BLOCK_BYTES = 16 * 2**20


def shuffled_class_means(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int,
    seed: int,
    class_count: int | None = None,
    block_size: int | None = None,
) -> Iterator[FloatArray]:
    """Class means after the labels were shuffled: what chance alone makes of each tuning curve.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1.
    resamples : int
        How many times the labels are shuffled, at least 1.
    seed : int
        The same seed gives the same shuffles, whatever the units and the block size.
    class_count : int, optional
        The number of classes C. Without it, the highest label and one.
    block_size : int, optional
        Resamples in one block. Without it, as many as 16 MiB hold.

    Yields
    ------
    array
        (resample, class_name, unit), the next block of resamples; NaN in the row of a class
        without stimuli.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    OptionError
        The number of resamples or the block size is below 1.

    Notes
    -----
    Every shuffle keeps the number of stimuli of each class and, because all units share it, the
    correlation between units.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 2])
    >>> [block.shape for block in shuffled_class_means(responses, labels, resamples=5, seed=0)]
    [(5, 3, 2)]
    """
    return _resampled_class_means(
        shuffle, responses, labels, resamples, seed, class_count, block_size
    )


def bootstrapped_class_means(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    resamples: int,
    seed: int,
    class_count: int | None = None,
    block_size: int | None = None,
) -> Iterator[FloatArray]:
    """Class means of stimuli drawn with replacement: how far other stimuli would move each curve.

    Parameters
    ----------
    responses, labels, resamples, seed, class_count, block_size
        As `shuffled_class_means`.

    Yields
    ------
    array
        (resample, class_name, unit), the next block of resamples; NaN in the row of a class
        without stimuli.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `shuffled_class_means`.

    Notes
    -----
    The bootstrap is stratified: each class keeps its number of stimuli, drawn from its own.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 2])
    >>> (means,) = bootstrapped_class_means(responses, labels, resamples=5, seed=0)
    >>> means[:, 2]  # the only stimulus of its class is always drawn
    array([[10., 11.], [10., 11.], [10., 11.], [10., 11.], [10., 11.]])
    """
    return _resampled_class_means(
        redraw, responses, labels, resamples, seed, class_count, block_size
    )


# A draw lays stimuli out by class: the first counts[0] of them stand for class 0, and so on.
Draw: TypeAlias = Callable[[np.random.Generator, IntArray, IntArray], IntArray]


def shuffle(rng: np.random.Generator, by_class: IntArray, counts: IntArray) -> IntArray:
    """Draw the stimuli without replacement, across classes."""
    return rng.permutation(by_class)


def redraw(rng: np.random.Generator, by_class: IntArray, counts: IntArray) -> IntArray:
    """Draw the stimuli with replacement, each class from its own."""
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return by_class[starts + rng.integers(np.repeat(counts, counts))]


def draw_layouts(
    draw: Draw, labels: IntArray, counts: IntArray, resamples: int, seed: int
) -> Iterator[IntArray]:
    """Yield the stimuli (stimulus,) laid out by class, once for each resample.

    Whoever sums elsewhere, such as batch by batch, has the same resamples for the same seed.
    """
    by_class = np.argsort(labels, kind="stable")
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield draw(rng, by_class, counts)


def _resampled_class_means(
    draw: Draw,
    responses: ArrayLike,
    labels: ArrayLike,
    resamples: int,
    seed: int,
    class_count: int | None,
    block_size: int | None,
) -> Iterator[FloatArray]:
    values, classes, counts = as_labelled_counts(responses, labels, class_count)
    check_resamples(resamples)
    if block_size is None:
        block_size = max(1, BLOCK_BYTES // (8 * max(counts.size * values.shape[1], classes.size)))
    if block_size < 1:
        raise OptionError(f"block_size={block_size} must be at least 1")
    layouts = draw_layouts(draw, classes, counts, resamples, seed)
    return _blocks(values, counts, layouts, block_size)


def as_labelled_counts(
    responses: ArrayLike, labels: ArrayLike, class_count: int | None = None
) -> tuple[FloatArray, IntArray, IntArray]:
    """Return responses in float64, the labels that fit them, and the stimuli of each class.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.
    """
    values: FloatArray = as_responses(np.asarray(responses))
    classes: IntArray = as_labels(np.asarray(labels), class_count, values)
    return values, classes, class_counts(classes, class_count).astype(np.int64)


def check_resamples(resamples: int) -> None:
    """Refuse fewer than one resample."""
    if resamples < 1:
        raise OptionError(f"resamples={resamples} must be at least 1")


def draws_in_blocks(
    layouts: Iterator[IntArray], counts: IntArray, block_size: int
) -> Iterator[ClassDraws]:
    """Yield the resamples, some at a time, ready for sums; the next are prepared meanwhile."""

    def prepare() -> ClassDraws | None:
        block = list(itertools.islice(layouts, block_size))
        return prepare_draws(np.stack(block), counts) if block else None

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(prepare)
        while (draws := upcoming.result()) is not None:
            upcoming = pool.submit(prepare)
            yield draws


def _blocks(
    responses: FloatArray, counts: IntArray, layouts: Iterator[IntArray], block_size: int
) -> Iterator[FloatArray]:
    tiles = ResponseTiles(responses)
    for draws in draws_in_blocks(layouts, counts, block_size):
        means = np.empty((draws.resamples, counts.size, responses.shape[1]))

        def fill(tile: int, draws: ClassDraws = draws, means: FloatArray = means) -> None:
            means[:, :, tiles.units_of_tile[tile]] = tiles.class_means(tile, draws)

        run_in_threads(fill, range(len(tiles.units_of_tile)))
        yield means
