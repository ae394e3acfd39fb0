"""Measure every unit and layer of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import nn

from unitprobe import metrics as m
from unitprobe.analysis.measured import MeasuredLayer
from unitprobe.analysis.reached import place_stimuli, reached_layers
from unitprobe.analysis.tables import add_false_discovery_rates, summarize_layers, warn_if_signed
from unitprobe.analysis.weights import add_weight_norms, check_weights
from unitprobe.errors import LabelError, OptionError, StoreError, nearest
from unitprobe.metrics.registry import MEASURES, default_metrics, get_measure
from unitprobe.models import Network
from unitprobe.progress import progress_bar
from unitprobe.responses import check_finite
from unitprobe.store import SCHEMA_VERSION, content_of

# The most of an activation with positions that is read at a time.
_BLOCK_BYTES = 128 * 2**20
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
    n_permutations: int = 0,
    n_bootstrap: int = 0,
    seed: int = 0,
    signed: m.SignPolicy = "refuse",
    model: Network | nn.Module | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Measure every unit and layer of a recording.

    Parameters
    ----------
    tree : xarray.DataTree
        A recording, from `record` or `open_store`. Activations with positions are averaged over
        them first.
    metrics : sequence of str, optional
        Which statistics, by name, of `unitprobe.metrics.registry`; all that so many stimuli allow
        if None.
    n_permutations : int
        Label shuffles for the null of every measure by class; 0 for none. The smallest p is
        ``1 / (n_permutations + 1)``: with few shuffles and many units no q can be small.
    n_bootstrap : int
        Resamples of the stimuli, within class, for 95% intervals; see
        `unitprobe.inference.class_measure_interval`.
    seed : int
        Seed of shuffles and resamples.
    signed : {"refuse", "rectify", "shift", "allow"}
        What to do with negative responses where a measure is defined for non-negative ones: raise;
        set them to zero; subtract the smallest response of the unit; or compute the formula all
        the same, with a warning (it is then unbounded).
    model : Network or nn.Module, optional
        The network that was recorded, of which the weights are measured too: ``incoming_l1``,
        ``incoming_l2``, ``outgoing_l1`` and ``outgoing_l2``, see `unitprobe.weight_norms`.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        A node per layer, its variables named after the functions of `unitprobe.metrics`. Per
        ``unit``: measures by class, sparseness, and for most of the former the class that has the
        value, ``..._class`` (-1 if none stands out); ``max_informedness_threshold``. Per ``unit``
        and ``class_name``: ``tuning_curve``, the mean response, ``class_variance`` and
        ``class_fraction_active``. Per ``stimulus``: ``population_sparseness``. Scalars: dimensions,
        and ``components_90_share``, ``components_95_share``, of min(stimuli, units).

        With `n_permutations`, per unit and measure by class ``..._null_mean``, ``_z``, ``_p``
        (one-sided), ``_q`` (Benjamini-Hochberg over all units of all layers) and ``_corrected``
        (minus the null's mean); with `n_bootstrap` ``_low`` and ``_high``. Where `metrics` is
        None, only for measures whose resample takes a single sum, ``class_selectivity``, ``ccmas``,
        ``class_correlation``, ``d_prime``, ``anova_f``, ``eta_squared``, and for the null
        ``roc_auc``; name others to have theirs too, which takes longer.

        The root has the mean over units of each statistic, by ``layer``. NaN stands where a
        statistic is not defined, such as the selectivity of a dead unit; means leave it out.

        A layer that some stimuli did not reach, because the network's path depends on them, has the
        statistics of those that did, and the attribute ``unreached_stimuli``; one that stimuli of
        fewer than two classes reached is left out, with a warning.

    Raises
    ------
    OptionError
        A metric is not known, or `n_permutations` or `n_bootstrap` is negative.
    LabelError
        The stimuli are of fewer than two classes.
    ResponseError
        A layer has NaN or infinite responses, or negative ones that are refused.
    StoreError
        The tree is not a recording, or one of another network than `model`.
    ModelError, LayerNotFoundError
        `model` does not run, or has none of the layers.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = up.record(network, up.load_stimuli("digits", limit=50), f"{folder}/store.h5")
    ...     analysis = up.analyze(tree, n_permutations=20)
    >>> analysis["2"]["class_selectivity"].sizes
    Frozen({'unit': 5})
    """
    _check_arguments(tree, metrics, n_permutations, n_bootstrap, seed)
    if model is not None:
        check_weights(tree, model)
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
    classes, ids = stimuli.sizes["class_name"], stimuli["stimulus"].to_numpy()
    reached = {layer: _reached(tree, layer) for layer in layers}
    layers = reached_layers(
        {layer: np.bincount(labels[here], minlength=classes) for layer, here in reached.items()}
    )
    fewest = min(len(reached[layer]) for layer in layers)
    names = list(metrics) if metrics is not None else default_metrics(fewest)
    asked = metrics is not None
    of_class = [name for name in names if MEASURES[name].kind == "class"]
    null_names = (
        [n for n in of_class if asked or MEASURES[n].null_by_default] if n_permutations else []
    )
    interval_names = (
        [n for n in of_class if asked or MEASURES[n].interval_by_default] if n_bootstrap else []
    )
    nodes: dict[str, xr.Dataset] = {}
    negative: dict[str, int] = {}
    with progress_bar("analyzing", len(layers), "layers", enabled=progress) as advance:
        for layer in layers:
            here = reached[layer]
            responses = read_responses(tree, layer)[here]
            check_finite(responses, layer, ids[here])
            negative[layer] = int((responses < 0).sum())
            measured = MeasuredLayer(responses, labels[here], classes, signed, layer)
            dataset = place_stimuli(measured.dataset(names), here, len(labels))
            shuffled = measured.null(dataset, null_names, n_permutations, seed)
            measured.intervals(dataset, interval_names, n_bootstrap, seed, shuffled)
            dataset.attrs.update(signed=signed, negative_responses=negative[layer])
            nodes[layer] = dataset.assign_coords(unit=tree[layer]["unit"].values)
            advance(1)
    if model is not None:
        add_weight_norms(nodes, model)
    warn_if_signed(negative, signed, names)
    add_false_discovery_rates(nodes)
    root = summarize_layers(nodes).assign_coords(
        class_name=stimuli["class_name"],
        stimulus=stimuli["stimulus"],
        label=("stimulus", labels),
    )
    root.attrs = {
        "unitprobe_content": "analysis",
        "unitprobe_schema": SCHEMA_VERSION,
        "unitprobe_version": version("unitprobe"),
        **{key: tree.attrs[key] for key in _ATTRIBUTES if key in tree.attrs},
        "n_permutations": n_permutations,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "signed": signed,
        "stimulus_count": len(labels),
    }
    return xr.DataTree.from_dict({"/": root, **nodes})


def read_responses(tree: xr.DataTree, layer: str) -> npt.NDArray[Any]:
    """Return the responses (stimulus, unit) of one layer of a recording.

    Activations are averaged over positions, some stimuli at a time, so that they need not fit in
    memory.

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
    if not positions:
        return np.asarray(array.transpose("stimulus", "unit").values)
    if array.chunks is not None:  # of dask, which reads it in chunks of its own
        return np.asarray(array.mean(positions, dtype=np.float64).transpose("stimulus", "unit"))
    stimuli = max(1, _BLOCK_BYTES * array.sizes["stimulus"] // max(1, array.nbytes))
    blocks = [
        array.isel(stimulus=slice(first, first + stimuli)).mean(positions, dtype=np.float64)
        for first in range(0, array.sizes["stimulus"], stimuli)
    ]
    return np.concatenate([block.transpose("stimulus", "unit").values for block in blocks])


def _check_arguments(
    tree: xr.DataTree,
    metrics: Sequence[str] | None,
    n_permutations: int,
    n_bootstrap: int,
    seed: int,
) -> None:
    if content_of(tree) != "recording":
        raise StoreError(
            f"analyze takes a recording, and what it is given holds: {content_of(tree)}"
        )
    for name in metrics or ():
        get_measure(name)
    for option, value in (
        ("n_permutations", n_permutations),
        ("n_bootstrap", n_bootstrap),
        ("seed", seed),
    ):
        if value < 0:
            raise OptionError(f"{option}={value} is negative; give 0 or more")


def _reached(tree: xr.DataTree, layer: str) -> npt.NDArray[np.int64]:
    """Return the indices of the stimuli that reached a layer."""
    if not tree[layer].attrs.get("unreached_stimuli", 0):
        return np.arange(tree.sizes["stimulus"])
    return np.flatnonzero(~np.isnan(read_responses(tree, layer)).all(axis=1))


def _array_name(node: xr.DataTree | xr.Dataset) -> str:
    return next((name for name in ("response", "activation") if name in node), "")
