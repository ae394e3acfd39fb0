"""How much a network relies on units; after Morcos, Barrett, Rabinowitz & Botvinick 2018."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from unitprobe.ablation import Mode, Noise, ablate
from unitprobe.ablation.joint import accuracy_without
from unitprobe.ablation.settings import SweepOptions, format_mode
from unitprobe.errors import OptionError
from unitprobe.inference import false_discovery_rate
from unitprobe.layers import Selection
from unitprobe.metrics import SignPolicy
from unitprobe.models import Network, as_network
from unitprobe.protocols.common import RunOptions, assemble, check_count, exactly, nodes_of, table
from unitprobe.protocols.damage_correlations import correlate
from unitprobe.protocols.unit_measures import measure_units
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray, IntArray

#: Orders by class selectivity.
BY_SELECTIVITY = ("selective_first", "selective_last")
_DAMAGES = ("accuracy_drop", "max_class_accuracy_drop", "loss_increase")
_INTACT = ["accuracy", "class_accuracy", "loss", "class_count"]


def morcos_protocol(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    clamps: Sequence[Mode] = ("zero", "mean"),
    n_orders: int = 40,
    n_points: int = 10,
    noise_scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    across_layers: bool = False,
    resamples: int = 1000,
    singles: xr.DataTree | None = None,
    signed: SignPolicy = "refuse",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> xr.DataTree:
    """Ablate more and more units of a layer, in random order and in order of selectivity.

    Parameters
    ----------
    model, stimuli, layers
        As `unitprobe.ablate`.
    clamps : sequence of mode
        What replaces ablated units; ``"zero"`` and ``"mean"`` in the paper.
    n_orders : int
        Random orders of the units of each layer. The smallest two-sided p-value is
        2 / (n_orders + 1), so 0.05 needs 40 orders.
    n_points : int
        How often the accuracy is measured along an order, after the intact network.
    noise_scales : sequence of float
        Gaussian noise is added to all units of a layer, with these standard deviations in units of
        the unit's own; an empty sequence leaves them out.
    across_layers : bool
        Also ablate the units of all chosen layers together, in orders through all of them. The
        whole network runs for every point of every order.
    resamples : int
        Permutations for each p-value.
    singles : DataTree, optional
        The result of `unitprobe.ablate` or `zhou_protocol` for all units of the same layers,
        network and stimuli with ``mode="zero"``, so that they are not ablated again.
    signed : {"refuse", "rectify", "allow"}
        How class selectivity treats negative responses.
    seed : int
        Seed of orders, noise, resamples and permutations.
    **run
        ``batch_size``, ``device``, ``method``, ``memory``, ``workers``, ``progress`` and ``keep``,
        as `unitprobe.ablate`.

    Returns
    -------
    xarray.DataTree
        The result of `unitprobe.ablate` with ``mode="zero"``, and per layer:
        ``class_selectivity`` and ``activity`` (unit); ``removed`` (point), the number of ablated
        units, and ``fraction`` (point) of all; accuracies in 0..1, ``random_accuracy`` (clamp,
        order, point), ``selective_first_accuracy`` and ``selective_last_accuracy`` (clamp, point),
        which ablate the most or the least selective units first, and ``noise_accuracy``
        (noise_scale). Units without a selectivity count as the least selective. ``random_auc``
        (clamp, order) is the area under a curve over the fraction, 0..1.

        At the root (layer, clamp): ``random_auc_mean``; for ``selective_first`` and
        ``selective_last`` the area ``_auc``, its percentile among random orders
        ``_auc_percentile`` (0..100, ties count half), its two-sided ``_auc_p``, and ``_auc_q`` over
        layers and clamps. ``correlation`` (layer, damage, predictor) of the accuracy drop of single
        units with class selectivity and activity, and ``pooled_correlation``, as `zhou_protocol`.

        With `across_layers`, the root has the same for all layers together, with the prefix
        ``network_``: ``network_removed``, ``network_fraction`` (network_point), accuracies over
        network_point, and areas, percentiles and p (clamp).

    Raises
    ------
    OptionError
        A number is out of range, a clamp is unknown, or `singles` is of something else.
    ResponseError
        Responses are negative and refused.
    LabelError, LayerError, LayerNotFoundError, ModelError
        As `unitprobe.ablate`.

    Notes
    -----
    After "On the importance of single directions for generalization" (ICLR 2018,
    arXiv:1803.06959), sections 2.2 and 3. The mean of a clamp is that of the intact network, also
    if earlier layers are ablated too; noise is added to what then reaches the layer.
    p = min(1, 2 (1 + m) / (1 + n_orders)), where m counts the random orders whose area is at least,
    or at most, that of the order by selectivity, whichever are fewer.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import morcos_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = morcos_protocol(network, stimuli, n_orders=5, n_points=4, resamples=20)
    >>> tree["2"]["removed"].values, tree["2"]["random_accuracy"].sizes
    (array([0, 2, 4, 6, 8]), Frozen({'clamp': 2, 'order': 5, 'point': 5}))
    """
    check_count("n_orders", n_orders, 1)
    check_count("n_points", n_points, 1)
    check_count("resamples", resamples, 1)
    if not clamps or len(set(clamps)) < len(clamps):
        raise OptionError(f"clamps={tuple(clamps)} must name one mode or more, each once")
    noises = [Noise(scale) for scale in noise_scales]
    measured = measure_units(model, stimuli, layers=layers, signed=signed, run=run)
    chosen = exactly(measured.layers)
    if singles is None:
        singles = ablate(model, stimuli, layers=chosen, n_permutations=0, seed=seed, **run)
    else:
        _check_singles(singles, as_network(model), stimuli, measured.layers)
    orders = {
        layer: orders_of(node["class_selectivity"].values, n_orders, seed + index)
        for index, (layer, node) in enumerate(measured.layers.items())
    }
    removed = {layer: removal_points(rows.shape[1], n_points) for layer, rows in orders.items()}
    groups = {layer: _groups(orders[layer], removed[layer]) for layer in orders}
    curves: dict[str, list[FloatArray]] = {layer: [] for layer in orders}
    for clamp in clamps:
        swept = ablate(
            model,
            stimuli,
            layers=chosen,
            groups=groups,
            mode=clamp,
            n_permutations=0,
            seed=seed,
            **run,
        )
        swept_nodes = nodes_of(swept)
        for layer, rows in orders.items():
            drops = swept_nodes[layer]["accuracy_drop"].values
            curves[layer].append(_curves(float(swept["accuracy"]), drops, len(rows)))
    noise = _noise_accuracy(
        model, stimuli, {n: r.shape[1] for n, r in orders.items()}, noises, seed, run
    )
    alone = nodes_of(singles)
    nodes = {}
    for layer in orders:
        curve = _node(np.stack(curves[layer]), removed[layer], noise[layer], len(noise_scales))
        # `singles` may have more variables.
        damages = alone[layer][[n for n in _DAMAGES if n in alone[layer]]]
        measures = measured.layers[layer][["class_selectivity", "activity"]]
        nodes[layer] = curve.merge(damages).assign(measures.data_vars)
    root = correlate(
        nodes,
        ["accuracy_drop"],
        ["class_selectivity", "activity"],
        resamples=resamples,
        seed=seed,
    ).merge(_areas(nodes))
    root = root.assign_coords(clamp=np.asarray([*map(format_mode, clamps)], dtype=object))
    if noise_scales:
        root = root.assign_coords(noise_scale=np.asarray(noise_scales, dtype=np.float64))
    if across_layers:
        selectivity = {name: node["class_selectivity"].values for name, node in nodes.items()}
        units = np.concatenate(list(selectivity.values()))
        rows = orders_of(units, n_orders, seed + len(nodes))
        points = removal_points(len(units), n_points)
        sizes = {name: len(values) for name, values in selectivity.items()}
        found = [
            accuracy_without(
                model,
                stimuli,
                sizes,
                _groups(rows, points),
                SweepOptions(
                    clamp,
                    seed,
                    run.get("batch_size", 64),
                    run.get("workers", 0),
                    progress=run.get("progress", True),
                    output=run.get("output"),
                ),
                device=run.get("device"),
                keep=run.get("keep"),
            )
            for clamp in clamps
        ]
        together = [_curves(float(intact), intact - rest, len(rows)) for intact, rest in found]
        root = root.merge(_of_network(_node(np.stack(together), points, [], 0)))
    intact = xr.DataTree(singles.to_dataset()[_INTACT].assign_attrs(singles.attrs))
    return assemble(
        intact, root, nodes, "morcos", n_orders=n_orders, resamples=resamples, seed=seed
    )


def summarize_morcos(root: xr.Dataset) -> pd.DataFrame:
    """Return one row per layer and clamp, and those of all layers together if they were ablated."""
    columns = {
        "random_auc_mean": "random_auc",
        "selective_first_auc": "selective_first_auc",
        "selective_first_auc_percentile": "percentile",
        "selective_first_auc_p": "p",
        "selective_first_auc_q": "q",
    }
    by_layer = table(root, columns)
    if "network_random_auc" not in root:
        return by_layer
    whole = root.assign(network_random_auc_mean=root["network_random_auc"].mean("order"))
    together = {f"network_{name}": word for name, word in columns.items() if word != "q"}
    return pd.concat([by_layer, table(whole, together).assign(layer="all together")])


def orders_of(selectivity: FloatArray, n_orders: int, seed: int) -> IntArray:
    """Return orders of units (order, unit): random, most selective first, least selective first.

    Examples
    --------
    >>> orders_of(np.array([0.2, np.nan, 0.9]), n_orders=1, seed=0)[1:]
    array([[2, 0, 1],
           [1, 0, 2]])
    """
    rng = np.random.default_rng(seed)
    random = [rng.permutation(len(selectivity)) for _ in range(n_orders)]
    # A unit that never responds has no selectivity, and counts as the least selective.
    falling = np.argsort(-np.where(np.isnan(selectivity), -np.inf, selectivity), kind="stable")
    return np.stack([*random, falling, falling[::-1]])


def removal_points(units: int, n_points: int) -> IntArray:
    """Return how many units are removed at each point, from 0 to all.

    Examples
    --------
    >>> removal_points(16, 4), removal_points(3, 10)
    (array([ 0,  4,  8, 12, 16]), array([0, 1, 2, 3]))
    """
    return np.unique(np.round(np.linspace(0, units, n_points + 1)).astype(np.int64))


def area(accuracy: FloatArray, fraction: FloatArray) -> FloatArray:
    """Return the area under curves (..., point) over the fraction of units, by trapezoids.

    Examples
    --------
    >>> float(area(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    0.5
    """
    middle = (accuracy[..., 1:] + accuracy[..., :-1]) / 2
    result: FloatArray = (middle * np.diff(fraction)).sum(axis=-1)
    return result


def auc_test(observed: float, random: FloatArray) -> tuple[float, float]:
    """Return the percentile and two-sided p-value of an area among those of random orders.

    Examples
    --------
    >>> auc_test(0.1, np.linspace(0.4, 0.6, 39))
    (0.0, 0.05)
    """
    # Equal areas differ in the last digit if their sums have another order.
    below = int((random < observed - 1e-12).sum())
    above = int((random > observed + 1e-12).sum())
    ties = len(random) - below - above
    p = min(1.0, 2 * (1 + min(below, above) + ties) / (1 + len(random)))
    return 100 * (below + ties / 2) / len(random), p


def _check_singles(
    singles: xr.DataTree, network: Network, stimuli: Stimuli, layers: Mapping[str, xr.Dataset]
) -> None:
    """Raise an error if an ablation is of another network, stimuli, units or mode."""
    wanted = {
        "weights_fingerprint": network.fingerprint,
        "stimuli_fingerprint": stimuli.fingerprint,
        "mode": "zero",
    }
    for name, value in wanted.items():
        if singles.attrs.get(name) != value:
            raise OptionError(
                f"singles= is an ablation of {name} {singles.attrs.get(name)!r}, but {value!r} is "
                "needed; leave it out to ablate every unit again"
            )
    for layer, node in layers.items():
        has = singles.children[layer].sizes.get("unit", 0) if layer in singles.children else 0
        if has != node.sizes["unit"]:
            raise OptionError(
                f"singles= has {has} of the {node.sizes['unit']} units of layer {layer!r}; leave "
                "it out to ablate every unit again"
            )


def _groups(orders: IntArray, removed: IntArray) -> list[list[int]]:
    """Return the groups to ablate: all units, then by order and point the first units."""
    everything = list(range(orders.shape[1]))
    inner = [[int(u) for u in order[:count]] for order in orders for count in removed[1:-1]]
    return [everything, *inner]


def _curves(intact: float, drops: FloatArray, orders: int) -> FloatArray:
    """Return the accuracy (order, point) from the accuracy drops of `_groups`."""
    accuracy = intact - drops
    inner = accuracy[1:].reshape(orders, -1)
    ends = [np.full((orders, 1), value) for value in (intact, accuracy[0])]
    return np.hstack([ends[0], inner, ends[1]])


def _noise_accuracy(
    model: Network | nn.Module,
    stimuli: Stimuli,
    units: Mapping[str, int],
    noises: Sequence[Noise],
    seed: int,
    run: RunOptions,
) -> dict[str, list[float]]:
    """Return the accuracy with each noise on all units of a layer, by layer."""
    accuracy: dict[str, list[float]] = {layer: [] for layer in units}
    groups = {layer: [list(range(count))] for layer, count in units.items()}
    for noise in noises:
        swept = ablate(
            model,
            stimuli,
            layers=exactly(units),
            groups=groups,
            mode=noise,
            n_permutations=0,
            seed=seed,
            **run,
        )
        for layer, node in nodes_of(swept).items():
            accuracy[layer].append(float(swept["accuracy"] - node["accuracy_drop"][0]))
    return accuracy


def _node(curves: FloatArray, removed: IntArray, noise: list[float], scales: int) -> xr.Dataset:
    """Label curves (clamp, order, point); the last two orders are those by selectivity."""
    fraction = removed / removed[-1]
    random = curves[:, : -len(BY_SELECTIVITY)]
    node = xr.Dataset(
        {
            "removed": ("point", removed, {"units": "units"}),
            "fraction": ("point", fraction),
            "random_accuracy": (("clamp", "order", "point"), random),
            "random_auc": (("clamp", "order"), area(random, fraction)),
        }
    )
    for row, name in enumerate(BY_SELECTIVITY, start=-len(BY_SELECTIVITY)):
        node[f"{name}_accuracy"] = (("clamp", "point"), curves[:, row])
    if scales:
        node["noise_accuracy"] = ("noise_scale", np.asarray(noise))
    return node


def _areas(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Compare the areas by selectivity with those of random orders, (layer, clamp)."""
    random = [node["random_auc"].values for node in nodes.values()]
    found = xr.Dataset(
        {"random_auc_mean": (("layer", "clamp"), np.stack([each.mean(axis=1) for each in random]))},
        coords={"layer": np.asarray(list(nodes), dtype=object)},
    )
    for name in BY_SELECTIVITY:
        observed = np.stack(
            [area(n[f"{name}_accuracy"].values, n["fraction"].values) for n in nodes.values()]
        )
        tests = np.array(
            [
                [auc_test(float(x), among) for x, among in zip(*pair, strict=True)]
                for pair in zip(observed, random, strict=True)
            ]
        )
        found[f"{name}_auc"] = (("layer", "clamp"), observed)
        found[f"{name}_auc_percentile"] = (("layer", "clamp"), tests[:, :, 0])
        found[f"{name}_auc_p"] = (("layer", "clamp"), tests[:, :, 1])
        found[f"{name}_auc_q"] = (("layer", "clamp"), false_discovery_rate(tests[:, :, 1]))
    return found


def _of_network(node: xr.Dataset) -> xr.Dataset:
    """Return the curves of all layers together and their areas, with the prefix network_."""
    areas = _areas({"network": node}).isel(layer=0, drop=True)
    areas = areas.drop_vars([name for name in areas if str(name).endswith("_q")])
    found = node.merge(areas).rename_dims(point="network_point")
    return found.rename({name: f"network_{name}" for name in found.data_vars})
