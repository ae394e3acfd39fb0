"""Measures that one or two extreme responses decide, as other stimuli would give them.

The gap of `localist_selectivity` and the run of `top_class_selectivity` depend on the highest and
the lowest response to a class. To draw the same stimuli again never gives a higher one, and gives
the same one twice, so no bootstrap tells how far other stimuli would move them. The responses next
to an extreme do: their distances say how quickly the tail ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from unitprobe import metrics
from unitprobe.inference.resampling import as_labelled_counts, check_resamples
from unitprobe.metrics.localist import localist_selectivity_from_extremes
from unitprobe.typing import FloatArray, IntArray

# The responses of a class that make its tail. More of them reach into its middle, which ends
# otherwise: of 30 or 100, a third holds the true gap of selective units in 0 to 0.5 of intervals.
_TAIL = 5


def redraw_extremes(
    responses: ArrayLike, labels: ArrayLike, *, resamples: int, seed: int
) -> dict[str, FloatArray]:
    """Gap and run of stimuli drawn from the tails of each class.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.
    resamples : int
        How many times stimuli are drawn, at least 1.
    seed : int
        The same seed gives the same draws, whatever the units.

    Returns
    -------
    dict of str to array
        (resample, unit) for ``localist_selectivity`` and for ``top_class_selectivity``, there not
        rounded to whole stimuli; from 0, or any.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `unitprobe.inference.class_measures_null`.

    Notes
    -----
    Above the sixth highest response to a class its tail is taken to be exponential, with the mean
    distance of the five above from the sixth as its scale: Weissman, "Estimation of parameters and
    large quantiles based on the k largest observations" (1978). The highest of as many other
    stimuli is then that of five such distances; the lowest likewise. Of these extremes the gap is
    made as ever. The run is the number of stimuli of each class that is expected above the highest
    of all others, by its tail, or by counting where that lies below the tail.

    A tail that ends sooner makes the resamples spread too widely, a heavier one too narrowly. It
    has no scale where the six responses are equal, such as the zeros of a rectified unit.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(1000, 50))
    >>> drawn = redraw_extremes(noise, np.arange(1000) % 10, resamples=100, seed=0)
    >>> {name: round(float(values.mean()), 1) for name, values in drawn.items()}
    {'localist_selectivity': -5.1, 'top_class_selectivity': 1.2}
    """
    values, classes, counts = as_labelled_counts(responses, labels)
    check_resamples(resamples)
    present = np.flatnonzero(counts)
    ascending = [np.sort(values[classes == class_], axis=0) for class_ in present]
    above = _Tails.of([rows[::-1] for rows in ascending])
    below = _Tails.of([-rows for rows in ascending])
    units = values.shape[1]
    rng = np.random.default_rng(seed)
    gaps, runs = np.empty((resamples, units)), np.empty((resamples, units))
    first, second = np.empty((resamples, units), dtype=np.int64), np.empty((resamples, units))
    for resample in range(resamples):
        chances = rng.random((2, present.size))
        highest, lowest = above.draw(chances[0]), -below.draw(chances[1])
        by_class = localist_selectivity_from_extremes(lowest, highest)
        gaps[resample] = metrics.best_over_classes(by_class)
        # The class of the highest response has the second as its bound, all others the highest.
        top, bound = _two_highest(highest)
        runs[resample] = above.expected(bound).sum(axis=0)
        first[resample] = top
        second[resample] = bound[top, np.arange(units)]
    for index, rows in enumerate(ascending):
        inside = (first == index) & (second < above.starts[index])
        for unit in np.flatnonzero(inside.any(axis=0)):
            some = inside[:, unit]
            reached = np.searchsorted(rows[:, unit], second[some, unit], side="right")
            runs[some, unit] += len(rows) - reached
    return {"localist_selectivity": gaps, "top_class_selectivity": runs}


@dataclass(frozen=True)
class _Tails:
    """Where the upper tail of each class starts, how it falls, and how many responses it holds.

    Attributes
    ----------
    starts, scales : array
        (class_name, unit).
    sizes : array
        (class_name, 1).
    """

    starts: FloatArray
    scales: FloatArray
    sizes: IntArray

    @classmethod
    def of(cls, descending: list[FloatArray]) -> _Tails:
        """Return the tails of responses (stimulus, unit) in descending order, one for each class.

        The tail of a single response has no scale.
        """
        sizes = [max(1, min(_TAIL, len(rows) - 1)) for rows in descending]
        starts = [
            rows[min(size, len(rows) - 1)] for rows, size in zip(descending, sizes, strict=True)
        ]
        scales = [
            rows[:size].mean(axis=0) - start
            for rows, size, start in zip(descending, sizes, starts, strict=True)
        ]
        return cls(np.stack(starts), np.stack(scales), np.array(sizes)[:, None])

    def draw(self, chances: FloatArray) -> FloatArray:
        """Return the highest response (class_name, unit) at a chance (class_name,) of a lower."""
        distance = -np.log1p(-(chances[:, None] ** (1 / self.sizes)))
        return self.starts + self.scales * distance

    def expected(self, bounds: FloatArray) -> FloatArray:
        """Return how many responses (class_name, unit) exceed a bound, 0 where it is lower."""
        scales = np.where(self.scales > 0, self.scales, 1.0)
        fallen = np.exp(-np.maximum(bounds - self.starts, 0) / scales)
        inside = (bounds >= self.starts) & (self.scales > 0)
        return np.where(inside, self.sizes * fallen, 0.0)


def _two_highest(values: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return which class is highest, (unit,), and the highest of all others (class_name, unit)."""
    units = np.arange(values.shape[1])
    top = values.argmax(axis=0)
    others = values.copy()
    others[top, units] = -np.inf
    bounds = np.broadcast_to(values.max(axis=0), values.shape).copy()
    bounds[top, units] = others.max(axis=0)
    return top, bounds
