"""What predicts the damage of ablating a single unit; after Zhou, Sun, Bau & Torralba 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from unitprobe.ablation import Mode, ablate
from unitprobe.errors import OptionError
from unitprobe.inference import compare_to_baseline, false_discovery_rate
from unitprobe.layers import Selection, weight_norms
from unitprobe.metrics import SignPolicy
from unitprobe.models import Network
from unitprobe.protocols.common import RunOptions, assemble, check_count, exactly, nodes_of
from unitprobe.protocols.damage_correlations import (
    correlate,
    pooled_correlations,
    residual_channels,
)
from unitprobe.protocols.unit_measures import measure_units
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray

DAMAGES = ("accuracy_drop", "max_class_accuracy_drop", "loss_increase")
PREDICTORS = ("class_selectivity", "class_correlation", "incoming_l1", "activity")


def zhou_protocol(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    mode: Mode = "zero",
    n_directions: int = 16,
    resamples: int = 1000,
    n_permutations: int = 1000,
    signed: SignPolicy = "refuse",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> xr.DataTree:
    """Ablate every unit and random directions; correlate the damage with what predicts it.

    Parameters
    ----------
    model, stimuli, layers, mode
        As `unitprobe.ablate`.
    n_directions : int
        Random orthonormal directions of each layer to ablate; 0 leaves them out. At most as many
        as the layer has units.
    resamples : int
        Permutations for each p-value.
    n_permutations : int
        Permutations for the chance level of the largest drop over classes; 0 leaves it out.
    signed : {"refuse", "rectify", "allow"}
        How class selectivity treats negative responses; along directions they are always
        rectified.
    seed : int
        Seed of directions, resamples and permutations.
    **run
        ``batch_size``, ``device``, ``method``, ``memory``, ``workers``, ``progress`` and ``keep``,
        as `unitprobe.ablate`.

    Returns
    -------
    xarray.DataTree
        The result of `unitprobe.ablate`, with four predictors per layer (unit):
        ``class_selectivity``, 0..1; ``class_correlation``, the correlation of the response with
        the probability of a class, the largest over classes, -1..1; ``incoming_l1``, the L1 norm
        of the weights that make the unit, NaN if they are unknown, as after a residual sum;
        ``activity``, the mean absolute response. Variables of the directions have the prefix
        ``direction_`` and the dimension ``direction``; they have no ``incoming_l1``.

        At the root, Spearman's correlations of three damages, ``accuracy_drop``,
        ``max_class_accuracy_drop`` and ``loss_increase``, with the predictors: ``correlation``
        (layer, damage, predictor) and ``pooled_correlation`` (damage, predictor) over the units of
        all layers, **ranked within their layer**. Each has ``_low``, ``_high``, ``_p``, ``_q`` and
        ``_units``.
        Those of directions have the prefix ``direction_``. ``unit_minus_direction`` (layer,
        damage) is the mean drop of units minus that of directions, with ``_low``, ``_high``,
        ``_p`` and ``_q``; ``unit_exceeds_direction`` the probability that a unit costs more than a
        direction, 0..1. NaN if a value does not vary, as in a layer of dead units.

    Raises
    ------
    OptionError
        A number is out of range, or directions are combined with ``mode="weights"``.
    ResponseError
        Responses are negative and refused.
    LabelError, LayerError, LayerNotFoundError, ModelError
        As `unitprobe.ablate`.

    Notes
    -----
    After "Revisiting the importance of individual units in CNNs via ablation" (arXiv:1806.02891),
    sections 3 and 4. The paper silences filters (``mode="weights"``); the default here silences
    activations. Intervals are over the units of this network, p-values are
    from permutations, q-values after Benjamini & Hochberg: those of ``correlation`` over all
    layers, damages and predictors, those of ``pooled_correlation`` over damages and predictors.
    Channels recur in the layers of a residual stage, so the pooled correlation takes units that are
    the same channel of one stream for one cluster: see `unitprobe.inference.rank_correlation`.
    The largest drop over classes exceeds 0 by chance alone: compare it with
    ``max_class_accuracy_drop_null_mean`` (unit).

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import zhou_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = zhou_protocol(network, stimuli, n_directions=4, resamples=20)
    >>> tree["pooled_correlation"].sizes
    Frozen({'damage': 3, 'predictor': 4})
    >>> tree["2"]["direction_accuracy_drop"].sizes
    Frozen({'direction': 4})
    """
    check_count("n_directions", n_directions, 0)
    check_count("resamples", resamples, 1)
    if mode == "weights" and n_directions:
        raise OptionError(
            "mode='weights' cannot silence directions; give n_directions=0 (--n-directions 0)"
        )
    measured = measure_units(model, stimuli, layers=layers, signed=signed, run=run)
    chosen = exactly(measured.layers)
    ablation = ablate(
        model, stimuli, layers=chosen, mode=mode, n_permutations=n_permutations, seed=seed, **run
    )
    norms = weight_norms(model, layers=chosen, example=measured.example)
    nodes = {
        layer: node.assign(measured.layers[layer].data_vars).assign(
            incoming_l1=norms[layer]["incoming_l1"]
        )
        for layer, node in nodes_of(ablation).items()
    }
    channels = residual_channels(nodes)
    root = correlate(nodes, DAMAGES, PREDICTORS, clusters=channels, resamples=resamples, seed=seed)
    if n_directions:
        directions = {
            layer: random_directions(node.sizes["unit"], n_directions, seed + index)
            for index, (layer, node) in enumerate(nodes.items())
        }
        along = _along(model, stimuli, directions, mode, seed, run)
        for name, values in correlate(
            along, DAMAGES, PREDICTORS, dim="direction", resamples=resamples, seed=seed
        ).data_vars.items():
            root[f"direction_{name}"] = values
        root = root.merge(_units_against_directions(nodes, along))
        nodes = {
            layer: node.assign({f"direction_{n}": v for n, v in along[layer].data_vars.items()})
            for layer, node in nodes.items()
        }
    return assemble(
        ablation, root, nodes, "zhou", n_directions=n_directions, resamples=resamples, seed=seed
    )


def summarize_zhou(root: xr.Dataset) -> pd.DataFrame:
    """Return one row per damage and predictor, with the correlation over units of all layers."""
    return pooled_correlations(root).to_dataframe().reset_index().astype({"units": int})


def random_directions(units: int, count: int, seed: int) -> FloatArray:
    """Return random orthonormal rows (direction, unit), at most as many as units.

    Their distribution is uniform: it does not change under rotation.

    Examples
    --------
    >>> rows = random_directions(5, 3, seed=0)
    >>> bool(np.allclose(rows @ rows.T, np.eye(3)))
    True
    """
    square = np.random.default_rng(seed).normal(size=(units, units))
    columns, triangle = np.linalg.qr(square)
    # Without the signs, the rows of a QR are not uniformly distributed (Mezzadri 2007).
    rotated: FloatArray = (columns * np.sign(np.diag(triangle))).T[: min(count, units)]
    return np.ascontiguousarray(rotated)


def _along(
    model: Network | nn.Module,
    stimuli: Stimuli,
    directions: Mapping[str, FloatArray],
    mode: Mode,
    seed: int,
    run: RunOptions,
) -> dict[str, xr.Dataset]:
    """Return damages and predictors of each direction of each layer."""
    chosen = exactly(directions)
    ablation = ablate(
        model,
        stimuli,
        layers=chosen,
        directions=directions,
        mode=mode,
        n_permutations=0,
        seed=seed,
        **run,
    )
    measured = measure_units(
        model, stimuli, layers=chosen, signed="rectify", directions=directions, run=run
    )
    return {
        layer: node.assign(measured.layers[layer].data_vars)
        for layer, node in nodes_of(ablation).items()
    }


def _units_against_directions(
    nodes: Mapping[str, xr.Dataset], along: Mapping[str, xr.Dataset]
) -> xr.Dataset:
    compared = [
        [
            compare_to_baseline(node[damage].values, along[layer][damage].values)
            for damage in DAMAGES
        ]
        for layer, node in nodes.items()
    ]
    columns: dict[str, Any] = {
        "unit_minus_direction": [[each.difference for each in row] for row in compared],
        "unit_minus_direction_low": [[each.low for each in row] for row in compared],
        "unit_minus_direction_high": [[each.high for each in row] for row in compared],
        "unit_minus_direction_p": [[each.p for each in row] for row in compared],
        "unit_exceeds_direction": [[each.auc for each in row] for row in compared],
    }
    columns["unit_minus_direction_q"] = false_discovery_rate(columns["unit_minus_direction_p"])
    return xr.Dataset({name: (("layer", "damage"), values) for name, values in columns.items()})
