"""Controls on the networks themselves: did selectivity only rotate, and does it matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

import unitprobe as up
from recipes.selectivity_regularization.architectures import build_network
from recipes.selectivity_regularization.gathering import over_cells
from recipes.selectivity_regularization.images import load_splits, to_inputs
from recipes.selectivity_regularization.runs import WEIGHTS
from unitprobe.compiled import run_in_threads
from unitprobe.errors import ContentsMismatchError, OptionError, StoreNotFoundError
from unitprobe.inference.upper_bound import SelectivityUpperBound, selectivity_upper_bound
from unitprobe.metrics import class_selectivity, linear_cka, pwcca

Responses = dict[str, npt.NDArray[np.float32]]

_BATCH_SIZE = 250
#: How far the selectivity of a rebuilt network may lie from what its run measured.
_TOLERANCE = 0.005


def chosen_alphas(runs: xr.Dataset) -> list[float]:
    """Return alpha 0, those nearest -1 and +1, and the strongest suppression, ascending.

    Raises
    ------
    OptionError
        No run is of alpha 0, which the others are compared with.
    """
    alphas = [float(alpha) for alpha in runs["alpha"].data]
    if 0.0 not in alphas:
        raise OptionError("the controls compare with alpha 0, and no run is of it; train one")
    wanted = {0.0, min(alphas)}
    for target in (-1.0, 1.0):
        side = [alpha for alpha in alphas if alpha * target > 0]
        wanted |= {min(side, key=lambda alpha: abs(alpha - target))} if side else set()
    return sorted(wanted)


def run_controls(
    runs: xr.Dataset,
    folder: Path,
    data: str | None = None,
    *,
    limit: int = 10000,
    ablation_layers: list[str] | None = None,
    ablation_limit: int = 1000,
    report: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Compare the networks of `chosen_alphas` with the plain one of the same seed.

    Parameters
    ----------
    runs : xarray.Dataset
        From `gathering.gather_runs`.
    folder : Path
        The folder that they were gathered from.
    data : str, optional
        Where the images are, if not where they were when the networks were trained.
    limit : int
        Test images for similarity and rotation, as many of each class as of any other.
    ablation_layers : list of str, optional
        Which layers are ablated; first, middle and last of those measured if None.
    ablation_limit : int
        Test images for the ablation, likewise.
    report : callable
        Told of each network.

    Returns
    -------
    xarray.Dataset
        Over (alpha, seed, layer): ``cka`` and ``pwcca`` to the plain network of the same seed;
        ``at_axes``, ``at_axes_null``, ``upper_bound``, ``upper_bound_null``, of
        `unitprobe.inference.upper_bound`. Over (layer): ``cka_between_plain`` and
        ``pwcca_between_plain``, the mean over pairs of plain networks of different seeds, NaN
        without two. Over (alpha, seed, ablated_layer), accuracies in 0..1: over the units of
        the layer, ``mean_drop`` (mean of the absolute drop of accuracy), ``max_drop``,
        ``mean_class_drop`` (mean of each unit's largest drop of a class). Attributes: ``stimuli``,
        ``ablation_stimuli``, ``plain_pairs``.

    Raises
    ------
    OptionError, ContentsMismatchError, StoreNotFoundError
        There is no plain network, the images are others, or a run's weights are missing or not
        those that it measured.
    """
    alphas = chosen_alphas(runs)
    config = runs.attrs["config"]
    splits = load_splits(data or config["data"], folder.parent / "cache", config["image_size"])
    if splits.fingerprint != config["data_fingerprint"]:
        raise ContentsMismatchError(
            f"the images of {data or config['data']!r} are not those that {folder} was trained "
            "on; give --data"
        )
    labels = splits.test.labels
    inputs = to_inputs(torch.from_numpy(splits.test.images), splits.mean, splits.std)
    seen, few = balanced(labels, limit), balanced(labels, ablation_limit)
    ablated = up.Stimuli(inputs[few], labels[few], splits.class_names, name="test")
    layers = [str(name) for name in runs["layer"].data]
    selection: Any = ablation_layers
    if selection is None:
        selection = _named([layers[0], layers[len(layers) // 2], layers[-1]])

    parts, cells = [], []
    plain: dict[int, Responses] = {}
    for seed in [int(seed) for seed in runs["seed"].data]:
        # Alpha 0 first: the others are compared with it.
        for alpha in sorted(alphas, key=abs):
            if not bool(runs["finished"].sel(alpha=alpha, seed=seed)):
                continue
            report(f"controls of alpha {alpha:g}, seed {seed}")
            run = runs.sel(alpha=alpha, seed=seed)
            module = rebuild(folder / str(run["place"].item()), runs)
            responses = _responses(module, layers, inputs[seen])
            if len(seen) == len(labels):
                _check(run, responses, labels)
            if alpha == 0.0:
                plain[seed] = responses
            cells.append((alpha, seed))
            parts.append(
                _similarity(responses, plain.get(seed))
                .merge(_rotation(responses, labels[seen]))
                .merge(_ablation(module, ablated, selection))
            )
    pairs = list(combinations(plain.values(), 2))
    return (
        over_cells(parts, cells)
        .merge(_between(pairs, layers))
        .assign_attrs(stimuli=len(seen), ablation_stimuli=len(few), plain_pairs=len(pairs))
    )


def rebuild(place: Path, runs: xr.Dataset) -> nn.Module:
    """Return the trained network of the run at `place`, in evaluation mode.

    Raises
    ------
    StoreNotFoundError
        Its weights are not there.
    """
    from safetensors.torch import load_file

    path = place / WEIGHTS
    if not path.exists():
        raise StoreNotFoundError(f"{path} is not there; the controls need the weights of every run")
    config = runs.attrs["config"]
    module = build_network(config["model"], runs.sizes["class_name"], config["image_size"])
    module.load_state_dict(load_file(path))
    return module


def balanced(labels: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Return the indices of the first stimuli of each class, as many of every class.

    Examples
    --------
    >>> balanced(np.array([0, 0, 0, 1, 0, 1, 1]), limit=4)
    array([0, 1, 3, 5])
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[rank < max(2, limit // len(counts))])


def _named(names: list[str]) -> Callable[[up.Layer], bool]:
    """Select by exact name: in a selection a name could be a glob."""
    return lambda layer: layer.name in names


def _responses(module: nn.Module, layers: list[str], inputs: Tensor) -> Responses:
    gathered: dict[str, list[Any]] = {name: [] for name in layers}
    with up.Probe(module, layers=_named(layers)) as probe:
        for batch in torch.split(inputs, _BATCH_SIZE):
            for name, response in probe(batch).items():
                gathered[name].append(response.numpy())
    return {name: np.concatenate(parts) for name, parts in gathered.items()}


def _check(run: xr.Dataset, responses: Responses, labels: npt.NDArray[np.int64]) -> None:
    for name, response in responses.items():
        values = class_selectivity(response, labels)
        measured = float(run["class_selectivity"].sel(layer=name))
        now = float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
        if abs(now - measured) > _TOLERANCE:
            raise ContentsMismatchError(
                f"the weights of alpha {float(run['alpha']):g}, seed {int(run['seed'])} give layer "
                f"{name!r} a selectivity of {now:.4f}, its run measured {measured:.4f}: they are "
                "not the weights of that run"
            )


def _by_layer(values: dict[str, list[float]], layers: list[str]) -> xr.Dataset:
    return xr.Dataset(
        {name: ("layer", column) for name, column in values.items()}, coords={"layer": layers}
    )


def _similarity(responses: Responses, plain: Responses | None) -> xr.Dataset:
    pairs = [] if plain is None else [(plain[name], responses[name]) for name in responses]
    return _by_layer(_alike(pairs, len(responses)), list(responses))


def _alike(pairs: list[tuple[Any, Any]], layers: int) -> dict[str, list[float]]:
    """Return both similarities of the plain and the other responses of each layer."""
    unknown = [math.nan] * layers
    return {
        "cka": [float(linear_cka(*pair)) for pair in pairs] or unknown,
        "pwcca": [float(pwcca(*pair)) for pair in pairs] or unknown,
    }


def _rotation(responses: Responses, labels: npt.NDArray[np.int64]) -> xr.Dataset:
    bounds: dict[str, SelectivityUpperBound] = {}

    def search(layer: str) -> None:
        bounds[layer] = selectivity_upper_bound(responses[layer], labels, restarts=1, seed=0)

    # The widest first, so that no thread is left with one at the end.
    run_in_threads(search, sorted(responses, key=lambda layer: -responses[layer].shape[1]))
    found = [bounds[layer] for layer in responses]
    values = {
        "at_axes": [each.at_axes for each in found],
        "at_axes_null": [each.at_axes_null for each in found],
        "upper_bound": [each.value for each in found],
        "upper_bound_null": [each.value_null for each in found],
    }
    return _by_layer(values, list(responses))


def _ablation(module: nn.Module, stimuli: up.Stimuli, layers: Any) -> xr.Dataset:
    nodes = up.ablate(module, stimuli, layers=layers, batch_size=_BATCH_SIZE).children
    columns = {
        "mean_drop": [float(abs(node["accuracy_drop"]).mean()) for node in nodes.values()],
        "max_drop": [float(node["accuracy_drop"].max()) for node in nodes.values()],
        "mean_class_drop": [float(n["max_class_accuracy_drop"].mean()) for n in nodes.values()],
    }
    return xr.Dataset(
        {name: ("ablated_layer", column) for name, column in columns.items()},
        coords={"ablated_layer": list(nodes)},
    )


def _between(pairs: list[tuple[Responses, Responses]], layers: list[str]) -> xr.Dataset:
    values: dict[str, Any] = {"cka_between_plain": [], "pwcca_between_plain": []}
    each = [_alike([(a[name], b[name]) for name in layers], len(layers)) for a, b in pairs]
    for name in ("cka", "pwcca"):
        rows = [pair[name] for pair in each] or [[math.nan] * len(layers)]
        values[f"{name}_between_plain"] = np.mean(rows, axis=0)
    return _by_layer(values, layers)
