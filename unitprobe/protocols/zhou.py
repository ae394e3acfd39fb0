"""What predicts the importance of a single unit; after Zhou, Sun, Bau & Torralba 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import xarray as xr
from torch import nn

from unitprobe.ablation import ablate
from unitprobe.ablation.replacements import Mode
from unitprobe.errors import OptionError
from unitprobe.inference import compare_to_baseline, false_discovery_rate
from unitprobe.layers import Selection, weight_norms
from unitprobe.metrics import SignPolicy
from unitprobe.models import Network
from unitprobe.protocols.assembling import assemble, nodes_of
from unitprobe.protocols.correlating import correlate
from unitprobe.protocols.measuring import measure_units
from unitprobe.protocols.options import RunOptions, check_count, check_run, exactly
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray

DAMAGES = ("accuracy_drop", "max_class_accuracy_drop")
PREDICTORS = ("class_selectivity", "class_correlation", "incoming_l1", "activity")


def zhou_protocol(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    mode: Mode = "zero",
    n_directions: int = 16,
    resamples: int = 1000,
    null: int = 1000,
    signed: SignPolicy = "refuse",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> xr.DataTree:
    """Ablate every unit, and ask what predicts the damage, against random directions.

    Parameters
    ----------
    model, stimuli, layers, mode
        As `unitprobe.ablate`.
    n_directions : int
        Random orthonormal directions of each layer that are ablated beside its units, as many as
        it has units if those are fewer; 0 for none.
    resamples : int
        Of units for each interval, and permutations for each p-value.
    null : int
        Draws for the chance level of the largest drop over classes, as `unitprobe.ablate`.
    signed : {"refuse", "rectify", "allow"}
        What class selectivity is to make of negative responses. Responses along directions are
        rectified for it in any case.
    seed : int
        Of directions, resamples, permutations and the chance level.
    **run
        ``batch_size``, ``device``, ``method``, ``memory``, ``workers``, ``progress`` and ``keep``,
        as `unitprobe.ablate`.

    Returns
    -------
    xarray.DataTree
        The result of `unitprobe.ablate`, and by layer the predictors (unit):
        ``class_selectivity`` in 0..1; ``class_correlation``, of the response with the probability
        of the best class, in -1..1; ``incoming_l1``, of the weights that make the unit, NaN where
        they cannot be told, as after a residual sum; ``activity``, the mean size of the response.
        The same names with ``direction_`` before them (direction) hold for the directions, which
        have no ``incoming_l1``.

        At the root ``correlation`` (layer, damage, predictor) with ``_low``, ``_high``, ``_p``,
        ``_q`` and ``_units``, and ``pooled_correlation`` (damage, predictor) over all layers, with
        **ranks within layers**; damages are ``accuracy_drop`` and ``max_class_accuracy_drop``. The
        same with ``direction_`` before them for the directions. ``unit_minus_direction`` (layer,
        damage), the mean drop of units less that of directions, with ``_low``, ``_high``, ``_p``
        and ``_q``, and ``unit_exceeds_direction``, the probability that a unit costs more than a
        direction, 0..1. All are NaN where there is nothing to correlate or compare, such as a
        layer of dead units.

    Raises
    ------
    OptionError
        A number is out of range, or directions are asked for with ``mode="weights"``.
    ResponseError
        Responses are negative and refused.
    LabelError, LayerError, LayerNotFoundError, ModelError
        As `unitprobe.ablate`.

    Notes
    -----
    After "Revisiting the importance of individual units in CNNs via ablation" (arXiv:1806.02891),
    sections 3 and 4, which silences filters; here it is activations, unless
    ``mode="weights"``. Rank correlations are Spearman's, intervals bootstrap percentiles over
    units, p-values from permutations, q-values after Benjamini & Hochberg: those of
    ``correlation`` over all layers, damages and predictors, those of ``pooled_correlation`` over
    damages and predictors. The interval is over units of this network and says nothing of the
    next. The largest drop over classes is above 0 by chance alone:
    compare it with ``max_class_accuracy_drop_null_mean`` (unit).

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
    Frozen({'damage': 2, 'predictor': 4})
    >>> tree["2"]["direction_accuracy_drop"].sizes
    Frozen({'direction': 4})
    """
    check_run(run)
    check_count("n_directions", n_directions, 0)
    check_count("resamples", resamples, 1)
    if mode == "weights" and n_directions:
        raise OptionError(
            "mode='weights' silences units and no directions; give n_directions=0 (--directions 0)"
        )
    measured = measure_units(model, stimuli, layers=layers, signed=signed, run=run)
    chosen = exactly(measured.layers)
    ablation = ablate(model, stimuli, layers=chosen, mode=mode, null=null, seed=seed, **run)
    norms = weight_norms(model, layers=chosen, example=measured.example)
    nodes = {
        layer: node.assign(measured.layers[layer].data_vars).assign(
            incoming_l1=norms[layer]["incoming_l1"]
        )
        for layer, node in nodes_of(ablation).items()
    }
    root = correlate(nodes, DAMAGES, PREDICTORS, resamples=resamples, seed=seed)
    if n_directions:
        directions = {
            layer: random_directions(node.sizes["unit"], n_directions, seed + place)
            for place, (layer, node) in enumerate(nodes.items())
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


def random_directions(units: int, count: int, seed: int) -> FloatArray:
    """Return random orthonormal rows (direction, unit), at most as many as units.

    Every set of directions is as likely as it is rotated.

    Examples
    --------
    >>> rows = random_directions(5, 3, seed=0)
    >>> bool(np.allclose(rows @ rows.T, np.eye(3)))
    True
    """
    square = np.random.default_rng(seed).normal(size=(units, units))
    columns, triangle = np.linalg.qr(square)
    # Without the signs, the first rows of a QR are not uniformly distributed (Mezzadri 2007).
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
        model, stimuli, layers=chosen, directions=directions, mode=mode, null=0, seed=seed, **run
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
