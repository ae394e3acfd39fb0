"""The statistics of one layer, with everything that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from unitprobe import inference
from unitprobe import metrics as m
from unitprobe.errors import ResponseError
from unitprobe.metrics._ranks import rank_responses, ranking_measures
from unitprobe.metrics.registry import MEASURES
from unitprobe.typing import FloatArray

Responses: TypeAlias = npt.NDArray[Any]
Labels: TypeAlias = npt.NDArray[np.int64]
# Of whom the resampled values are computed: `class_measures_null` or `class_measures_redrawn`.
_Resampling = Callable[..., dict[str, FloatArray]]


class MeasuredLayer:
    """The responses of one layer, measured.

    Parameters
    ----------
    responses : array
        (stimulus, unit).
    labels : array
        (stimulus,).
    classes : int
        The number of classes.
    signed : str
        What is done about negative responses; see `analyze`.
    layer : str
        The name of the layer, for errors.
    """

    def __init__(
        self,
        responses: Responses,
        labels: Labels,
        classes: int,
        signed: m.SignPolicy,
        layer: str,
    ) -> None:
        self._raw = responses
        self._labels = labels
        self._classes = classes
        self._signed = signed
        self._layer = layer
        self._rectified: Responses | None = None

    def dataset(self, names: Sequence[str]) -> xr.Dataset:
        """Return the statistics asked for.

        Raises
        ------
        ResponseError
            Responses are negative, are refused, and one of the statistics is made for none.
        """
        spectrum = (
            m.covariance_spectrum(self._raw)
            if any(MEASURES[name].needs == "spectrum" for name in names)
            else None
        )
        ranking = self._ranking(names)
        dataset = xr.Dataset()
        for name in names:
            measure, responses = MEASURES[name], self._responses_for(name)
            if name in ranking:
                self._add_best(dataset, name, ranking[name])
            elif measure.needs == "spectrum" and measure.of is not None:
                dataset[name] = ((), float(measure.of(spectrum)))
            else:
                values = measure.compute(responses, self._labels, self._classes)
                if measure.has_classes:
                    self._add_best(dataset, name, values)
                elif measure.kind == "tuning":
                    dataset[name] = (("unit", "class_name"), values.T)
                elif measure.kind == "layer":
                    dataset[name] = ((), float(values))
                else:
                    dataset[name] = ("stimulus" if measure.kind == "stimulus" else "unit", values)
            if measure.with_share:
                dataset[f"{name}_share"] = ((), float(dataset[name]) / min(responses.shape))
        for name in names:
            if f"{name}_threshold" in ranking:
                best = np.maximum(m.best_class(ranking[name]), 0)
                thresholds = ranking[f"{name}_threshold"][best, np.arange(best.size)]
                dataset[f"{name}_threshold"] = ("unit", thresholds)
        return dataset

    def null(
        self, dataset: xr.Dataset, names: Sequence[str], resamples: int, seed: int
    ) -> dict[str, FloatArray]:
        """Add to `dataset` what label shuffles say of each measure, and return them, by measure."""
        shuffled = self._resample(inference.class_measures_null, names, resamples, seed)
        for name in names:
            add_null(dataset, name, shuffled[name])
        return shuffled

    def intervals(
        self,
        dataset: xr.Dataset,
        names: Sequence[str],
        resamples: int,
        seed: int,
        shuffled: dict[str, FloatArray],
    ) -> None:
        """Add to `dataset` the 95% interval of each measure.

        Redrawing stimuli never reaches what a unit without selectivity has, so an interval needs
        label shuffles too; `shuffled` holds those that are there already.
        """
        missing = [name for name in names if name not in shuffled]
        nulls = shuffled | self._resample(inference.class_measures_null, missing, resamples, seed)
        redrawn = self._resample(inference.class_measures_redrawn, names, resamples, seed)
        counts = np.bincount(self._labels, minlength=self._classes)
        for name in names:
            signed = bool((self._responses_for(name) < 0).any())
            add_interval(dataset, name, redrawn[name], nulls[name], counts, signed=signed)

    def _responses_for(self, name: str) -> Responses:
        if not MEASURES[name].assumes_non_negative:
            return self._raw
        if self._rectified is None:
            try:
                self._rectified = m.apply_sign_policy(self._raw, self._signed)
            except ResponseError as error:
                raise ResponseError(f"layer {self._layer!r}, {name}: {error}") from error
        return self._rectified

    def _ranking(self, names: Sequence[str]) -> dict[str, FloatArray]:
        """Return the measures that rank the stimuli, (class_name, unit) each, sorted but once."""
        formulas = {}
        for name in names:
            measure = MEASURES[name]
            if measure.needs == "ranks" and measure.of is not None:
                formulas[name] = measure.of
                if measure.threshold_of is not None:
                    formulas[f"{name}_threshold"] = measure.threshold_of
        if not formulas:
            return {}
        return ranking_measures(rank_responses(self._raw), self._labels, formulas, self._classes)

    @staticmethod
    def _add_best(dataset: xr.Dataset, name: str, by_class: npt.NDArray[Any]) -> None:
        dataset[name] = ("unit", m.best_over_classes(by_class))
        dataset[f"{name}_class"] = ("unit", m.best_class(by_class))

    def _resample(
        self, resampling: _Resampling, names: Sequence[str], resamples: int, seed: int
    ) -> dict[str, FloatArray]:
        drawn: dict[str, FloatArray] = {}
        for made_for_none in (True, False):
            some = [n for n in names if MEASURES[n].assumes_non_negative is made_for_none]
            if some:
                drawn |= resampling(
                    self._responses_for(some[0]),
                    self._labels,
                    names=some,
                    resamples=resamples,
                    seed=seed,
                )
        return drawn


def add_null(dataset: xr.Dataset, name: str, shuffled: FloatArray) -> None:
    """Add to `dataset` what values after label shuffles, (resample, unit), say of a measure."""
    summary = inference.summarize_null(dataset[name].values, shuffled)
    dataset[f"{name}_null_mean"] = ("unit", summary.mean)
    dataset[f"{name}_z"] = ("unit", summary.z)
    dataset[f"{name}_p"] = ("unit", summary.p)
    dataset[f"{name}_corrected"] = ("unit", summary.corrected)


def add_interval(
    dataset: xr.Dataset,
    name: str,
    redrawn: FloatArray,
    shuffled: FloatArray,
    counts: npt.NDArray[np.int64],
    *,
    signed: bool,
) -> None:
    """Add to `dataset` the 95% interval of a measure, from resampled values (resample, unit).

    `counts` (class_name,) are the stimuli of each class; `signed` tells whether responses are
    negative, and selectivity so has no bounds.
    """
    best = dataset.get(f"{name}_class")
    low, high = inference.class_measure_interval(
        name,
        dataset[name].values,
        redrawn,
        shuffled,
        counts=counts,
        best=None if best is None else best.values,
        bounded=not signed,
    )
    dataset[f"{name}_low"] = ("unit", low)
    dataset[f"{name}_high"] = ("unit", high)
