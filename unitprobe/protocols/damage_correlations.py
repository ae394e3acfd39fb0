"""Rank correlations of what ablating a unit costs with other properties of the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from unitprobe.errors import StoreError
from unitprobe.inference import false_discovery_rate, rank_correlation
from unitprobe.typing import FloatArray, IntArray

_PARTS = ("", "_low", "_high", "_p", "_units")


def correlate(
    nodes: Mapping[str, xr.Dataset],
    damages: Sequence[str],
    predictors: Sequence[str],
    *,
    dim: str = "unit",
    clusters: ArrayLike | None = None,
    resamples: int,
    seed: int,
) -> xr.Dataset:
    """Return Spearman's correlation of each damage with each predictor, by layer and pooled.

    Parameters
    ----------
    nodes : mapping of str to Dataset
        By layer, the damages and predictors (unit). A missing one gives NaN.
    damages, predictors : sequence of str
        Their names.
    dim : str
        The dimension of damages and predictors.
    clusters : array, optional
        Of the units of all layers, end to end, for the pooled correlations: see
        `unitprobe.inference.rank_correlation` and `residual_channels`.
    resamples, seed
        As `unitprobe.inference.rank_correlation`.

    Returns
    -------
    xarray.Dataset
        ``correlation`` (layer, damage, predictor) with its 95% interval ``_low`` and
        ``_high``, permutation ``_p``, ``_q`` after Benjamini & Hochberg over all of it, and
        ``_units``; NaN if either does not vary. ``pooled_correlation`` (damage, predictor) and
        the same endings: over the units of all layers, **ranked and permuted within their
        layer**. It is the mean of the layers' correlations weighted by their units; its
        ``_q`` is over (damage, predictor).
    """
    layers = list(nodes)
    columns = {
        name: [_values(nodes[layer], name, dim) for layer in layers]
        for name in (*damages, *predictors)
    }
    sizes = [nodes[layer].sizes[dim] for layer in layers]
    strata = np.repeat(np.arange(len(layers)), sizes)
    by_layer = np.full((len(_PARTS), len(layers), len(damages), len(predictors)), np.nan)
    pooled = np.full((len(_PARTS), len(damages), len(predictors)), np.nan)
    for d, damage in enumerate(damages):
        for p, predictor in enumerate(predictors):
            pairs = list(zip(columns[predictor], columns[damage], strict=True))
            for layer, (x, y) in enumerate(pairs):
                by_layer[:, layer, d, p] = _numbers(x, y, None, None, resamples, seed)
            x, y = (np.concatenate(part) for part in zip(*pairs, strict=True))
            pooled[:, d, p] = _numbers(x, y, strata, clusters, resamples, seed)
    found = xr.Dataset(
        coords={
            "layer": np.asarray(layers, dtype=object),
            "damage": np.asarray(damages, dtype=object),
            "predictor": np.asarray(predictors, dtype=object),
        }
    )
    for name, values, dims in (
        ("correlation", by_layer, ("layer", "damage", "predictor")),
        ("pooled_correlation", pooled, ("damage", "predictor")),
    ):
        for part, numbers in zip(_PARTS, values, strict=True):
            found[f"{name}{part}"] = (dims, numbers)
        found[f"{name}_q"] = (dims, false_discovery_rate(values[_PARTS.index("_p")]))
    return found


def residual_channels(nodes: Mapping[str, xr.Dataset]) -> IntArray:
    """Return which units are the same channel of a residual stream, (unit,) of all layers.

    After a residual sum no weights alone make a unit: ``incoming_l1`` (unit) is NaN. Such layers
    that follow each other with as many units are taken to share a stream. Every other unit has a
    number of its own.
    """
    numbers, used, stream = [], 0, np.empty(0, dtype=np.int64)
    for node in nodes.values():
        units = node.sizes["unit"]
        after_sum = bool(np.isnan(node["incoming_l1"].values).all())
        if after_sum and len(stream) == units:
            numbers.append(stream)
            continue
        own = np.arange(used, used + units)
        used += units
        numbers.append(own)
        if after_sum:
            stream = own
    return np.concatenate(numbers)


def pooled_correlations(root: xr.Dataset) -> xr.Dataset:
    """Return the pooled correlations under short names.

    Parameters
    ----------
    root : Dataset
        The root of a protocol's tree.

    Returns
    -------
    xarray.Dataset
        ``correlation`` (damage, predictor), its ``low``, ``high``, ``p``, ``q`` and ``units``.

    Raises
    ------
    StoreError
        The protocol has no correlations.
    """
    name = "pooled_correlation"
    if name not in root:
        raise StoreError(
            "the tree has no correlations of damages with predictors; give the result of "
            "zhou_protocol or morcos_protocol"
        )
    columns = {name: "correlation"} | {
        f"{name}_{part}": part for part in ("low", "high", "p", "q", "units")
    }
    return root[list(columns)].rename(columns)


def _values(node: xr.Dataset, name: str, dim: str) -> FloatArray:
    if name not in node:
        return np.full(node.sizes[dim], np.nan)
    values: FloatArray = np.asarray(node[name].values, dtype=np.float64)
    return values


def _numbers(
    x: FloatArray,
    y: FloatArray,
    strata: ArrayLike | None,
    clusters: ArrayLike | None,
    resamples: int,
    seed: int,
) -> list[float]:
    found = rank_correlation(x, y, strata, clusters=clusters, resamples=resamples, seed=seed)
    return [found.value, found.low, found.high, found.p, found.units]
