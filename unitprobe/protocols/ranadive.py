"""Whether selective units matter over training; after Ranadive, Thakurdesai et al. 2023."""

from __future__ import annotations

import copy
import os
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeAlias, Unpack

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from unitprobe.ablation import Mode, ablate
from unitprobe.errors import OptionError
from unitprobe.inference import false_discovery_rate
from unitprobe.layers import Selection
from unitprobe.metrics import SignPolicy
from unitprobe.models import Network, as_network
from unitprobe.models.weights_file import load_weights
from unitprobe.protocols.common import RunOptions, assemble, check_count, exactly, nodes_of
from unitprobe.protocols.unit_measures import measure_units
from unitprobe.stimuli import Stimuli
from unitprobe.typing import FloatArray, IntArray

#: A network, or a file of weights for another network.
Checkpoint: TypeAlias = Network | nn.Module | str | os.PathLike[str]
#: Checkpoints with their labels.
Checkpoints: TypeAlias = (
    Mapping[int, Checkpoint] | Mapping[str, Checkpoint] | Iterable[tuple[int | str, Checkpoint]]
)

#: With `matched`, units are drawn within strata of about this many units of like activity.
_STRATUM = 8


def ranadive_protocol(
    checkpoints: Checkpoints,
    stimuli: Stimuli,
    *,
    model: Network | nn.Module | None = None,
    layers: Selection = "activations",
    share: float = 0.1,
    n_random: int = 200,
    matched: bool = False,
    mode: Mode = "zero",
    signed: SignPolicy = "refuse",
    seed: int = 0,
    **run: Unpack[RunOptions],
) -> xr.DataTree:
    """Ablate the most selective units of each layer, and random ones, at every checkpoint.

    Parameters
    ----------
    checkpoints : mapping, or iterable of pairs
        From the epoch, or another label, to the network or a file of its weights.
    stimuli, layers, mode
        As `unitprobe.ablate`.
    model : Network or nn.Module, optional
        The network that files of weights belong to. It is left unchanged.
    share : float
        Share of the units of a layer that are ablated together, above 0 and below 1. It is
        rounded to one unit or more.
    n_random : int
        Sets of random units, as large, that are ablated for comparison.
    matched : bool
        Match the random units in activity. The units of a layer are divided into strata of about
        eight units of like mean response, and a random set has as many units of each stratum as the
        selective set, which may be among them. Else any units of the layer.
    signed : {"refuse", "rectify", "allow"}
        How class selectivity treats negative responses.
    seed : int
        Seed of the random sets.
    **run
        ``batch_size``, ``device``, ``method``, ``memory``, ``workers``, ``progress`` and ``keep``,
        as `unitprobe.ablate`.

    Returns
    -------
    xarray.DataTree
        At the root ``accuracy`` (checkpoint), 0..1, and over (layer, checkpoint):
        ``class_selectivity_mean``, over units that have one; ``selective_accuracy_drop``;
        ``random_accuracy_drop_mean``; ``difference``, the former drop minus the latter; its
        two-sided ``difference_p``, and ``difference_q`` over layers and checkpoints.

        By layer ``class_selectivity`` and ``activity`` (checkpoint, unit); ``selective``
        (checkpoint, unit), whether the unit is one of the most selective;
        ``selective_accuracy_drop`` (checkpoint) and ``random_accuracy_drop`` (checkpoint,
        random_set), intact minus ablated.

    Raises
    ------
    OptionError
        A number is out of range, there is no checkpoint, two have one label, or a file of weights
        is given without a network. With `matched`, every stratum is selective as a whole or not at
        all.
    WeightsError
        A file does not fit the network.
    ResponseError
        Responses are negative and refused.
    LabelError, LayerError, LayerNotFoundError, ModelError
        As `unitprobe.ablate`.

    Notes
    -----
    After "On the special role of class-selective neurons in early training" (arXiv:2305.17409),
    section 4. Units without a selectivity count as the least selective.
    p = min(1, 2 (1 + m) / (1 + n_random)), where m counts the random sets that cost at least, or at
    most, as much, whichever are fewer. The lowest p is 2 / (1 + n_random), below 0.01 with 200.
    The selective set is exchangeable with the random ones if selectivity does not matter (with
    `matched`: among units of like activity), so p <= 0.05 in at most 5% of such layers.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.protocols import ranadive_protocol
    >>> def network():
    ...     return torch.nn.Sequential(
    ...         torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    ...     )
    >>> stimuli = up.load_stimuli("digits", limit=100)
    >>> tree = ranadive_protocol({0: network(), 5: network()}, stimuli, share=0.25, n_random=3)
    >>> tree["difference"].sizes, int(tree["2"]["selective"].sum("unit")[0])
    (Frozen({'layer': 1, 'checkpoint': 2}), 2)
    """
    check_count("n_random", n_random, 1)
    if not 0 < share < 1:
        raise OptionError(f"share={share} must be above 0 and below 1; give 0.1")
    pairs = _pairs(checkpoints)
    found: dict[str, list[xr.Dataset]] = {}
    accuracy: list[float] = []
    first: xr.DataTree | None = None
    names: list[str] = []
    for _, checkpoint in pairs:
        network = _network(checkpoint, model)
        names.append(network.fingerprint)
        measured = measure_units(network, stimuli, layers=layers, signed=signed, run=run)
        rows = {
            layer: _sets(layer, node, share, n_random, matched, seed + index)
            for index, (layer, node) in enumerate(measured.layers.items())
        }
        groups = {layer: chosen.tolist() for layer, chosen in rows.items()}
        swept = ablate(
            network,
            stimuli,
            layers=exactly(rows),
            groups=groups,
            mode=mode,
            n_permutations=0,
            seed=seed,
            **run,
        )
        if found and list(found) != list(rows):
            raise OptionError(
                f"checkpoint {pairs[len(accuracy)][0]!r} has other layers than {pairs[0][0]!r}; "
                "give checkpoints of one network"
            )
        for layer, ablated in nodes_of(swept).items():
            of_checkpoint = _node(
                measured.layers[layer], rows[layer][0], ablated["accuracy_drop"].values
            )
            found.setdefault(layer, []).append(of_checkpoint)
        accuracy.append(float(swept["accuracy"]))
        first = swept if first is None else first
    assert first is not None
    nodes = {layer: xr.concat(each, "checkpoint") for layer, each in found.items()}
    labels = [label for label, _ in pairs]
    numbers = all(isinstance(label, int) for label in labels)
    root = _summary(nodes).assign_coords(
        checkpoint=np.asarray(labels, dtype=np.int64 if numbers else object)
    )
    root["accuracy"] = ("checkpoint", accuracy)
    root["weights_fingerprint"] = ("checkpoint", np.asarray(names, dtype=object))
    # Each checkpoint has its own fingerprint.
    attributes = {n: v for n, v in first.attrs.items() if n != "weights_fingerprint"}
    intact = xr.DataTree(
        xr.Dataset(coords={"class_name": first.coords["class_name"]}, attrs=attributes)
    )
    return assemble(
        intact,
        root,
        nodes,
        "ranadive",
        share=share,
        matched=int(matched),
        n_random=n_random,
        seed=seed,
    )


def summarize_ranadive(root: xr.Dataset) -> pd.DataFrame:
    """Return one row per checkpoint, with means over layers."""
    columns = {
        "class_selectivity_mean": "class_selectivity",
        "selective_accuracy_drop": "selective_drop",
        "random_accuracy_drop_mean": "random_drop",
        "difference": "difference",
    }
    table = root[list(columns)].rename(columns).mean("layer")
    table["accuracy"] = root["accuracy"]
    table["layers_q<0.05"] = (root["difference_q"] < 0.05).sum("layer")
    order = ["accuracy", *columns.values(), "layers_q<0.05"]
    return table[order].to_dataframe().reset_index()


def most_selective(selectivity: FloatArray, count: int) -> IntArray:
    """Return the most selective units; those without a selectivity come last.

    Examples
    --------
    >>> most_selective(np.array([0.2, np.nan, 0.9]), 2)
    array([2, 0])
    """
    known = np.where(np.isnan(selectivity), -np.inf, selectivity)
    return np.argsort(-known, kind="stable")[:count]


def random_sets(units: int, count: int, sets: int, rng: np.random.Generator) -> IntArray:
    """Return sets of random units, (random_set, index)."""
    return np.stack([rng.permutation(units)[:count] for _ in range(sets)])


def matched_sets(
    chosen: IntArray, activity: FloatArray, sets: int, rng: np.random.Generator
) -> IntArray:
    """Return sets of units that are as active as the chosen ones, (random_set, index).

    The units are divided into strata of about eight of like activity. From each stratum, a set has
    as many random units as are chosen there. The strata do not depend on which units are chosen, so
    that the chosen set is one of the sets that could be drawn, and no more likely than another.

    Examples
    --------
    >>> activity = np.arange(16.0)
    >>> sets = matched_sets(np.array([0, 1, 15]), activity, 100, np.random.default_rng(0))
    >>> bool(((sets < 8).sum(axis=1) == 2).all()), len(np.unique(sets))
    (True, 16)
    """
    strata = np.array_split(
        np.argsort(activity, kind="stable"), max(1, round(len(activity) / _STRATUM))
    )
    counts = [int(np.isin(stratum, chosen).sum()) for stratum in strata]
    rows = [
        np.concatenate(
            [rng.permutation(part)[:count] for part, count in zip(strata, counts, strict=True)]
        )
        for _ in range(sets)
    ]
    return np.stack(rows)


def _pairs(checkpoints: Checkpoints) -> list[tuple[int | str, Checkpoint]]:
    pairs: list[tuple[int | str, Checkpoint]] = [
        *(checkpoints.items() if isinstance(checkpoints, Mapping) else checkpoints)
    ]
    if not pairs:
        raise OptionError("checkpoints is empty; give one or more")
    labels: list[Hashable] = [label for label, _ in pairs]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise OptionError(f"two checkpoints are labelled {twice!r}; give each its own label")
    return pairs


def _network(checkpoint: Checkpoint, model: Network | nn.Module | None) -> Network:
    if isinstance(checkpoint, (Network, nn.Module)):
        return as_network(checkpoint)
    if model is None:
        raise OptionError(
            f"checkpoint {os.fspath(checkpoint)} is a file of weights; give its network with model="
        )
    network = copy.copy(as_network(model))
    network.module = copy.deepcopy(network.module)
    load_weights(network.module, Path(checkpoint), network.name)
    return network


def _sets(
    layer: str, node: xr.Dataset, share: float, n_random: int, matched: bool, seed: int
) -> IntArray:
    """Return the sets to ablate, (set, index): the most selective units, then random ones."""
    units = node.sizes["unit"]
    count = max(1, round(share * units))
    chosen = most_selective(node["class_selectivity"].values, count)
    rng = np.random.default_rng(seed)
    if not matched:
        return np.concatenate([chosen[None], random_sets(units, count, n_random, rng)])
    others = matched_sets(chosen, node["activity"].values, n_random, rng)
    if (np.sort(others, axis=1) == np.sort(chosen)).all():
        raise OptionError(
            f"share={share} of the {units} units of layer {layer!r} leaves no other units of like "
            "activity; give another share, or matched=False"
        )
    return np.concatenate([chosen[None], others])


def _node(measured: xr.Dataset, chosen: IntArray, drops: FloatArray) -> xr.Dataset:
    node = measured[["class_selectivity", "activity"]]
    selective = np.isin(np.arange(node.sizes["unit"]), chosen)
    return node.assign(
        selective=("unit", selective),
        selective_accuracy_drop=((), drops[0]),
        random_accuracy_drop=("random_set", drops[1:]),
    )


def _summary(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    dims = ("layer", "checkpoint")
    selective = np.stack([n["selective_accuracy_drop"].values for n in nodes.values()])
    random = np.stack([n["random_accuracy_drop"].values for n in nodes.values()])
    # Equal drops may differ by rounding.
    below = (random <= selective[..., None] + 1e-12).sum(-1)
    above = (random >= selective[..., None] - 1e-12).sum(-1)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (1 + random.shape[-1]))
    selectivity = np.stack([n["class_selectivity"].mean("unit").values for n in nodes.values()])
    return xr.Dataset(
        {
            "class_selectivity_mean": (dims, selectivity),
            "selective_accuracy_drop": (dims, selective),
            "random_accuracy_drop_mean": (dims, random.mean(-1)),
            "difference": (dims, selective - random.mean(-1)),
            "difference_p": (dims, p),
            "difference_q": (dims, false_discovery_rate(p)),
        },
        coords={"layer": np.asarray(list(nodes), dtype=object)},
    )
