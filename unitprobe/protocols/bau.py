"""Which units a class depends on; after Bau, Zhu, Strobelt, Lapedriza, Zhou & Torralba 2020."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from unitprobe.ablation import Mode, ablate
from unitprobe.errors import LabelError, OptionError, nearest
from unitprobe.inference import false_discovery_rate
from unitprobe.layers import Selection
from unitprobe.models import Network
from unitprobe.protocols.common import RunOptions, assemble, check_count, exactly, nodes_of, table
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray, IntArray

#: The numbers of units that the paper removes, and larger ones for larger layers.
SIZES = (1, 2, 3, 4, 5, 20, 50, 100, 200)
#: The largest number in the summary.
_SUMMARIZED_SIZE = 20


def bau_protocol(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    classes: Sequence[str] | None = None,
    sizes: Sequence[int] = SIZES,
    n_random: int = 10,
    mode: Mode = "zero",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> xr.DataTree:
    """Remove the units that matter most to a class, or all others, and measure who is recognized.

    Parameters
    ----------
    model, stimuli, layers, mode
        As `unitprobe.ablate`. Each class needs two stimuli or more.
    classes : sequence of str, optional
        The target classes, whose units are removed; all if None.
    sizes : sequence of int
        Numbers of units that are removed, or kept. A layer skips those it has no more units than.
    n_random : int
        Sets of random units, of every size, that are removed and kept for comparison.
    seed : int
        Seed of the halves of the stimuli and of the random sets.
    **run
        ``batch_size``, ``device``, ``method``, ``memory``, ``workers``, ``progress`` and ``keep``,
        as `unitprobe.ablate`.

    Returns
    -------
    xarray.DataTree
        Units are ranked on one half of the stimuli of each class, and all accuracies are measured
        on the other half. All are **balanced accuracies** of the decision between one class and
        the rest, 0..1, chance level 0.5. At the root ``balanced_accuracy`` (class_name) of the
        intact network.

        By layer, over (target_class, size): ``removed`` without the `size` most important units
        of the class and ``kept`` with these alone; ``removed_others`` and ``kept_others``, the
        mean over the other classes. Over (random_set, target_class, size) the same names with
        the prefix ``random_``, for random units. NaN if the layer has no more than `size` units.
        ``ranked_units`` (target_class, rank) are the units, most important first, and
        ``balanced_accuracy_drop`` (unit, class_name) what they are ranked by.

        At the root (layer, size), means over target classes: ``removed_mean``,
        ``random_removed_mean``, ``removed_others_mean``, ``kept_mean`` and ``random_kept_mean``;
        ``removed_p``, the one-sided probability of a mean this low when random units are removed,
        with ``removed_q`` over layers and sizes.

    Raises
    ------
    LabelError
        A class has only one stimulus, or is unknown.
    OptionError
        A number is out of range, or no layer has more units than the smallest of `sizes`.
    LayerError, LayerNotFoundError, ModelError
        As `unitprobe.ablate`.

    Notes
    -----
    After "Understanding the role of individual units in a deep neural network" (PNAS 2020,
    arXiv:2009.05041), the section on units of a classifier, and its supplement; there, units are
    ranked on training images and measured on validation images. Balanced accuracy is (recall +
    share of other stimuli not classified as the class) / 2. Units of equal drop are ranked by
    number. p = (1 + #{random means <= observed}) / (1 + n_random).

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import bau_protocol
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ... )
    >>> tree = bau_protocol(network, up.load_stimuli("digits", limit=100), n_random=3)
    >>> tree["size"].values, tree["2"]["removed"].sizes
    (array([1, 2, 3, 4, 5]), Frozen({'target_class': 10, 'size': 5}))
    """
    check_count("n_random", n_random, 1)
    if not sizes or min(sizes) < 1:
        raise OptionError(f"sizes={tuple(sizes)} must be numbers of units, each 1 or more")
    targets = _target_classes(stimuli, classes)
    ranking, measuring = stratified_halves(stimuli.labels, seed)
    singles = ablate(
        model, stimuli.select(ranking), layers=layers, mode=mode, n_permutations=0, seed=seed, **run
    )
    units = {layer: node.sizes["unit"] for layer, node in singles.children.items()}
    common = np.array(sorted({size for size in sizes if size < max(units.values())}))
    if not common.size:
        raise OptionError(
            f"sizes={tuple(sizes)} must include a number below the {max(units.values())} units of "
            "the largest layer"
        )
    drops = {layer: node["balanced_accuracy_drop"] for layer, node in nodes_of(singles).items()}
    ranked = {
        layer: np.argsort(-drop.values.T, axis=1, kind="stable") for layer, drop in drops.items()
    }
    random = {
        layer: random_orders(count, n_random, seed + index)
        for index, (layer, count) in enumerate(units.items())
    }
    orders = {layer: np.concatenate([ranked[layer][targets], random[layer]]) for layer in units}
    groups = {layer: _groups(orders[layer], common) for layer in units}
    swept = ablate(
        model,
        stimuli.select(measuring),
        layers=exactly(units),
        groups=groups,
        mode=mode,
        n_permutations=0,
        seed=seed,
        **run,
    )
    intact = swept["balanced_accuracy"].values
    nodes = {}
    for layer, ablated in nodes_of(swept).items():
        balanced = intact - ablated["balanced_accuracy_drop"].values
        nodes[layer] = _node(_by_order(balanced, len(orders[layer]), units[layer], common), targets)
        nodes[layer]["ranked_units"] = (("target_class", "rank"), ranked[layer][targets])
        nodes[layer]["balanced_accuracy_drop"] = drops[layer]
    names = np.asarray(stimuli.class_names, dtype=object)
    root = _means(nodes).assign_coords(size=common, target_class=names[targets])
    return assemble(
        swept, root, nodes, "bau", n_random=n_random, seed=seed, ranking_stimuli=len(ranking)
    )


def summarize_bau(root: xr.Dataset) -> pd.DataFrame:
    """Return one row per layer: removing 20 units, or the largest number up to it."""
    columns = {
        "removed_mean": "removed",
        "random_removed_mean": "random_removed",
        "removed_others_mean": "others",
        "kept_mean": "kept",
        "random_kept_mean": "random_kept",
        "removed_p": "p",
        "removed_q": "q",
    }
    by_layer = table(root, columns)
    measured = by_layer[by_layer["removed"].notna()]
    small = measured[measured["size"] <= _SUMMARIZED_SIZE]
    shown = measured if small.empty else small
    return shown.groupby("layer", sort=False).tail(1).reset_index(drop=True)


def stratified_halves(labels: IntArray, seed: int) -> tuple[IntArray, IntArray]:
    """Return the indices of one half of the stimuli of each class, and of the other half.

    The second half has one more if their number is odd.

    Raises
    ------
    LabelError
        A class has only one stimulus.

    Examples
    --------
    >>> first, second = stratified_halves(np.array([0, 0, 1, 1, 1]), seed=0)
    >>> len(first), len(second), sorted([*first.tolist(), *second.tolist()])
    (2, 3, [0, 1, 2, 3, 4])
    """
    rng = np.random.default_rng(seed)
    first = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise LabelError(
                f"class {label} has only one stimulus; give two or more, to rank units on one half "
                "and measure on the other"
            )
        first[rng.permutation(members)[: len(members) // 2]] = True
    return np.flatnonzero(first), np.flatnonzero(~first)


def random_orders(units: int, count: int, seed: int) -> IntArray:
    """Return random orders (random_set, unit).

    Examples
    --------
    >>> random_orders(4, 2, seed=0).shape
    (2, 4)
    """
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(units) for _ in range(count)])


def _target_classes(stimuli: Stimuli, classes: Sequence[str] | None) -> IntArray:
    names = stimuli.class_names
    if classes is None:
        return np.arange(len(names))
    for name in classes:
        if name not in names:
            near = ", ".join(map(repr, nearest(name, names)))
            raise LabelError(f"the stimuli have no class {name!r}; the nearest are {near}")
    if not classes or len(set(classes)) < len(classes):
        raise OptionError(f"classes={tuple(classes)} must name one class or more, each once")
    return np.array([names.index(name) for name in classes])


def _groups(orders: IntArray, sizes: IntArray) -> list[list[int]]:
    """Return the groups to ablate: by order and size, the first units, then all others."""
    groups = []
    for order in orders.tolist():
        for size in sizes[sizes < len(order)]:
            groups += [order[:size], order[size:]]
    return groups


def _by_order(balanced: FloatArray, orders: int, units: int, sizes: IntArray) -> FloatArray:
    """Reshape the balanced accuracy of each of `_groups` to (kept, order, size, class_name)."""
    fitting = int((sizes < units).sum())
    classes = balanced.shape[1]
    found = np.full((2, orders, len(sizes), classes), np.nan)
    if fitting:
        by_group = balanced.reshape(orders, fitting, 2, classes)
        found[:, :, :fitting] = np.moveaxis(by_group, 2, 0)
    return found


def _node(balanced: FloatArray, targets: IntArray) -> xr.Dataset:
    """Label balanced accuracies (kept, order, size, class_name), orders of the targets first."""
    others = (balanced.sum(axis=-1, keepdims=True) - balanced) / (balanced.shape[-1] - 1)
    node = xr.Dataset()
    for name, kept in (("removed", 0), ("kept", 1)):
        for suffix, values in (("", balanced[kept]), ("_others", others[kept])):
            own = np.stack([values[row, :, label] for row, label in enumerate(targets)])
            node[f"{name}{suffix}"] = (("target_class", "size"), own)
            by_chance = np.moveaxis(values[len(targets) :][..., targets], -1, 1)
            dims = ("random_set", "target_class", "size")
            node[f"random_{name}{suffix}"] = (dims, by_chance)
    return node


def _means(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return means over target classes, (layer, size), and their p-values."""
    means = {
        f"{name}_mean": np.stack(
            [
                node[name].mean([d for d in node[name].dims if d != "size"])
                for node in nodes.values()
            ]
        )
        for name in (
            *("removed", "removed_others", "kept", "kept_others"),
            *("random_removed", "random_removed_others", "random_kept", "random_kept_others"),
        )
    }
    random = np.stack([node["random_removed"].mean("target_class") for node in nodes.values()])
    observed = means["removed_mean"][:, None]
    # Sums of the same numbers in another order differ in the last digit.
    reached = (random <= observed + 1e-12).sum(axis=1)
    p = np.where(np.isnan(observed[:, 0]), np.nan, (1 + reached) / (1 + random.shape[1]))
    columns = {**means, "removed_p": p, "removed_q": false_discovery_rate(p)}
    return xr.Dataset(
        {name: (("layer", "size"), values) for name, values in columns.items()},
        coords={"layer": np.asarray(list(nodes), dtype=object)},
    )
