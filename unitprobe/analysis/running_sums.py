"""The statistics of one layer that running sums give exactly, without keeping its responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unitprobe import metrics as m
from unitprobe.analysis.measured import MeasuredLayer
from unitprobe.analysis.resampled_measures import ResampledMeasures
from unitprobe.errors import ResponseError
from unitprobe.metrics.registry import MEASURES, Measure
from unitprobe.online import (
    Accumulator,
    ActivityCounts,
    ClassMembership,
    ClassMoments,
    Covariance,
    PopulationSparseness,
    ResponseMoments,
    TopClasses,
    TopRun,
    gather_across_ranks,
    merge_across_ranks,
)
from unitprobe.typing import FloatArray, IntArray

_Kind = type[Accumulator]

# How the accumulators are made, for a number of classes.
_MAKE: Mapping[_Kind, Callable[[int], Accumulator]] = {
    ClassMoments: ClassMoments,
    ResponseMoments: lambda _: ResponseMoments(),
    ActivityCounts: ActivityCounts,
    TopClasses: TopClasses,
    TopRun: TopRun,
    PopulationSparseness: lambda _: PopulationSparseness(),
    Covariance: lambda _: Covariance(),
}
# The accumulator that gives what the formula of a measure takes. That of another measure has a
# method with the name of its function.
_OF_NEEDS: Mapping[str, _Kind] = {
    "means": ClassMoments,
    "moments": ClassMoments,
    "extremes": ClassMoments,
    "spectrum": Covariance,
}
_RESAMPLED_NEEDS = ("means", "moments")


def has_running_sums(name: str) -> bool:
    """Return whether a measure is exact from running sums."""
    return _accumulator_of(MEASURES[name]) is not None


def has_resampled_sums(name: str) -> bool:
    """Return whether the null and the interval of a measure are exact from running sums."""
    return MEASURES[name].needs in _RESAMPLED_NEEDS


def _accumulator_of(measure: Measure) -> _Kind | None:
    if measure.needs in _OF_NEEDS and measure.of is not None:
        return _OF_NEEDS[measure.needs]
    method = _method_of(measure)
    return next((kind for kind in _MAKE if hasattr(kind, method)), None)


def _method_of(measure: Measure) -> str:
    return str(getattr(measure.function, "__name__", measure.name))


class LayerOfSums(MeasuredLayer):
    """The statistics of a layer whose responses are added up as they come.

    Parameters
    ----------
    names : sequence of str
        The measures, each of which `has_running_sums`.
    class_count : int
        The number of classes.
    signed : {"refuse", "rectify", "allow"}
        How to treat negative responses: see `unitprobe.analyze`.
    resampled : mapping
        The measures under resampling by ``"permutations"`` and ``"redraws"``, where there are any.
    """

    def __init__(
        self,
        names: Sequence[str],
        class_count: int,
        signed: m.SignPolicy,
        resampled: Mapping[str, ResampledMeasures],
    ) -> None:
        self._names = names
        self._signed = signed
        self._resampled = resampled
        self._indices: list[IntArray] = []
        self._activity = ActivityCounts(class_count)
        # By kind and by whether negative responses are treated: only rectifying needs both.
        self._accumulators: dict[tuple[_Kind, bool], Accumulator] = {}
        for name in names:
            kind, treated = self._key(MEASURES[name])
            self._accumulators.setdefault((kind, treated), _MAKE[kind](class_count))

    def _key(self, measure: Measure) -> tuple[_Kind, bool]:
        kind = _accumulator_of(measure)
        assert kind is not None, f"{measure.name} needs all responses"
        return kind, measure.assumes_non_negative and self._signed == "rectify"

    def update(
        self,
        responses: Tensor,
        labels: IntArray,
        indices: IntArray,
        membership: Mapping[str, ClassMembership],
    ) -> None:
        """Add responses (stimulus, unit) of some stimuli, and their part of the resamples.

        Raises
        ------
        ResponseError
            Some are negative, and one of the measures refuses them.
        """
        non_negative = responses
        refusing = [name for name in self._names if MEASURES[name].assumes_non_negative]
        if refusing:
            try:
                non_negative = m.apply_sign_policy(responses, self._signed)
            except ResponseError as error:
                raise ResponseError(f"{refusing[0]}: {error}") from error
        self._indices.append(indices)
        self._activity.update(responses, labels)
        for (kind, treated), accumulator in self._accumulators.items():
            taken: Any = accumulator
            values = non_negative if treated else responses
            if kind in (ResponseMoments, Covariance):
                taken.update(values)
            else:
                taken.update(values, indices if kind is PopulationSparseness else labels)
        for name, resampled in self._resampled.items():
            resampled.update(responses, non_negative, membership[name])

    def merge_across_ranks(self) -> None:
        """Add what the other processes have seen of this layer."""
        self._indices = [part for parts in gather_across_ranks(self._indices) for part in parts]
        self._activity = merge_across_ranks(self._activity)
        for key in self._accumulators:
            self._accumulators[key] = merge_across_ranks(self._accumulators[key])
        for resampled in self._resampled.values():
            resampled.merge_across_ranks()

    @property
    def reached(self) -> IntArray:  # type: ignore[override]
        """The indices of the stimuli that reached the layer: (stimulus,)."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self._indices])

    @property
    def units(self) -> IntArray:
        """The coordinate of the units: (unit,)."""
        assert self._activity.units is not None
        return np.arange(self._activity.units)

    @property
    def counts(self) -> IntArray:  # type: ignore[override]
        """The number of stimuli of each class that reached the layer: (class_name,)."""
        return self._activity.class_counts().astype(np.int64)

    @property
    def negative_responses(self) -> int:  # type: ignore[override]
        """The number of responses below 0."""
        return int(self._activity.negatives().sum())

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the measures by name: see `MeasuredLayer.values`."""
        values: dict[str, Any] = {}
        spectra: dict[tuple[_Kind, bool], FloatArray] = {}
        for name in names:
            measure = MEASURES[name]
            key = self._key(measure)
            accumulator: Any = self._accumulators[key]
            if measure.of is None or measure.needs not in _OF_NEEDS:
                found = getattr(accumulator, _method_of(measure))()
            elif measure.needs == "spectrum":
                if key not in spectra:
                    spectra[key] = accumulator.spectrum()
                found = float(measure.of(spectra[key]))
            elif measure.needs == "extremes":
                found = measure.of(accumulator.class_minima(), accumulator.class_maxima())
            elif measure.needs == "means":
                found = measure.of(accumulator.class_means()[None], self.counts)[0]
            else:
                moments = accumulator.class_means(), accumulator.class_variances()
                found = measure.of(self.counts, *moments)
            values[name] = found
        return values

    def permuted(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures after the permutations, which were drawn before the first update."""
        return self._resampled["permutations"].values() if names else {}

    def redrawn(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures of the bootstrap draws, which were drawn before the first update."""
        if not names:
            return {}
        redrawn = self._resampled["redraws"].values()
        for name in names:
            excess = MEASURES[name].redrawn_excess
            if excess is not None:
                redrawn[name] -= excess(self.values([name])[name], self.counts)
        return redrawn
