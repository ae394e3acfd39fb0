"""The statistics of one layer in one pass: which accumulators they need, and what these give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unitprobe import inference
from unitprobe import metrics as m
from unitprobe.analysis.measured import add_interval, add_null
from unitprobe.analysis.reached import place_stimuli
from unitprobe.errors import ResponseError
from unitprobe.metrics.registry import MEASURES, excess_of_redrawn_f, measures
from unitprobe.metrics.separation import (
    anova_f_from_moments,
    class_correlation_from_moments,
    d_prime_from_moments,
    eta_squared_from_moments,
)
from unitprobe.online import (
    Accumulator,
    ActivityCounts,
    Bags,
    Bounded,
    ClassMoments,
    Covariance,
    KeptResponses,
    PopulationSparseness,
    ResponseHistogram,
    ResponseMoments,
    TopClasses,
    TopRun,
    merge_across_ranks,
)
from unitprobe.streaming.resampled_measures import ResampledMeasures
from unitprobe.typing import FloatArray

_UNIT = ("unit",)
_TUNING = ("unit", "class_name")
#: Of which the best is taken over classes.
_BY_CLASS = ("class_name", "unit")


@dataclass(frozen=True)
class _Statistic:
    """Where a statistic comes from: a kind of accumulator, and what this computes.

    `compute` takes the accumulator and returns an array, or a `Bounded` one.
    """

    kind: str
    dims: tuple[str, ...]
    compute: Callable[[Any], Any]


def _from_moments(measure: Callable[..., Any]) -> Callable[[ClassMoments], FloatArray]:
    def compute(moments: ClassMoments) -> FloatArray:
        values: FloatArray = measure(
            moments.class_counts(), moments.class_means(), moments.class_variances()
        )
        return values

    return compute


_STATISTICS: Mapping[str, _Statistic] = {
    "class_selectivity": _Statistic("class_moments", _UNIT, ClassMoments.class_selectivity),
    "preferred_class": _Statistic("class_moments", _UNIT, ClassMoments.preferred_class),
    "ccmas": _Statistic("class_moments", _UNIT, ClassMoments.ccmas),
    "localist_selectivity": _Statistic(
        "class_moments", _BY_CLASS, ClassMoments.localist_selectivity_by_class
    ),
    "top_class_selectivity": _Statistic(
        "top_run", _BY_CLASS, TopRun.top_class_selectivity_by_class
    ),
    "precision_at_k": _Statistic("top_classes", _BY_CLASS, TopClasses.precision_at_k_by_class),
    "max_informedness": _Statistic(
        "class_histogram", _BY_CLASS, methodcaller("max_informedness_by_class")
    ),
    "roc_auc": _Statistic("class_histogram", _BY_CLASS, methodcaller("roc_auc_by_class")),
    "average_precision": _Statistic(
        "class_histogram", _BY_CLASS, methodcaller("average_precision_by_class")
    ),
    "recall_at_precision": _Statistic(
        "class_histogram", _BY_CLASS, methodcaller("recall_at_precision_by_class")
    ),
    "max_f1": _Statistic("class_histogram", _BY_CLASS, methodcaller("max_f1_by_class")),
    "mutual_information": _Statistic("class_histogram", _UNIT, methodcaller("mutual_information")),
    "d_prime": _Statistic("class_moments", _BY_CLASS, _from_moments(d_prime_from_moments)),
    "class_correlation": _Statistic(
        "class_moments", _BY_CLASS, _from_moments(class_correlation_from_moments)
    ),
    "anova_f": _Statistic("class_moments", _UNIT, _from_moments(anova_f_from_moments)),
    "eta_squared": _Statistic("class_moments", _UNIT, _from_moments(eta_squared_from_moments)),
    "tuning_curve": _Statistic("class_moments", _TUNING, lambda moments: moments.class_means().T),
    "class_variance": _Statistic(
        "class_moments", _TUNING, lambda moments: moments.class_variances().T
    ),
    "lifetime_sparseness": _Statistic(
        "response_moments", _UNIT, ResponseMoments.lifetime_sparseness
    ),
    "hoyer_sparseness": _Statistic("response_moments", _UNIT, ResponseMoments.hoyer_sparseness),
    "kurtosis": _Statistic("response_moments", _UNIT, ResponseMoments.kurtosis),
    "fraction_active": _Statistic("activity", _UNIT, ActivityCounts.fraction_active),
    "class_fraction_active": _Statistic(
        "activity", _TUNING, lambda activity: activity.class_fraction_active().T
    ),
    "dead": _Statistic("activity", _UNIT, ActivityCounts.dead),
    "gini": _Statistic("histogram", _UNIT, ResponseHistogram.gini),
    "half_max_share": _Statistic("histogram", _UNIT, ResponseHistogram.half_max_share),
    "population_sparseness": _Statistic(
        "population",
        ("stimulus",),
        PopulationSparseness.population_sparseness,
    ),
    **{
        name: _Statistic("covariance", (), Covariance.spectrum)
        for name in measures(needs=["spectrum"])
    },
}
#: Names of the statistics that need each stimulus but once.
ONE_PASS_METRICS = tuple(_STATISTICS)
#: Those that come from a histogram of each class, which takes the most memory.
BY_HISTOGRAM = tuple(name for name, of in _STATISTICS.items() if of.kind == "class_histogram")
#: Those that are exact only while all responses are kept.
SKETCHED = tuple(name for name, of in _STATISTICS.items() if of.kind.endswith("histogram"))


@dataclass(frozen=True)
class Chunk:
    """Some stimuli: labels and indices (stimulus,), and their part of the resamples, by kind."""

    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    bags: Mapping[str, Bags]


@dataclass(frozen=True)
class _Kind:
    """How a kind of accumulator is made, for a number of classes, and fed."""

    make: Callable[[int], Accumulator]
    feed: Callable[[Any, Tensor, Chunk], None]


_KINDS: Mapping[str, _Kind] = {
    "class_moments": _Kind(ClassMoments, lambda a, x, chunk: a.update(x, chunk.labels)),
    "response_moments": _Kind(lambda _: ResponseMoments(), lambda a, x, chunk: a.update(x)),
    "activity": _Kind(ActivityCounts, lambda a, x, chunk: a.update(x, chunk.labels)),
    "histogram": _Kind(
        # Without classes there is room for four times as many bins, over the same range.
        lambda _: ResponseHistogram(1, relative_error=0.0025, bins=2048),
        lambda a, x, chunk: a.update(x, 0 * chunk.labels),
    ),
    "class_histogram": _Kind(ResponseHistogram, lambda a, x, chunk: a.update(x, chunk.labels)),
    "top_classes": _Kind(TopClasses, lambda a, x, chunk: a.update(x, chunk.labels)),
    "top_run": _Kind(TopRun, lambda a, x, chunk: a.update(x, chunk.labels)),
    "population": _Kind(
        lambda _: PopulationSparseness(), lambda a, x, chunk: a.update(x, chunk.indices)
    ),
    "covariance": _Kind(lambda _: Covariance(), lambda a, x, chunk: a.update(x)),
}


class LayerStatistics:
    """Everything that is accumulated of one layer.

    Parameters
    ----------
    names : sequence of str
        Which statistics, of `ONE_PASS_METRICS`, and of those of distances if all is kept.
    class_count : int
        The number of classes.
    signed : {"refuse", "rectify", "allow"}
        What to do with negative responses, as `unitprobe.analyze`.
    resampled : mapping
        Measures under resampling: ``"shuffles"``, ``"redraws"``, or none.
    keep : bool
        Whether all responses are kept, instead of histograms.
    """

    def __init__(
        self,
        names: Sequence[str],
        class_count: int,
        signed: m.SignPolicy,
        resampled: Mapping[str, ResampledMeasures],
        *,
        keep: bool = False,
    ) -> None:
        self._names = names
        self._signed = signed
        self._resampled = resampled
        self._activity = ActivityCounts(class_count)
        self._kept = KeptResponses(class_count) if keep else None
        self._raw: dict[str, Accumulator] = {}
        self._non_negative: dict[str, Accumulator] = {}
        for name in names:
            if name in _STATISTICS and not (keep and name in SKETCHED):
                kind = _STATISTICS[name].kind
                self._home(name).setdefault(kind, _KINDS[kind].make(class_count))

    def _home(self, name: str) -> dict[str, Accumulator]:
        """Return the accumulators that a statistic is of.

        Only what rectifies needs both the responses as they are and without negatives.
        """
        rectified = MEASURES[name].assumes_non_negative and self._signed == "rectify"
        return self._non_negative if rectified else self._raw

    def update(self, responses: Tensor, chunk: Chunk) -> None:
        """Take in responses (stimulus, unit) of some stimuli.

        Raises
        ------
        ResponseError
            Some are negative, are refused, and one of the statistics is made for none.
        """
        non_negative = responses
        made_for_none = [name for name in self._names if MEASURES[name].assumes_non_negative]
        if made_for_none:
            try:
                non_negative = m.apply_sign_policy(responses, self._signed)
            except ResponseError as error:
                raise ResponseError(f"{made_for_none[0]}: {error}") from error
        self._activity.update(responses, chunk.labels)
        if self._kept is not None:
            self._kept.update(responses, chunk.labels)
        for kind, accumulator in self._raw.items():
            _KINDS[kind].feed(accumulator, responses, chunk)
        for kind, accumulator in self._non_negative.items():
            _KINDS[kind].feed(accumulator, non_negative, chunk)
        for name, resampled in self._resampled.items():
            resampled.update(responses, non_negative, chunk.bags[name])

    def merge_across_ranks(self) -> None:
        """Take in what the other processes have seen of this layer."""
        self._activity = merge_across_ranks(self._activity)
        if self._kept is not None:
            self._kept = merge_across_ranks(self._kept)
        for home in (self._raw, self._non_negative):
            for kind in home:
                home[kind] = merge_across_ranks(home[kind])
        for resampled in self._resampled.values():
            resampled.merge_across_ranks()

    @property
    def units(self) -> int:
        """Number of units of the layer."""
        assert self._activity.units is not None
        return self._activity.units

    @property
    def negative_responses(self) -> int:
        """How many responses were below 0."""
        return int(self._activity.negatives().sum())

    @property
    def class_counts(self) -> FloatArray:
        """How many stimuli of each class (class_name,) were seen."""
        return self._activity.class_counts()

    def dataset(self, names: Sequence[str], stimuli: int) -> xr.Dataset:
        """Return those of the statistics, labelled as `unitprobe.analyze` labels them.

        `stimuli` is the number of all, of which some may not have reached the layer.

        Beside those from a histogram stands the bound on their error, ``..._error``.
        """
        dataset = xr.Dataset()
        spectrum: FloatArray | None = None
        for name in names:
            if MEASURES[name].needs == "distances":
                assert self._kept is not None
                responses, _ = self._kept.responses_and_labels()
                dataset[name] = ((), float(MEASURES[name].function(responses)))
                continue
            statistic = _STATISTICS[name]
            if MEASURES[name].needs == "spectrum":
                accumulator = self._home(name)[statistic.kind]
                spectrum = statistic.compute(accumulator) if spectrum is None else spectrum
                value = float(MEASURES[name].of(spectrum))  # type: ignore[misc]
                dataset[name] = ((), value)
                if name.startswith("components"):
                    dataset[f"{name}_share"] = ((), value / len(spectrum))
                continue
            values, dims = self._compute(name), statistic.dims
            if dims == _BY_CLASS:
                by_class = values.value if isinstance(values, Bounded) else values
                dataset[f"{name}_class"] = ("unit", m.best_class(by_class))
                values = (
                    values.largest() if isinstance(values, Bounded) else m.best_over_classes(values)
                )
                dims = _UNIT
            if isinstance(values, Bounded):
                dataset[f"{name}_error"] = ("unit", values.error)
                values = values.value
            dataset[name] = (dims, values)
        if "max_informedness" in names:
            histogram = self._kept or self._raw["class_histogram"]
            dataset["max_informedness_threshold"] = ("unit", _threshold(histogram, dataset))
        population = self._home("population_sparseness").get("population")
        seen = np.arange(
            self._activity.stimuli
        )  # which they are matters only to what is by stimulus
        if isinstance(population, PopulationSparseness):
            seen = population.indices()
        return place_stimuli(dataset, seen, stimuli)

    def _compute(self, name: str) -> Any:
        """Return a statistic, of all responses if they are needed and kept."""
        statistic = _STATISTICS[name]
        if self._kept is None or name not in SKETCHED:
            return statistic.compute(self._home(name)[statistic.kind])
        if name in BY_HISTOGRAM:
            return statistic.compute(self._kept)
        responses, labels = self._kept.responses_and_labels()
        exact = MEASURES[name].compute(m.apply_sign_policy(responses, self._signed), labels)
        return Bounded(exact, np.where(np.isnan(exact), np.nan, 0.0))

    def add_inference(
        self,
        dataset: xr.Dataset,
        null_names: Sequence[str],
        interval_names: Sequence[str],
        *,
        n_permutations: int,
        n_bootstrap: int,
        seed: int,
    ) -> None:
        """Add to `dataset` null and 95% interval of each measure, as `unitprobe.analyze` does."""
        drawn = {name: measures.values() for name, measures in self._resampled.items()}
        shuffled, redrawn = drawn.get("shuffles", {}), drawn.get("redraws", {})
        counts = self.class_counts.astype(np.int64)
        if "anova_f" in redrawn:
            observed = dataset["anova_f"].values
            redrawn["anova_f"] -= excess_of_redrawn_f(observed, counts)
        if self._kept is not None:
            # What is no function of class sums is drawn anew, from what is kept.
            kept = self._kept.responses_and_labels()
            some = list(dict.fromkeys([*null_names, *interval_names]))
            for values, draw, names, resamples in (
                (shuffled, inference.class_measures_null, some, n_permutations or n_bootstrap),
                (redrawn, inference.class_measures_redrawn, interval_names, n_bootstrap),
            ):
                missing = [name for name in names if name not in values]
                if missing:
                    values |= draw(*kept, names=missing, resamples=resamples, seed=seed)
        for name in null_names:
            add_null(dataset, name, shuffled[name])
        signed = self._signed != "rectify" and self.negative_responses > 0
        for name in interval_names:
            add_interval(dataset, name, redrawn[name], shuffled[name], counts, signed=signed)


def _threshold(histogram: Accumulator, dataset: xr.Dataset) -> FloatArray:
    """Return the threshold (unit,) for the class that has the largest informedness."""
    assert isinstance(histogram, ResponseHistogram | KeptResponses)
    thresholds = histogram.max_informedness_threshold_by_class()
    best = np.maximum(dataset["max_informedness_class"].values, 0)
    of_best: FloatArray = thresholds[best, np.arange(best.size)]
    return of_best
