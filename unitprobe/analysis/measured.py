"""The statistics of one layer, computed from all of its responses, and what is drawn from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from unitprobe import inference
from unitprobe import metrics as m
from unitprobe.errors import ResponseError
from unitprobe.metrics._arrays import safely_scaled
from unitprobe.metrics._ranks import rank_responses, ranking_measures
from unitprobe.metrics.registry import INTERVAL_ENDINGS, MEASURES, NULL_ENDINGS, measure_of
from unitprobe.typing import Array, FloatArray, IntArray

# The dimensions of a variable, by kind of measure.
_DIMS = {
    "class": ("unit",),
    "unit": ("unit",),
    "tuning": ("unit", "class_name"),
    "stimulus": ("stimulus",),
    "layer": (),
}


class MeasuredLayer(ABC):
    """The statistics of one layer, from wherever its responses come.

    Attributes
    ----------
    reached : array
        (stimulus,), the indices of the stimuli that reached the layer.
    units : array
        (unit,), the coordinate of the units.
    counts : array
        (class_name,), the number of stimuli of each class that reached the layer.
    negative_responses : int
        The number of responses below 0.
    """

    reached: IntArray
    units: Array
    counts: IntArray
    negative_responses: int

    @abstractmethod
    def values(self, names: Sequence[str]) -> Mapping[str, Any]:
        """Return the measures by name, each as `Measure.compute` returns it.

        ``NAME_threshold`` (class_name, unit) stands beside a measure that has a threshold.

        Raises
        ------
        ResponseError
            Responses are negative, and a measure that refuses them is asked for.
        """

    @abstractmethod
    def permuted(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures (resample, unit) after `n` permutations of the labels, by name."""

    @abstractmethod
    def redrawn(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures (resample, unit) of `n` bootstrap draws of the stimuli, by name."""


def measure_layer(
    layer: MeasuredLayer,
    names: Sequence[str],
    *,
    null_names: Sequence[str],
    interval_names: Sequence[str],
    n_permutations: int,
    n_bootstrap: int,
    seed: int,
    signed: m.AutoSignPolicy,
    leave_out: bool,
    stimulus_count: int,
) -> xr.Dataset:
    """Return the node of a layer in an analysis.

    Parameters
    ----------
    layer : MeasuredLayer
        The layer.
    names, null_names, interval_names : sequence of str
        Which measures, which of them get a null, and which an interval.
    n_permutations, n_bootstrap, seed, signed
        As `unitprobe.analyze`. An interval needs permutations too, because redrawn stimuli never
        show the value of a unit without selectivity; without a null there are `n_bootstrap`.
    leave_out : bool
        Whether measures that assume non-negative responses are NaN if some are negative.
    stimulus_count : int
        The number of stimuli, of which some may not have reached the layer.
    """
    negative = layer.negative_responses
    left_out = [
        name for name in names if leave_out and negative and MEASURES[name].assumes_non_negative
    ]
    nulls, intervals = null_names, interval_names
    null_names = [name for name in nulls if name not in left_out]
    interval_names = [name for name in intervals if name not in left_out]
    dataset = _dataset(layer, names, left_out)
    dataset = _spread_stimuli(dataset, layer.reached, stimulus_count)
    drawn_for = list(dict.fromkeys([*null_names, *interval_names]))
    permuted = layer.permuted(drawn_for, n_permutations or n_bootstrap, seed)
    redrawn = layer.redrawn(interval_names, n_bootstrap, seed)
    for name in null_names:
        summary = inference.summarize_null(dataset[name].values, permuted[name])
        dataset[f"{name}_null_mean"] = ("unit", summary.mean)
        dataset[f"{name}_z"] = ("unit", summary.z)
        dataset[f"{name}_p"] = ("unit", summary.p)
        dataset[f"{name}_corrected"] = ("unit", summary.corrected)
    for name in interval_names:
        best = dataset.get(f"{name}_class")
        made_positive = MEASURES[name].assumes_non_negative and signed in ("rectify", "shift")
        low, high = inference.class_measure_interval(
            name,
            dataset[name].values,
            redrawn[name],
            permuted[name],
            counts=layer.counts,
            best=None if best is None else best.values,
            bounded=made_positive or not layer.negative_responses,
        )
        dataset[f"{name}_low"] = ("unit", low)
        dataset[f"{name}_high"] = ("unit", high)
    dataset.attrs.update(signed=signed, negative_responses=negative)
    if left_out:
        unknown = ("unit", np.full(len(layer.units), np.nan))
        endings = [(name, end) for name in nulls for end in NULL_ENDINGS]
        endings += [(name, end) for name in intervals for end in INTERVAL_ENDINGS]
        for name, ending in endings:
            if name in left_out:
                dataset[f"{name}{ending}"] = unknown
        size = len(layer.reached) * len(layer.units)
        reason = f"{negative} of {size} responses are negative; this measure assumes none"
        for key, variable in dataset.items():
            if measure_of(str(key)) in left_out:
                variable.attrs["not_computed"] = reason
        dataset.attrs["not_computed"] = ", ".join(left_out)
    return dataset.assign_coords(unit=layer.units)


def refuse_negative(layer: str, measure: str, responses: Array) -> None:
    """Raise an error for negative responses (stimulus, unit), which a measure refuses.

    Raises
    ------
    ResponseError
        With the layer, the measure and their number.
    """
    negative = int((responses < 0).sum())
    if negative:
        raise ResponseError(
            f"layer {layer!r}, {measure}: {negative} of {responses.size} responses are negative, "
            "but this measure assumes non-negative input; choose signed='rectify', 'shift' or "
            "'allow' (--signed)"
        )


def _unknown(layer: MeasuredLayer, name: str) -> Any:
    """Return the values of a measure that is not computed, as `MeasuredLayer.values` does."""
    measure, classes = MEASURES[name], len(layer.counts)
    shape: tuple[int, ...] = {"stimulus": (len(layer.reached),), "layer": ()}.get(
        measure.kind, (len(layer.units),)
    )
    if measure.has_classes or measure.kind == "tuning":
        shape = (classes, *shape)
    return np.full(shape, np.nan)


def _dataset(
    layer: MeasuredLayer, names: Sequence[str], left_out: Sequence[str] = ()
) -> xr.Dataset:
    values = dict(layer.values([name for name in names if name not in left_out]))
    values |= {name: _unknown(layer, name) for name in left_out}
    dataset = xr.Dataset()
    for name in names:
        measure, value = MEASURES[name], values[name]
        if measure.has_classes:
            dataset[name] = ("unit", m.best_over_classes(value))
            dataset[f"{name}_class"] = ("unit", m.best_class(value))
        else:
            value = value.T if measure.kind == "tuning" else value
            value = float(value) if measure.kind == "layer" else value
            dataset[name] = (_DIMS[measure.kind], value)
        if measure.with_share:
            most = min(len(layer.reached), len(layer.units))
            dataset[f"{name}_share"] = ((), float(value) / most)
    for name in names:
        if f"{name}_threshold" in values:
            best = np.maximum(m.best_class(values[name]), 0)
            thresholds = values[f"{name}_threshold"][best, np.arange(best.size)]
            dataset[f"{name}_threshold"] = ("unit", thresholds)
    return dataset


def _spread_stimuli(dataset: xr.Dataset, reached: IntArray, count: int) -> xr.Dataset:
    """Put the values of stimuli at their indices among all stimuli, NaN for the others."""
    if len(reached) == count:
        return dataset
    placed = dataset.drop_dims("stimulus", errors="ignore")
    placed.attrs["unreached_stimuli"] = count - len(reached)
    for name, variable in dataset.items():
        if variable.dims == ("stimulus",):
            values = np.full(count, np.nan)
            values[reached] = variable.values
            placed[name] = ("stimulus", values)
    return placed


class LayerOfResponses(MeasuredLayer):
    """The statistics of a layer of which all responses are in memory.

    Parameters
    ----------
    name : str
        The name of the layer, for errors.
    responses : array
        (stimulus, unit), of the stimuli that reached the layer.
    labels : array
        (stimulus,), their labels.
    reached, units
        See `MeasuredLayer`.
    class_count : int
        The number of classes.
    signed : {"refuse", "rectify", "shift", "allow"}
        How to treat negative responses: see `unitprobe.analyze`.
    """

    def __init__(
        self,
        name: str,
        responses: Array,
        labels: IntArray,
        *,
        reached: IntArray,
        units: Array,
        class_count: int,
        signed: m.SignPolicy,
    ) -> None:
        self._name = name
        self._responses = responses
        self._non_negative: Array | None = None
        self._labels = labels
        self._signed = signed
        self.reached = reached
        self.units = units
        self.counts = np.bincount(labels, minlength=class_count)
        self.negative_responses = int((responses < 0).sum())

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the measures by name: see `MeasuredLayer.values`."""
        values = self._ranking(names)
        if any(MEASURES[name].needs == "spectrum" for name in names):
            spectrum = m.covariance_spectrum(safely_scaled(self._responses, axis=None))
        for name in names:
            measure, responses = MEASURES[name], self._responses_for(name)
            if measure.needs == "spectrum" and measure.of is not None:
                values[name] = float(measure.of(spectrum))
            elif name not in values:
                values[name] = measure.compute(responses, self._labels, len(self.counts))
        return values

    def _ranking(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the measures that rank the stimuli, (class_name, unit) each, sorted only once."""
        formulas = {}
        for name in names:
            measure = MEASURES[name]
            if measure.needs == "ranks" and measure.of is not None:
                formulas[name] = measure.of
                if measure.threshold_of is not None:
                    formulas[f"{name}_threshold"] = measure.threshold_of
        if not formulas:
            return {}
        ranked = rank_responses(self._responses)
        return dict(ranking_measures(ranked, self._labels, formulas, len(self.counts)))

    def permuted(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures after permutations: see `MeasuredLayer.permuted`."""
        return self._resample(inference.class_measures_null, names, n, seed)

    def redrawn(self, names: Sequence[str], n: int, seed: int) -> dict[str, FloatArray]:
        """Return the measures of bootstrap draws: see `MeasuredLayer.redrawn`."""
        return self._resample(inference.class_measures_redrawn, names, n, seed)

    def _resample(
        self,
        resampling: Callable[..., dict[str, FloatArray]],
        names: Sequence[str],
        n: int,
        seed: int,
    ) -> dict[str, FloatArray]:
        drawn: dict[str, FloatArray] = {}
        for non_negative in (True, False):
            some = [name for name in names if MEASURES[name].assumes_non_negative is non_negative]
            if some:
                responses = self._responses_for(some[0])
                drawn |= resampling(responses, self._labels, names=some, resamples=n, seed=seed)
        return drawn

    def _responses_for(self, measure: str) -> Array:
        if not MEASURES[measure].assumes_non_negative:
            return self._responses
        if self._non_negative is None:
            try:
                self._non_negative = m.apply_sign_policy(self._responses, self._signed)
            except ResponseError as error:
                raise ResponseError(f"layer {self._name!r}, {measure}: {error}") from error
        return self._non_negative
