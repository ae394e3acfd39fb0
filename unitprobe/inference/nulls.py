"""Null and bootstrap of every measure by class, all of them from the same resamples.

The record of a measure says what it can be computed from (`unitprobe.metrics.registry`). What does
not depend on the resample is prepared once: squares, ranks or bins. Measures that are functions of
class means, class variances or mean ranks then cost one sum over the responses for each resample.
All others are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from unitprobe import metrics
from unitprobe.compiled import run_in_threads
from unitprobe.errors import LabelError, OptionError
from unitprobe.inference.class_sums import ClassDraws, ResponseTiles
from unitprobe.inference.ranking_walk import WALKED, walk_resamples
from unitprobe.inference.resampling import (
    BLOCK_BYTES,
    as_labelled_counts,
    check_resamples,
    draw_layouts,
    draws_in_blocks,
    redraw,
    shuffle,
)
from unitprobe.metrics._arrays import safe_scale, safely_scaled
from unitprobe.metrics._ranks import rank_responses, ranking_measures
from unitprobe.metrics.information import bin_responses
from unitprobe.metrics.registry import Measure, get_measure
from unitprobe.metrics.tuning import shifted_class_moments
from unitprobe.typing import BoolArray, FloatArray, IntArray

# Below this share of the sum of squares, their difference has fewer than four correct digits.
_CANCELLED = 1e-3


def class_measures_null(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Several measures of each unit after the labels were shuffled, all with the same shuffles.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    labels : array
        (stimulus,), the class of each stimulus, integers 0..C-1, of at least two classes.
    names : sequence of str
        The measures, of kind "class" in `unitprobe.metrics.registry`.
    resamples : int
        How many times the labels are shuffled, at least 1.
    seed : int
        The same seed gives the same shuffles, whatever the measures and the units.

    Returns
    -------
    dict of str to array
        (resample, unit) for each name, in the range of the measure; NaN where it has no value.
        `summarize_null` makes p-values of it.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus, or hold fewer than two classes.
    OptionError
        A name is not known, or the number of resamples is below 1; or as the measure itself, for
        example ``precision_at_k`` of fewer than 60 stimuli.

    Notes
    -----
    Every null is one-sided upwards: a large value is a selective one. All of these are a best of
    classes, or positive, and so are larger than their nominal "no effect" for pure noise;
    the null knows by how much.

    The measures of means and moments take a sum over all responses for each shuffle, in single
    precision to about 1e-7 of a unit's range: where a d_prime exceeds 1,000 or eta_squared comes
    within 1e-6 of 1, the variance that is left cannot be distinguished from 0, and d_prime and
    anova_f are infinite. Measures of ranking, roc_auc apart, walk down the ranking once for each
    shuffle, all together. Measured time of one shuffle of 10,000 stimuli x 256 units x 10 classes,
    on one core: 0.5 to 0.8 ms for class_selectivity and ccmas, 0.7 to 1.4 ms for roc_auc, d_prime,
    class_correlation, anova_f and eta_squared, 7 ms for localist_selectivity, 16 ms for
    mutual_information, 16 ms for all measures of ranking; without numba 17 to 32 ms for each of
    these. Up to 40 bytes for each response are held beside the result.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(1000, 50))
    >>> labels = np.arange(1000) % 10
    >>> null = class_measures_null(
    ...     noise, labels, names=["roc_auc", "d_prime"], resamples=20, seed=0
    ... )
    >>> {name: round(float(values.mean()), 2) for name, values in null.items()}
    {'roc_auc': 0.55, 'd_prime': 0.17}
    """
    values, classes, counts = _check(responses, labels, names, resamples)
    wanted = {name: get_measure(name, "class") for name in names}

    def layouts() -> Iterator[IntArray]:
        return draw_layouts(shuffle, classes, counts, resamples, seed)

    def labellings() -> Iterator[IntArray]:
        for layout in layouts():
            shuffled = np.empty_like(classes)
            shuffled[layout] = np.repeat(np.arange(counts.size), counts)
            yield shuffled

    # The permutations are about the mean of all stimuli, and so are the squares.
    centre = np.broadcast_to(values.mean(axis=0), (counts.size, values.shape[1]))
    results = _from_sums(wanted, values, classes, counts, layouts(), centre, resamples)
    of_mean_ranks = {n: m.of_mean_ranks for n, m in wanted.items() if m.of_mean_ranks is not None}
    if of_mean_ranks:
        results |= _empty(of_mean_ranks, resamples, values.shape[1])
        ranks = rank_responses(values).mid_ranks

        def fill(rows: slice, units: slice, mean_ranks: list[FloatArray]) -> None:
            for name, of in of_mean_ranks.items():
                by_class = of(mean_ranks[0], counts)
                results[name][rows, units] = metrics.best_over_classes(by_class)

        _for_resampled_means(fill, [ranks], counts, layouts())
    left = {name: measure for name, measure in wanted.items() if name not in results}
    results |= _walked(left, values, counts, layouts())
    left = {name: measure for name, measure in left.items() if name not in results}
    if left:
        results |= _empty(left, resamples, values.shape[1])
        ranked = rank_responses(values) if _of_needs(left, "ranks") else None
        binned = bin_responses(values) if _of_needs(left, "bins") else None
        for row, shuffled in enumerate(labellings()):
            if ranked is not None:
                formulas = _of_needs(left, "ranks")
                for name, by_class in ranking_measures(ranked, shuffled, formulas).items():
                    results[name][row] = metrics.best_over_classes(by_class)
            for name, measure in left.items():
                if measure.needs == "bins" and measure.of is not None:
                    results[name][row] = measure.of(binned, shuffled)
                elif measure.needs != "ranks":
                    results[name][row] = measure.function(values, shuffled)
    return {name: results[name] for name in names}


def class_measures_bootstrap(
    responses: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """Several measures of each unit on stimuli drawn with replacement within each class.

    Parameters
    ----------
    responses, labels, names, resamples, seed
        As `class_measures_null`.

    Returns
    -------
    dict of str to array
        (resample, unit) for each name, in the range of the measure; NaN where it has no value for
        the stimuli drawn. `bootstrap_interval` makes intervals of it.

    Raises
    ------
    ResponseError, LabelError, OptionError
        As `class_measures_null`.

    Notes
    -----
    Measured time of one resample of 10,000 stimuli x 256 units x 10 classes, on one core: 1 ms for
    measures of means and moments, 19 ms for those of ranking together, and 0.2 s for
    mutual_information, which bins the redrawn stimuli again, and without numba for those of
    ranking.
    A stimulus that was drawn twice ties with itself, as `unitprobe.metrics` ranks ties.

    For the bootstrap the given stimuli are the population, and the information in them is the
    uncorrected one. So mutual_information is lowered by the correction of the given stimuli, which
    centres the resampled values on the observed one; they may be below 0. anova_f is lowered
    likewise, by `unitprobe.metrics.registry.excess_of_redrawn_f`. Extremes are not moved by
    redrawing the same stimuli: for intervals of localist_selectivity and top_class_selectivity take
    `redraw_extremes`, as `class_measures_redrawn` does.

    Measured coverages of the intervals are in ``docs/coverage.md``.

    Examples
    --------
    >>> import numpy as np
    >>> responses, labels = np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 1])
    >>> class_measures_bootstrap(responses, labels, names=["roc_auc"], resamples=2, seed=0)
    {'roc_auc': array([[1. , 1. , 0.5, 0.5],
           [1. , 1. , 0.5, 0.5]])}
    """
    values, classes, counts = _check(responses, labels, names, resamples)
    wanted = {name: get_measure(name, "class") for name in names}

    def layouts() -> Iterator[IntArray]:
        return draw_layouts(redraw, classes, counts, resamples, seed)

    # A class that hardly varies has squares about its own mean that are not lost to rounding.
    centre = _exact_class_means(values, classes, counts)
    cancelled = np.zeros((resamples, values.shape[1]), dtype=bool)
    results = _from_sums(wanted, values, classes, counts, layouts(), centre, resamples, cancelled)
    _measure_cancelled(results, wanted, values, counts, layouts(), cancelled)
    left = {name: measure for name, measure in wanted.items() if name not in results}
    results |= _walked(left, values, counts, layouts())
    left = {name: measure for name, measure in left.items() if name not in results}
    if left:
        results |= _empty(left, resamples, values.shape[1])
        formulas = _of_needs(left, "ranks")
        redrawn_labels = np.repeat(np.arange(counts.size), counts)
        for row, layout in enumerate(layouts()):
            redrawn = values[layout]
            if formulas:
                ranked = rank_responses(redrawn)
                for name, by_class in ranking_measures(ranked, redrawn_labels, formulas).items():
                    results[name][row] = metrics.best_over_classes(by_class)
            for name, measure in left.items():
                if name not in formulas:
                    results[name][row] = measure.function(redrawn, redrawn_labels)
    for name, measure in wanted.items():
        if measure.redrawn_excess is not None:
            observed = measure.function(values, classes)
            results[name] -= measure.redrawn_excess(observed, counts)
        if measure.uncorrected is not None:
            correction = measure.uncorrected(values, classes) - measure.function(values, classes)
            results[name] -= correction
    return {name: results[name] for name in names}


def _check(
    responses: ArrayLike, labels: ArrayLike, names: Sequence[str], resamples: int
) -> tuple[FloatArray, IntArray, IntArray]:
    fewest = {name: get_measure(name, "class").fewest_stimuli for name in names}
    values, classes, counts = as_labelled_counts(responses, labels)
    check_resamples(resamples)
    for name, stimuli in fewest.items():
        if len(classes) < stimuli:
            raise OptionError(f"{name} needs at least {stimuli} stimuli, got {len(classes)}")
    if np.count_nonzero(counts) < 2:
        raise LabelError(
            f"{', '.join(names)}: stimuli of at least two classes are needed, the labels hold one"
        )
    return values, classes, counts


def _empty(names: Mapping[str, object], resamples: int, units: int) -> dict[str, FloatArray]:
    return {name: np.empty((resamples, units)) for name in names}


def _of_needs(wanted: Mapping[str, Measure], needs: str) -> dict[str, Callable[..., FloatArray]]:
    """Return how each measure with these needs is computed from them."""
    return {
        name: measure.of
        for name, measure in wanted.items()
        if measure.needs == needs and measure.of is not None
    }


def _walked(
    wanted: Mapping[str, Measure],
    values: FloatArray,
    counts: IntArray,
    layouts: Iterator[IntArray],
) -> dict[str, FloatArray]:
    """Return the measures of ranking (resample, unit) that compiled loops compute, if any do."""
    names = [name for name in WALKED if name in _of_needs(wanted, "ranks")]
    return (walk_resamples(values, counts, layouts, names) or {}) if names else {}


def _from_sums(
    wanted: Mapping[str, Measure],
    values: FloatArray,
    classes: IntArray,
    counts: IntArray,
    layouts: Iterator[IntArray],
    centre: FloatArray,
    resamples: int,
    cancelled: BoolArray | None = None,
) -> dict[str, FloatArray]:
    """Return the measures of class means and moments (resample, unit).

    `centre` (class_name, unit) is what squares are taken about. `cancelled` (resample, unit) is
    set where the variance within classes is a small difference of large sums.
    """
    of_means, of_moments = _of_needs(wanted, "means"), _of_needs(wanted, "moments")
    needed = [values] if of_means else []
    if of_moments:
        scale = safe_scale(values)
        if scale is not None:
            values, centre = values * scale, centre * scale
        deviations = values - centre[classes]
        needed += [deviations, deviations**2]
    results = _empty(of_means | of_moments, resamples, values.shape[1])
    if not needed:
        return results

    def fill(rows: slice, units: slice, means: list[FloatArray]) -> None:
        for name in of_means:
            results[name][rows, units] = measure_of_sums(wanted[name], counts, means[0])
        if of_moments:
            shifts, squares = means[-2:]
            variances = np.maximum(squares - shifts**2, 0.0)
            if cancelled is not None:
                within, whole = (sum_classes(counts, sums) for sums in (variances, squares))
                cancelled[rows, units] = within < _CANCELLED * whole
            for name in of_moments:
                moments = (counts, shifts + centre[:, units], variances)
                results[name][rows, units] = measure_of_sums(wanted[name], *moments)

    _for_resampled_means(fill, needed, counts, layouts)
    return results


def _exact_class_means(values: FloatArray, classes: IntArray, counts: IntArray) -> FloatArray:
    """Return the class means (class_name, unit); of equal responses exactly that response."""
    _, starts = np.unique(classes, return_index=True)
    first = np.zeros((counts.size, values.shape[1]))
    first[counts > 0] = values[starts]
    means: FloatArray = first + metrics.class_means(values - first[classes], classes, counts.size)
    return means


def _measure_cancelled(
    results: dict[str, FloatArray],
    wanted: Mapping[str, Measure],
    values: FloatArray,
    counts: IntArray,
    layouts: Iterator[IntArray],
    cancelled: BoolArray,
) -> None:
    """Replace the measures of moments in `results` where `cancelled`, from the responses drawn.

    A unit that few stimuli drive is constant in the redraws that miss them. Rounded sums cannot
    tell that from a small variance.
    """
    names = list(_of_needs(wanted, "moments"))
    constant = values.min(axis=0) == values.max(axis=0)
    for name in names:
        results[name][:, constant] = np.nan
    cancelled &= ~constant
    if not cancelled.any():
        return
    labels = np.repeat(np.arange(counts.size), counts)
    by_unit = np.ascontiguousarray(safely_scaled(values).T)
    for row, layout in enumerate(layouts):
        units = np.flatnonzero(cancelled[row])
        if not units.size:
            continue
        drawn = by_unit[units[:, None], layout].T
        varying = (drawn != drawn[0]).any(axis=0)
        for name in names:
            results[name][row, units[~varying]] = np.nan
        if varying.any():
            moments = shifted_class_moments(drawn[:, varying], labels, counts)
            means, variances = (moment[None] for moment in moments)
            for name in names:
                of_units = measure_of_sums(wanted[name], counts, means, variances)
                results[name][row, units[varying]] = of_units[0]


def sum_classes(counts: IntArray, values: FloatArray) -> FloatArray:
    """Return the sum (resample, unit) of values (resample, class_name, unit) times the counts."""
    present = slice(None) if counts.all() else np.flatnonzero(counts)
    total: FloatArray = np.einsum("c,rcu->ru", counts[present], values[:, present])
    return total


def measure_of_sums(
    measure: Measure, counts: IntArray, means: FloatArray, variances: FloatArray | None = None
) -> FloatArray:
    """Return a measure from class means, and variances, that were summed in single precision.

    Parameters
    ----------
    measure : Measure
        Of what needs "means" or "moments".
    counts : array
        (class_name,), the number of stimuli of each class.
    means, variances : array
        (resample, class_name, unit).

    Returns
    -------
    array
        (resample, unit). Infinite where the sums cannot tell the value from infinity.
    """
    assert measure.of is not None
    values: FloatArray = (
        measure.of(means, counts)
        if measure.needs == "means"
        else measure.of(counts, means, variances)
    )
    if measure.has_classes:
        values = metrics.best_over_classes(values)
    if measure.largest_resolved is not None:
        values = np.where(values > measure.largest_resolved(counts), np.inf, values)
    return values


def _for_resampled_means(
    fill: Callable[[slice, slice, list[FloatArray]], None],
    matrices: Sequence[FloatArray],
    counts: IntArray,
    layouts: Iterator[IntArray],
) -> None:
    """Call ``fill(resamples, units, means)`` with the means (resample, class_name, unit).

    The means are a list, of each matrix; the calls come from several threads, each for resamples
    and units of its own.
    """
    tiles = [ResponseTiles(matrix) for matrix in matrices]
    block_size = max(1, BLOCK_BYTES // (8 * max(matrices[0].shape[0], 64 * counts.size)))
    start = 0
    for draws in draws_in_blocks(layouts, counts, block_size):
        rows = slice(start, start + draws.resamples)
        start = rows.stop

        def of_tile(tile: int, rows: slice = rows, draws: ClassDraws = draws) -> None:
            means = [matrix.class_means(tile, draws) for matrix in tiles]
            fill(rows, tiles[0].units_of_tile[tile], means)

        run_in_threads(of_tile, range(len(tiles[0].units_of_tile)))
