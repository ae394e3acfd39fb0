"""Where the responses of an analysis come from: a recording, or one pass through a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from unitprobe import metrics as m
from unitprobe.analysis.measured import LayerOfResponses, MeasuredLayer, refuse_negative
from unitprobe.analysis.one_pass import OnePass
from unitprobe.analysis.resampled_measures import ResampledMeasures, draw_resamples
from unitprobe.analysis.running_sums import LayerOfSums, has_resampled_sums, has_running_sums
from unitprobe.batches import prepare
from unitprobe.errors import LabelError, OptionError, ResponseError, StoreError, UnitprobeWarning
from unitprobe.errors import nearest as nearest_names
from unitprobe.layers import Selection
from unitprobe.metrics.registry import MEASURES, default_metrics
from unitprobe.models import Network, describe_transform
from unitprobe.online import gather_across_ranks
from unitprobe.probe import Probe
from unitprobe.responses import check_finite
from unitprobe.stimuli import Stimuli
from unitprobe.store import content_of, format_size, parse_size
from unitprobe.typing import Array, IntArray

_ATTRIBUTES = (
    "network",
    "weights_fingerprint",
    "preprocessing",
    "pool",
    "rectify",
    "stimuli",
    "stimuli_fingerprint",
    "torch_version",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which measures an analysis has, and how they are computed: see `unitprobe.analyze`."""

    metrics: Sequence[str] | None
    n_permutations: int
    n_bootstrap: int
    seed: int
    signed: m.AutoSignPolicy

    @property
    def leaves_out_negative(self) -> bool:
        """Whether negative responses make the measures that assume non-negative input NaN."""
        return self.signed == "auto" and self.metrics is None

    @property
    def policy(self) -> m.SignPolicy:
        """How a measure that assumes non-negative input treats negative responses."""
        if self.signed != "auto":
            return self.signed
        return "allow" if self.leaves_out_negative else "refuse"

    def refusing(self, stimuli: int) -> str:
        """Return the first measure that raises an error for negative responses, or nothing."""
        names = self.names(stimuli) if self.policy == "refuse" else []
        return next((name for name in names if MEASURES[name].assumes_non_negative), "")

    def names(self, stimuli: int) -> list[str]:
        """Return the names of the measures; if none are named, all that so many stimuli allow."""
        return default_metrics(stimuli) if self.metrics is None else list(self.metrics)

    def null_names(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that get a null: all that are named, else the quick ones."""
        asked = self.metrics is not None
        some = [name for name in names if MEASURES[name].kind == "class" and self.n_permutations]
        return [name for name in some if asked or MEASURES[name].null_by_default]

    def interval_names(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that get an interval: all that are named, else the quick ones."""
        asked = self.metrics is not None
        some = [name for name in names if MEASURES[name].kind == "class" and self.n_bootstrap]
        return [name for name in some if asked or MEASURES[name].interval_by_default]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled stimuli, and the layers whose units responded to them.

    Attributes
    ----------
    stimulus, label, class_name
        The coordinates of the stimuli.
    counts : mapping
        By layer, how many stimuli of each class (class_name,) reached it.
    open_layer : callable
        From the name of a layer, its statistics.
    attributes : mapping
        Attributes of the result: where the responses come from.
    example : Tensor, optional
        Stimuli as the network takes them, for the norms of its weights.
    left_out : sequence of str
        Measures that need all responses where these do not fit in memory.
    """

    stimulus: Any
    label: IntArray
    class_name: Any
    counts: Mapping[str, IntArray]
    open_layer: Callable[[str], MeasuredLayer]
    attributes: Mapping[str, Any]
    example: torch.Tensor | None = None
    left_out: Sequence[str] = field(default=())


def open_recording(tree: xr.DataTree, request: Request) -> Source:
    """Return a recording as the source of an analysis.

    Raises
    ------
    StoreError
        The tree is not a recording, or has no layer.
    LabelError
        The stimuli are of fewer than two classes.
    """
    if content_of(tree) != "recording":
        raise StoreError(
            "analyze takes a recording, its path, or a network with stimuli; this tree holds: "
            f"{content_of(tree)}"
        )
    layers = [name for name, node in tree.children.items() if _array_name(node)]
    if not layers:
        raise StoreError("the recording has no layer; record it again")
    stimuli = tree.to_dataset()
    labels = stimuli["label"].to_numpy().astype(np.int64)
    ids, classes = stimuli["stimulus"].to_numpy(), stimuli.sizes["class_name"]
    check_classes(labels)
    reached = {layer: _reached(tree, layer) for layer in layers}

    def open_layer(layer: str) -> MeasuredLayer:
        here = reached[layer]
        responses = read_responses(tree, layer)[here]
        check_finite(responses, layer, ids[here])
        return LayerOfResponses(
            layer,
            responses,
            labels[here],
            reached=here,
            units=tree[layer]["unit"].values,
            class_count=classes,
            signed=request.policy,
        )

    return Source(
        stimulus=stimuli["stimulus"],
        label=labels,
        class_name=stimuli["class_name"],
        counts={layer: np.bincount(labels[reached[layer]], minlength=classes) for layer in layers},
        open_layer=open_layer,
        attributes={key: tree.attrs[key] for key in _ATTRIBUTES if key in tree.attrs},
    )


def run_network(
    model: Network | nn.Module,
    stimuli: Stimuli,
    request: Request,
    *,
    memory: int | str,
    layers: Selection,
    pool: str,
    rectify: bool,
    batch_size: int,
    device: str | torch.device | None,
    workers: int,
    progress: bool,
) -> Source:
    """Return a network and stimuli as the source of an analysis, after one pass.

    All responses are kept if they fit in `memory`. If they do not, running sums are kept, and
    measures that need all responses are left out.

    Raises
    ------
    OptionError
        A measure that was asked for by name, the sign policy or the number of resamples needs more
        memory; or positions are kept.
    LabelError
        The stimuli are of fewer than two classes.
    ResponseError
        Responses are NaN or infinite, or negative and refused.
    """
    most = parse_size(memory, option="memory")
    if pool in ("none", None):
        raise OptionError(
            f"pool={pool!r} keeps positions, over which an analysis averages; choose 'mean'"
        )
    with (
        prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images),
        Probe(network, layers, pool, rectify=rectify) as probe,
    ):
        check_classes(images.labels)
        run = OnePass(probe, images, batch_size=batch_size, workers=workers, most_bytes=most)
        refusing = request.refusing(len(images))
        if refusing:
            # In a probe of its own, whose warnings the pass repeats: the other one counts the
            # stimuli that reach each layer.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnitprobeWarning)
                with Probe(network, layers, pool, rectify=rectify) as first:
                    responses = first(run.example)
            for layer, values in responses.items():
                refuse_negative(layer, refusing, values.cpu().numpy())
        keep = _keep_responses if run.nbytes <= most else _keep_sums
        kept = keep(run, images, request, memory=memory, progress=progress)
        attributes: dict[str, Any] = {
            "network": network.name,
            "weights_fingerprint": network.fingerprint,
            "preprocessing": describe_transform(images.transform),
            "pool": pool,
            "rectify": "before pooling" if rectify else "no",
            "stimuli": images.name,
            "absent_classes": len(images.absent_classes),
            "stimuli_fingerprint": images.fingerprint,
            "torch_version": str(torch.__version__),
        }
        if kept.left_out:
            attributes |= {
                "needs_recording": ", ".join(kept.left_out),
                "recording_bytes": run.nbytes,
            }
        return Source(
            stimulus=images.ids,
            label=images.labels,
            class_name=np.asarray(images.class_names, dtype=object),
            counts=kept.counts,
            open_layer=kept.open_layer,
            attributes=attributes,
            example=run.example,
            left_out=kept.left_out,
        )


@dataclass(frozen=True)
class _Kept:
    """What a pass has kept: see `Source`."""

    counts: Mapping[str, IntArray]
    open_layer: Callable[[str], MeasuredLayer]
    left_out: Sequence[str] = ()


def _keep_responses(
    run: OnePass, stimuli: Stimuli, request: Request, *, memory: int | str, progress: bool
) -> _Kept:
    parts: dict[str, list[tuple[IntArray, Array]]] = {layer: [] for layer in run.responses}
    refusing = request.refusing(len(stimuli))
    for chunk in run.chunks(progress=progress):
        for layer, (indices, responses) in chunk.layers.items():
            here = responses.cpu().numpy()
            if refusing:
                refuse_negative(layer, refusing, here)
            parts[layer].append((indices, here))
    parts = {
        layer: [part for of_rank in gather_across_ranks(own) for part in of_rank]
        for layer, own in parts.items()
    }
    classes = len(stimuli.class_names)
    reached = {
        layer: np.concatenate([np.empty(0, np.int64), *(indices for indices, _ in own)])
        for layer, own in parts.items()
    }

    def open_layer(layer: str) -> MeasuredLayer:
        responses = np.concatenate([part for _, part in parts.pop(layer)])
        return LayerOfResponses(
            layer,
            responses,
            stimuli.labels[reached[layer]],
            reached=reached[layer],
            units=np.arange(responses.shape[1]),
            class_count=classes,
            signed=request.policy,
        )

    return _Kept(
        {
            layer: np.bincount(stimuli.labels[here], minlength=classes)
            for layer, here in reached.items()
        },
        open_layer,
    )


def _keep_sums(
    run: OnePass, stimuli: Stimuli, request: Request, *, memory: int | str, progress: bool
) -> _Kept:
    wanted = request.names(len(stimuli))
    names = [name for name in wanted if has_running_sums(name)]
    left_out = [name for name in wanted if name not in names]
    drawn = dict.fromkeys([*request.null_names(names), *request.interval_names(names)])
    _check_sums(run, request, [*left_out, *(n for n in drawn if not has_resampled_sums(n))], memory)
    counts = np.bincount(stimuli.labels, minlength=len(stimuli.class_names))
    resamples = draw_resamples(
        stimuli.labels,
        counts,
        sum(response.shape[1] for response in run.responses.values()),
        request.null_names(names),
        request.interval_names(names),
        n_permutations=request.n_permutations,
        n_bootstrap=request.n_bootstrap,
        seed=request.seed,
    )
    drawn_for = {"permutations": list(drawn), "redraws": request.interval_names(names)}
    sums = {
        layer: LayerOfSums(
            names,
            len(counts),
            request.policy,
            {
                kind: ResampledMeasures(drawn_for[kind], some, response[0])
                for kind, some in resamples.items()
            },
        )
        for layer, response in run.responses.items()
    }
    for chunk in run.chunks(progress=progress):
        membership = {kind: some.membership(chunk.indices) for kind, some in resamples.items()}
        for layer, (indices, responses) in chunk.layers.items():
            if membership and len(indices) < len(chunk.indices):
                raise ResponseError(
                    f"layer {layer!r} was not reached by all stimuli, and running sums need to "
                    "know beforehand which reach it; choose n_permutations=0 and n_bootstrap=0, "
                    f"more than memory={memory!r}, or other layers, or analyze a recording"
                )
            if len(indices):
                try:
                    sums[layer].update(responses, stimuli.labels[indices], indices, membership)
                except ResponseError as error:
                    raise ResponseError(f"layer {layer!r}, {error}") from error
    for of_layer in sums.values():
        of_layer.merge_across_ranks()
    return _Kept({layer: of.counts for layer, of in sums.items()}, sums.__getitem__, left_out)


def _check_sums(run: OnePass, request: Request, needing: Sequence[str], memory: int | str) -> None:
    """Refuse, or warn of, what running sums cannot give."""
    size = format_size(run.nbytes)
    way = f"raise memory= (--memory), choose fewer layers, or analyze a recording (about {size})"
    if request.signed == "shift":
        raise OptionError(
            f"signed='shift' needs all responses, {size}, more than memory={memory!r}; {way}, or "
            "choose 'auto', 'rectify', 'refuse' or 'allow'"
        )
    if needing and request.metrics is not None:
        also = "" if not has_running_sums(needing[0]) else "the null and interval of "
        raise OptionError(
            f"{also}metric {needing[0]!r} needs all responses, {size}, more than "
            f"memory={memory!r}; {way}"
        )
    if needing:
        warnings.warn(
            f"all responses take {size}, more than memory={memory!r}; left out: "
            f"{', '.join(needing)}. To have them, {way}",
            UnitprobeWarning,
            stacklevel=4,
        )


def reached_layers(counts: Mapping[str, IntArray]) -> list[str]:
    """Return the layers that stimuli of two classes or more reached; warn of the others.

    `counts` holds how many stimuli of each class (class_name,) reached each layer.

    Raises
    ------
    LabelError
        No layer is left.
    """
    classes = {layer: np.count_nonzero(count) for layer, count in counts.items()}
    kept = [layer for layer in counts if classes[layer] > 1]
    if not kept:
        raise LabelError("no layer was reached by stimuli of two classes")
    if len(kept) < len(counts):
        first = next(layer for layer in counts if layer not in kept)
        warnings.warn(
            f"{len(counts) - len(kept)} of {len(counts)} layers are left out, the first {first!r}: "
            f"it was reached by {int(counts[first].sum())} stimuli of {classes[first]} classes, "
            "and selectivity needs at least two",
            UnitprobeWarning,
            stacklevel=3,
        )
    return kept


def check_classes(labels: IntArray) -> None:
    """Refuse stimuli of fewer than two classes.

    Raises
    ------
    LabelError
        There are fewer.
    """
    classes = len(np.unique(labels))
    if classes < 2:
        raise LabelError(
            f"the {len(labels)} stimuli are of {classes} class; selectivity needs at least two"
        )


def read_responses(tree: xr.DataTree, layer: str, *, block_bytes: int = 128 * 2**20) -> Array:
    """Return the responses (stimulus, unit) of one layer of a recording.

    Activations are averaged over positions, at most `block_bytes` of them at a time, so that they
    need not fit in memory.

    Raises
    ------
    StoreError
        The recording has no such layer.
    """
    if layer not in tree.children:
        names = ", ".join(nearest_names(layer, tree.children))
        raise StoreError(f"the recording has no layer {layer!r}; the nearest are {names}")
    dataset = tree.children[layer].to_dataset()
    array = dataset[_array_name(dataset)]
    positions = [dim for dim in array.dims if dim not in ("stimulus", "unit")]
    if not positions:
        return np.asarray(array.transpose("stimulus", "unit").values)
    if array.chunks is not None:  # of dask, which reads it in chunks of its own
        return np.asarray(array.mean(positions, dtype=np.float64).transpose("stimulus", "unit"))
    stimuli = max(1, block_bytes * array.sizes["stimulus"] // max(1, array.nbytes))
    blocks = [
        array.isel(stimulus=slice(first, first + stimuli)).mean(positions, dtype=np.float64)
        for first in range(0, array.sizes["stimulus"], stimuli)
    ]
    return np.concatenate([block.transpose("stimulus", "unit").values for block in blocks])


def _reached(tree: xr.DataTree, layer: str) -> IntArray:
    """Return the indices of the stimuli that reached a layer."""
    if not tree[layer].attrs.get("unreached_stimuli", 0):
        return np.arange(tree.sizes["stimulus"])
    return np.flatnonzero(~np.isnan(read_responses(tree, layer)).all(axis=1))


def _array_name(node: xr.DataTree | xr.Dataset) -> str:
    return next((name for name in ("response", "activation") if name in node), "")
