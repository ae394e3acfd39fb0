"""Measure every unit and layer of a recording, or of a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, get_args

import torch
import xarray as xr
from torch import nn

from unitprobe import metrics as m
from unitprobe.analysis.measured import measure_layer
from unitprobe.analysis.result_tables import (
    add_false_discovery_rates,
    describe_variables,
    summarize_layers,
    warn_if_negative,
)
from unitprobe.analysis.sources import (
    Request,
    Source,
    open_recording,
    reached_layers,
    run_network,
)
from unitprobe.analysis.weight_columns import add_weight_norms, check_weights
from unitprobe.errors import OptionError
from unitprobe.layers import Selection
from unitprobe.metrics.registry import get_measure
from unitprobe.models import Network
from unitprobe.online import rank_and_world
from unitprobe.progress import progress_bar
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION, open_store

# The options of a network, with their defaults: others have no effect on a recording.
_OF_NETWORKS: Mapping[str, Any] = {
    "memory": "2GB",
    "layers": "activations",
    "pool": "mean",
    "rectify": False,
    "batch_size": 64,
    "device": None,
    "workers": 0,
}


def analyze(
    source: xr.DataTree | str | os.PathLike[str] | Network | nn.Module,
    stimuli: Stimuli | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n_permutations: int = 0,
    n_bootstrap: int = 0,
    seed: int = 0,
    signed: m.AutoSignPolicy = "auto",
    model: Network | nn.Module | None = None,
    memory: int | str = "2GB",
    layers: Selection = "activations",
    pool: str = "mean",
    rectify: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 0,
    progress: bool = True,
) -> xr.DataTree:
    """Measure every unit and layer of a recording, or of a network that sees each stimulus once.

    Parameters
    ----------
    source : xarray.DataTree, path, Network or nn.Module
        A recording, from `record` or `open_store`, or its path. Activations with positions are
        averaged over them first. Or a network.
    stimuli : Stimuli, optional
        What a network is shown.
    metrics : sequence of str, optional
        Which measures, by name, of `unitprobe.metrics.registry`; if None, all that so many stimuli
        allow.
    n_permutations : int
        Permutations of the labels for the null of every measure by class; 0 for none. The smallest
        p is ``1 / (n_permutations + 1)``: with few permutations and many units no q can be small.
    n_bootstrap : int
        Resamples of the stimuli, within class, for 95% intervals; see
        `unitprobe.inference.class_measure_interval`.
    seed : int
        Seed of permutations and resamples.
    signed : {"auto", "rectify", "shift", "allow", "refuse"}
        How to treat negative responses before a measure that assumes non-negative ones. ``"auto"``:
        in a layer with negative responses the measure is NaN, and so are its null and interval, and
        one warning says so; if `metrics` names it, raise an error. ``"rectify"``: set negative
        responses to zero. ``"shift"``: subtract the smallest response of the unit. ``"allow"``:
        compute the formula without change, with a warning (the measure is then unbounded).
        ``"refuse"``: raise an error.
    model : Network or nn.Module, optional
        The network of a recording. Its weights are measured too: ``incoming_l1``, ``incoming_l2``,
        ``outgoing_l1`` and ``outgoing_l2``, see `unitprobe.weight_norms`. For a network as
        `source` they are measured where `metrics` is None.
    memory : int or str
        Bytes, such as ``"2GB"``, that the responses of a network may occupy. If all responses fit,
        the result equals that of a recording. If not, it has what running sums give exactly; see
        Notes.
    layers, pool, rectify, batch_size, device, workers
        Of a network, as `unitprobe.record`; `pool` is not ``"none"``.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        A node per layer, its variables named after the measures. Per ``unit``: measures by class,
        sparseness, and for most of the former the class that has the value, ``..._class`` (-1 if
        none stands out); ``max_informedness_threshold``. Per ``unit`` and ``class_name``:
        ``tuning_curve``, the mean response, ``class_variance`` and ``class_fraction_active``. Per
        ``stimulus``: ``population_sparseness``. Scalars: dimensions, and ``components_90_share``,
        ``components_95_share``, of min(stimuli, units).

        With `n_permutations`, per unit and measure by class ``..._null_mean``, ``_z``, ``_p``
        (one-sided), ``_q`` (Benjamini-Hochberg over all units of all layers) and ``_corrected``
        (minus the null's mean); with `n_bootstrap` ``_low`` and ``_high``. Where `metrics` is
        None, only for measures whose resample takes a single sum, ``class_selectivity``, ``ccmas``,
        ``class_correlation``, ``d_prime``, ``anova_f``, ``eta_squared``, and for the null
        ``roc_auc``; name others to have theirs too, which takes longer.

        The root has the mean over units of each statistic, by ``layer``. NaN stands where a
        statistic is not defined, such as the selectivity of a dead unit; means leave it out. They
        also leave infinite values out, such as the d-prime of a unit that varies only between
        classes; if there are any, ``..._infinite`` counts them by layer.

        Each layer has the attribute ``negative_responses``, their number. If measures are NaN
        because of them, the attribute ``not_computed`` of the layer names these measures, and that
        of each of their variables says why.

        A layer that some stimuli did not reach, because the network's path depends on them, has the
        statistics of those that did, and the attribute ``unreached_stimuli``; one that stimuli of
        fewer than two classes reached is left out, with a warning.

    Raises
    ------
    OptionError
        A measure is unknown, a number is negative, an option has no effect on this source, or
        something asked for by name needs more memory.
    LabelError
        The stimuli are of fewer than two classes.
    ResponseError
        A layer has NaN or infinite responses, or negative ones that are refused: before the pass
        if the first batch shows them. Or some stimuli did not reach a layer, and running sums need
        resamples.
    StoreError
        The tree is not a recording, or one of another network than `model`.
    LayerNotFoundError, LayerError, ModelError, ImageError
        As `unitprobe.record`, and if `model` does not run or has none of the layers.

    Notes
    -----
    Under torchrun, once `torch.distributed.init_process_group` has run, every process shows the
    network a contiguous share of the stimuli, and all return the same result.

    Where the responses do not fit in `memory`, measures from means, variances, extremes,
    covariances, counts or the top of the ranking are exact, and so are null and interval of
    measures from class means and variances. One warning and the attribute ``needs_recording`` name
    the other measures, and ``recording_bytes`` is the size of a recording that would give them.
    Beside running sums there are then 16 bytes for each stimulus and layer for population
    sparseness, and the class sums of all resamples, up to 4 GiB.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> analysis = up.analyze(network, up.load_stimuli("digits", limit=50), n_permutations=20)
    >>> analysis["2"]["class_selectivity"].sizes
    Frozen({'unit': 5})
    """
    for name in metrics or ():
        get_measure(name)
    for option, value in (
        ("n_permutations", n_permutations),
        ("n_bootstrap", n_bootstrap),
        ("seed", seed),
    ):
        if value < 0:
            raise OptionError(f"{option}={value} is negative; give 0 or more")
    if signed not in get_args(m.AutoSignPolicy):
        known = ", ".join(get_args(m.AutoSignPolicy))
        raise OptionError(f"signed={signed!r} is unknown; choose one of {known}")
    request = Request(
        metrics=metrics,
        n_permutations=n_permutations,
        n_bootstrap=n_bootstrap,
        seed=seed,
        signed=signed,
    )
    of_network: dict[str, Any] = {
        "memory": memory,
        "layers": layers,
        "pool": pool,
        "rectify": rectify,
        "batch_size": batch_size,
        "device": device,
        "workers": workers,
    }
    if isinstance(source, Network | nn.Module):
        if stimuli is None:
            raise OptionError("a network needs stimuli: analyze(network, stimuli)")
        if model is not None:
            raise OptionError("model= belongs to a recording; the network is the source already")
        found = run_network(source, stimuli, request, **of_network, progress=progress)
        model = source if metrics is None else None
    else:
        if stimuli is not None:
            what = "a recording" if isinstance(source, xr.DataTree) else f"{source!r}, a path,"
            raise OptionError(
                f"stimuli are for a network, not for {what}; load_model(name) gives a network"
            )
        for option, given in of_network.items():
            if given is not _OF_NETWORKS[option] and given != _OF_NETWORKS[option]:
                raise OptionError(
                    f"{option}={given!r} has no effect on a recording, whose responses are there "
                    "already; leave it out, or give a network and stimuli"
                )
        if not isinstance(source, xr.DataTree | str | os.PathLike):
            raise OptionError(
                f"analyze takes a recording, its path, or a network with stimuli, not {source!r}"
            )
        tree = source if isinstance(source, xr.DataTree) else open_store(source)
        found = open_recording(tree, request)
        if model is not None:
            check_weights(tree, model)
    return _measure(found, request, model, progress=progress)


def _measure(
    source: Source, request: Request, model: Network | nn.Module | None, *, progress: bool
) -> xr.DataTree:
    kept = reached_layers(source.counts)
    names = request.names(min(int(source.counts[layer].sum()) for layer in kept))
    names = [name for name in names if name not in source.left_out]
    nodes: dict[str, xr.Dataset] = {}
    shown = progress and rank_and_world()[0] == 0
    with progress_bar("analyzing", len(kept), "layers", enabled=shown) as advance:
        for layer in kept:
            nodes[layer] = measure_layer(
                source.open_layer(layer),
                names,
                null_names=request.null_names(names),
                interval_names=request.interval_names(names),
                n_permutations=request.n_permutations,
                n_bootstrap=request.n_bootstrap,
                seed=request.seed,
                signed=request.signed,
                leave_out=request.leaves_out_negative,
                stimulus_count=len(source.label),
            )
            advance(1)
    if model is not None:
        add_weight_norms(nodes, model, source.example)
    warn_if_negative(nodes, names)
    add_false_discovery_rates(nodes)
    describe_variables(nodes)
    root = summarize_layers(nodes).assign_coords(
        class_name=source.class_name,
        stimulus=source.stimulus,
        label=("stimulus", source.label),
    )
    root.attrs = {
        "unitprobe_content": "analysis",
        "unitprobe_schema": SCHEMA_VERSION,
        "unitprobe_version": version("unitprobe"),
        **source.attributes,
        "n_permutations": request.n_permutations,
        "n_bootstrap": request.n_bootstrap,
        "seed": request.seed,
        "signed": request.signed,
        "stimulus_count": len(source.label),
    }
    return xr.DataTree.from_dict({"/": root, **nodes})
