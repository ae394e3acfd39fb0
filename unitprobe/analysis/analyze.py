"""From a recording to a table: every statistic of every unit, labelled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from unitprobe import inference
from unitprobe import metrics as m
from unitprobe.errors import (
    LabelError,
    OptionError,
    ResponseError,
    StoreError,
    UnitprobeWarning,
    nearest,
)
from unitprobe.progress import progress_bar
from unitprobe.responses import check_finite
from unitprobe.store import SCHEMA_VERSION, content_of

Responses = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

#: Statistics of one unit, from responses (stimulus, unit) and labels (stimulus,).
UNIT_METRICS: Mapping[str, Callable[[Responses, Labels], npt.NDArray[Any]]] = {
    "class_selectivity": m.class_selectivity,
    "preferred_class": m.preferred_class,
    "ccmas": m.ccmas,
    "lifetime_sparseness": lambda responses, _: m.lifetime_sparseness(responses),
    "hoyer_sparseness": lambda responses, _: m.hoyer_sparseness(responses),
    "gini": lambda responses, _: m.gini(responses),
    "kurtosis": lambda responses, _: m.kurtosis(responses),
    "fraction_active": lambda responses, _: m.fraction_active(responses),
    "dead": lambda responses, _: m.dead(responses),
}
#: Statistics of one layer, from the eigenvalues of the covariance of its units.
LAYER_METRICS: Mapping[str, Callable[[npt.NDArray[np.float64]], float]] = {
    "participation_ratio": m.participation_ratio_from_spectrum,
    "effective_rank": m.effective_rank_from_spectrum,
    "components_90": lambda spectrum: m.components_from_spectrum(spectrum, 0.90),
    "components_95": lambda spectrum: m.components_from_spectrum(spectrum, 0.95),
}
METRICS = (*UNIT_METRICS, "tuning_curve", "population_sparseness", *LAYER_METRICS)

# Defined for responses that are not negative.
_NON_NEGATIVE = {
    "class_selectivity",
    "ccmas",
    "lifetime_sparseness",
    "hoyer_sparseness",
    "gini",
    "population_sparseness",
}
_ATTRIBUTES = (
    "network",
    "weights_fingerprint",
    "preprocessing",
    "pool",
    "stimuli",
    "stimuli_fingerprint",
    "torch_version",
)


def analyze(
    tree: xr.DataTree,
    *,
    metrics: Sequence[str] | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
    signed: m.SignPolicy = "allow",
    progress: bool = True,
) -> xr.DataTree:
    """Measure every unit and layer of a recording.

    Parameters
    ----------
    tree : xarray.DataTree
        A recording, from `record` or `open_store`. Activations with positions are averaged over
        them first.
    metrics : sequence of str, optional
        Which statistics, by name; all if None.
    null : int
        Label shuffles for the null of class selectivity; 0 for none. The smallest p is
        ``1 / (null + 1)``: with few shuffles and many units no q can be small.
    bootstrap : int
        Resamples of the stimuli, within class, for the 95% interval of class selectivity; see
        `unitprobe.inference.bootstrap_interval`.
    seed : int
        Seed of shuffles and resamples.
    signed : {"allow", "rectify", "shift", "refuse"}
        What to do with negative responses where a measure is defined for non-negative ones:
        compute the formula all the same, with a warning (it is then unbounded); set them to zero;
        subtract the smallest response of the unit; or raise.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        A node per layer. Per ``unit``: ``class_selectivity`` and the other names of
        `UNIT_METRICS`; ``tuning_curve`` (unit, class_name), the mean response to each class; with
        `null` ``class_selectivity_null_mean``, ``_p`` (one-sided), ``_q`` (Benjamini-Hochberg over
        all units of all layers) and ``_corrected`` (minus the null's mean); with `bootstrap`
        ``_low`` and ``_high``. Per ``stimulus``: ``population_sparseness``. Scalars:
        ``participation_ratio``, ``effective_rank``, ``components_90``, ``components_95`` and the
        last two as a share of min(stimuli, units), ``..._share``. The root has the mean over units
        of each statistic, by ``layer``. NaN stands where a statistic is not defined, such as the
        selectivity of a dead unit; means leave it out.

    Raises
    ------
    OptionError
        A metric is not known, or `null` or `bootstrap` is negative.
    LabelError
        The stimuli are of fewer than two classes.
    ResponseError
        A layer has NaN or infinite responses, or negative ones with ``signed="refuse"``.
    StoreError
        The tree is not a recording.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = up.record(network, up.load_stimuli("digits", limit=50), f"{folder}/store.h5")
    ...     analysis = up.analyze(tree, null=20)
    >>> analysis["2"]["class_selectivity"].sizes
    Frozen({'unit': 5})
    """
    names = _check_arguments(tree, metrics, null, bootstrap, seed)
    layers = [name for name, node in tree.children.items() if _array_name(node)]
    if not layers:
        raise StoreError("the recording has no layer; record it again")
    stimuli = tree.to_dataset()
    labels = stimuli["label"].to_numpy().astype(np.int64)
    present = np.unique(labels)
    if len(present) < 2:
        raise LabelError(
            f"the {len(labels)} stimuli of the recording are of {len(present)} class; "
            "selectivity needs at least two"
        )
    nodes: dict[str, xr.Dataset] = {}
    negative: dict[str, int] = {}
    with progress_bar("analyzing", len(layers), "layers", enabled=progress) as advance:
        for layer in layers:
            responses = read_responses(tree, layer)
            check_finite(responses, layer, stimuli["stimulus"].to_numpy())
            negative[layer] = int((responses < 0).sum())
            measured = _Measured(responses, labels, stimuli.sizes["class_name"], signed, layer)
            dataset = measured.dataset(names)
            if "class_selectivity" in names:
                dataset.update(measured.selectivity_inference(null, bootstrap, seed))
            dataset.attrs.update(signed=signed, negative_responses=negative[layer])
            nodes[layer] = dataset.assign_coords(unit=tree[layer]["unit"].values)
            advance(1)
    _warn_if_signed(negative, signed, names)
    if null and "class_selectivity" in names:
        _add_false_discovery_rates(nodes)
    root = _summary(nodes).assign_coords(
        class_name=stimuli["class_name"],
        stimulus=stimuli["stimulus"],
        label=("stimulus", labels),
    )
    root.attrs = {
        "unitprobe_content": "analysis",
        "unitprobe_schema": SCHEMA_VERSION,
        "unitprobe_version": version("unitprobe"),
        **{key: tree.attrs[key] for key in _ATTRIBUTES if key in tree.attrs},
        "null": null,
        "bootstrap": bootstrap,
        "seed": seed,
        "signed": signed,
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def read_responses(tree: xr.DataTree, layer: str) -> npt.NDArray[Any]:
    """Return the responses (stimulus, unit) of one layer of a recording.

    Activations are averaged over positions.

    Raises
    ------
    StoreError
        The recording has no such layer.
    """
    if layer not in tree.children:
        names = ", ".join(nearest(layer, tree.children))
        raise StoreError(f"the recording has no layer {layer!r}; the nearest are {names}")
    dataset = tree.children[layer].to_dataset()
    array = dataset[_array_name(dataset)]
    positions = [dim for dim in array.dims if dim not in ("stimulus", "unit")]
    if positions:
        array = array.mean(positions, dtype=np.float64)
    return np.asarray(array.transpose("stimulus", "unit").values)


def unit_table(tree: xr.DataTree) -> pd.DataFrame:
    """Return the per-unit statistics of an analysis or ablation, one row per unit of every layer.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> node = xr.Dataset({"gini": ("unit", np.array([0.5, 0.25]))}, coords={"unit": [0, 1]})
    >>> unit_table(xr.DataTree.from_dict({"relu": node}))
      layer  unit  gini
    0  relu     0  0.50
    1  relu     1  0.25
    """
    tables = []
    for layer, node in tree.children.items():
        dataset = node.to_dataset(inherit=False)
        columns = [name for name, variable in dataset.items() if variable.dims == ("unit",)]
        table = dataset[columns].to_dataframe().reset_index()
        table.insert(0, "layer", layer)
        if "preferred_class" in table and "class_name" in tree.coords:
            names = np.append(tree.coords["class_name"].to_numpy().astype(object), "")
            place = table.columns.get_loc("preferred_class")
            assert isinstance(place, int)
            table.insert(place + 1, "preferred_class_name", names[table["preferred_class"]])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def layer_table(tree: xr.DataTree) -> pd.DataFrame:
    """Return the per-layer summary of an analysis, one row per layer.

    Examples
    --------
    >>> import xarray as xr
    >>> layers = xr.Dataset({"gini": ("layer", [0.5])}, coords={"layer": ["relu"]})
    >>> layer_table(xr.DataTree(layers))
      layer  gini
    0  relu   0.5
    """
    dataset = tree.to_dataset()
    columns = [name for name, variable in dataset.items() if variable.dims == ("layer",)]
    return dataset[columns].to_dataframe().reset_index()


def _check_arguments(
    tree: xr.DataTree, metrics: Sequence[str] | None, null: int, bootstrap: int, seed: int
) -> list[str]:
    if content_of(tree) != "recording":
        raise StoreError(
            f"analyze takes a recording, and what it is given holds: {content_of(tree)}"
        )
    names = list(METRICS if metrics is None else metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        near = ", ".join(nearest(unknown[0], METRICS))
        raise OptionError(f"metric {unknown[0]!r} is not known; the nearest are {near}")
    for option, value in (("null", null), ("bootstrap", bootstrap), ("seed", seed)):
        if value < 0:
            raise OptionError(f"{option}={value} is negative; give 0 or more")
    return names


def _array_name(node: xr.DataTree | xr.Dataset) -> str:
    return next((name for name in ("response", "activation") if name in node), "")


class _Measured:
    """The responses of one layer, with everything that several statistics share."""

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
        try:
            self._non_negative = m.apply_sign_policy(responses, signed)
        except ResponseError as error:
            raise ResponseError(f"layer {layer!r}: {error}") from error

    def dataset(self, names: Sequence[str]) -> xr.Dataset:
        """Return the statistics asked for."""
        spectrum = (
            m.covariance_spectrum(self._raw)
            if any(name in LAYER_METRICS for name in names)
            else None
        )
        dataset = xr.Dataset()
        for name in names:
            responses = self._non_negative if name in _NON_NEGATIVE else self._raw
            if name in UNIT_METRICS:
                dataset[name] = ("unit", UNIT_METRICS[name](responses, self._labels))
            elif name == "tuning_curve":
                means = m.class_means(responses, self._labels, self._classes)
                dataset[name] = (("unit", "class_name"), means.T)
            elif name == "population_sparseness":
                dataset[name] = ("stimulus", m.population_sparseness(responses))
            else:
                assert spectrum is not None
                value = float(LAYER_METRICS[name](spectrum))
                dataset[name] = ((), value)
                if name.startswith("components"):
                    dataset[f"{name}_share"] = ((), value / min(responses.shape))
        return dataset

    def selectivity_inference(self, null: int, bootstrap: int, seed: int) -> dict[str, Any]:
        """Return null and interval of class selectivity, by name."""
        found: dict[str, Any] = {}
        if not null and not bootstrap:
            return found
        observed = m.class_selectivity(self._non_negative, self._labels)
        # The interval needs the null too: redrawing stimuli never reaches 0.
        shuffled = inference.class_selectivity_null(
            self._non_negative, self._labels, resamples=null or bootstrap, seed=seed
        )
        if null:
            summary = inference.summarize_null(observed, shuffled)
            found["class_selectivity_null_mean"] = ("unit", summary.mean)
            found["class_selectivity_p"] = ("unit", summary.p)
            found["class_selectivity_corrected"] = ("unit", summary.corrected)
        if bootstrap:
            resampled = inference.class_selectivity_bootstrap(
                self._non_negative, self._labels, resamples=bootstrap, seed=seed
            )
            low, high = inference.bootstrap_interval(observed, resampled, null=shuffled)
            if not (self._non_negative < 0).any():
                low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
            found["class_selectivity_low"] = ("unit", low)
            found["class_selectivity_high"] = ("unit", high)
        return found


def _warn_if_signed(negative: Mapping[str, int], signed: str, names: Sequence[str]) -> None:
    layers = [layer for layer, count in negative.items() if count]
    affected = [name for name in names if name in _NON_NEGATIVE]
    if signed != "allow" or not layers or not affected:
        return
    warnings.warn(
        f"{len(layers)} of {len(negative)} layers have negative responses, the first {layers[0]!r} "
        f"({negative[layers[0]]:,}); {', '.join(affected)} are defined for non-negative ones and "
        "unbounded here: choose signed='rectify', 'shift' or 'refuse'",
        UnitprobeWarning,
        stacklevel=3,
    )


def _add_false_discovery_rates(nodes: Mapping[str, xr.Dataset]) -> None:
    p = np.concatenate([node["class_selectivity_p"].values for node in nodes.values()])
    q = inference.false_discovery_rate(p)
    ends = np.cumsum([node.sizes["unit"] for node in nodes.values()])
    for node, part in zip(nodes.values(), np.split(q, ends[:-1]), strict=True):
        node["class_selectivity_q"] = ("unit", part)


def _summary(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    first = next(iter(nodes.values()))
    summary = xr.Dataset(coords={"layer": np.asarray(list(nodes), dtype=object)})
    summary["units"] = ("layer", [node.sizes["unit"] for node in nodes.values()])
    for name, variable in first.items():
        if name == "preferred_class" or variable.dims == ("unit", "class_name"):
            continue
        values = [float(node[name].mean(skipna=True)) for node in nodes.values()]
        summary["dead_share" if name == "dead" else name] = ("layer", np.asarray(values))
    if "class_selectivity_q" in first:
        significant = [
            float((node["class_selectivity_q"] < 0.05).mean()) for node in nodes.values()
        ]
        summary["selective_share"] = ("layer", np.asarray(significant))
    return summary
