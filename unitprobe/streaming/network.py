"""Stimuli through a network into the statistics of its layers, nothing recorded in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from unitprobe import metrics as m
from unitprobe.analysis import (
    add_false_discovery_rates,
    summarize_layers,
    warn_if_signed,
)
from unitprobe.analysis.reached import reached_layers
from unitprobe.analysis.weights import add_weight_norms
from unitprobe.batches import load_batches, prepare
from unitprobe.errors import LabelError, ResponseError
from unitprobe.layers import Selection
from unitprobe.memory import keeping_freed_memory
from unitprobe.metrics.registry import default_metrics
from unitprobe.models import Network, describe_transform
from unitprobe.online import rank_and_world, share_of_rank
from unitprobe.probe import Probe, Responses
from unitprobe.progress import progress_bar
from unitprobe.responses import check_finite
from unitprobe.stimuli import Stimuli
from unitprobe.store import SCHEMA_VERSION, check_layer_names
from unitprobe.streaming.layer_statistics import Chunk, LayerStatistics
from unitprobe.streaming.options import (
    check_metrics,
    check_options,
    draw_resamples,
    fit_in_memory,
    keeps_responses,
    measures_with_inference,
)
from unitprobe.streaming.resampled_measures import RESAMPLED_MEASURES, ResampledMeasures

#: The most that the responses of one chunk of stimuli may occupy, and their number.
CHUNK_BYTES = 64 * 2**20
CHUNK_STIMULI = 1024


def analyze_network(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    layers: Selection = "activations",
    pool: str = "mean",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    workers: int = 0,
    metrics: Sequence[str] | None = None,
    n_permutations: int = 0,
    n_bootstrap: int = 0,
    seed: int = 0,
    signed: m.SignPolicy = "refuse",
    progress: bool = True,
) -> xr.DataTree:
    """Measure every unit and layer of a network while it sees each stimulus once.

    The same as ``analyze(record(model, stimuli, path))`` without the file. Responses are kept while
    all of them take no more than 1 GiB, at 8 bytes each, for measures that rank and for distances;
    for more there are histograms. Beyond this memory does not grow with the number of stimuli, save
    for 16 bytes for each stimulus and layer if population sparseness is asked for, and 2 or 3 bytes
    for each stimulus and resample.

    Under torchrun, once `torch.distributed.init_process_group` has run, every process takes a
    contiguous share of the stimuli, and all return the same result.

    Parameters
    ----------
    model, stimuli, layers, batch_size, device, workers
        As `unitprobe.record`.
    pool : {"mean", "max", "center", "cls"}
        How positions are pooled.
    metrics : sequence of str, optional
        Which statistics, by name, of `unitprobe.metrics.registry`; if None, all of those that
        `analyze` computes by itself. Where there is not room to keep the responses, the two
        dimensions from distances are left out, as are histograms that would take more than 1 GiB;
        the attribute ``needs_recording`` of the result names them.
    n_permutations, n_bootstrap, seed
        As `unitprobe.analyze`, with the same shuffles and resamples. Where there is not room to
        keep the responses, only for measures of class means and variances: ``class_selectivity``,
        ``ccmas``, ``class_correlation``, ``d_prime``, ``anova_f`` and ``eta_squared``; null and
        interval of the others, those that rank the stimuli and ``mutual_information``, then need a
        recording, and the attribute ``inference_needs_recording`` of the result names them.
    signed : {"refuse", "rectify", "allow"}
        As `unitprobe.analyze`. To shift is not possible: it needs the lowest response beforehand.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        As `unitprobe.analyze`, equal to its result up to rounding, but for what comes from a
        histogram, with the bound on its error beside it: ``gini``, ``half_max_share``, ``roc_auc``,
        ``average_precision``, ``recall_at_precision``, ``max_f1``, ``max_informedness`` and
        ``mutual_information``. The exact value lies within ``..._error`` of them; while responses
        are kept that is 0. The threshold of the largest informedness is
        one with the value that is given. Where `metrics` is None, there are the norms of the
        weights too, as in ``analyze(tree, model=model)``.

    Raises
    ------
    OptionError
        A metric is not known or needs a recording, the sign policy or pooling needs one, an option
        is out of range, or the resamples or histograms would not fit in memory.
    LabelError
        The stimuli are of fewer than two classes.
    ResponseError
        A layer gives NaN or infinite responses, or negative ones with ``signed="refuse"``; or some
        stimuli did not reach it, and a null or an interval is asked for.
    LayerNotFoundError, LayerError, ModelError, ImageError
        As `unitprobe.record`.

    Examples
    --------
    >>> import torch, unitprobe as up
    >>> from unitprobe.streaming import analyze_network
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> analysis = analyze_network(network, up.load_stimuli("digits", limit=50), n_permutations=20)
    >>> analysis["2"]["class_selectivity"].sizes
    Frozen({'unit': 5})
    """
    names = check_metrics(metrics, len(stimuli))
    check_options(pool, signed, n_permutations=n_permutations, n_bootstrap=n_bootstrap, seed=seed)
    classes = len(stimuli.class_names)
    counts = np.bincount(stimuli.labels, minlength=classes)
    if np.count_nonzero(counts) < 2:
        raise LabelError(
            f"the {len(stimuli)} stimuli are of one class; selectivity needs at least two"
        )
    with (
        prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images),
        Probe(network, layers, pool) as probe,
    ):
        few = range(min(batch_size, len(images)))
        several, _ = next(load_batches(images, few, batch_size=batch_size))
        first, chosen = several[:1], probe.resolve(several)
        check_layer_names(layer.name for layer in chosen)
        example = probe(first)
        probe.unreached.clear()  # that was only to try
        probe.stimulus_count = 0
        units = sum(response.shape[1] for response in example.values())
        keep = keeps_responses(
            names, units, len(images), n_permutations=n_permutations, n_bootstrap=n_bootstrap
        )
        if not keep:
            names = fit_in_memory(names, units, classes, by_name=metrics is not None)
        null_names, interval_names = measures_with_inference(
            names,
            asked=metrics is not None,
            n_permutations=n_permutations,
            n_bootstrap=n_bootstrap,
            keep=keep,
        )
        everywhere, _ = measures_with_inference(
            names,
            asked=metrics is not None,
            n_permutations=n_permutations or n_bootstrap,
            n_bootstrap=0,
            keep=True,
        )
        without_inference = [
            name for name in everywhere if not (keep or name in RESAMPLED_MEASURES)
        ]
        of_sums = [
            [name for name in some if name in RESAMPLED_MEASURES]
            for some in (null_names, interval_names)
        ]
        resamples = draw_resamples(
            stimuli.labels,
            counts,
            units,
            *of_sums,
            n_permutations=n_permutations,
            n_bootstrap=n_bootstrap,
            seed=seed,
        )
        drawn_for = {
            "shuffles": [*dict.fromkeys([*of_sums[0], *of_sums[1]])],
            "redraws": of_sums[1],
        }
        statistics = {
            layer: LayerStatistics(
                names,
                classes,
                signed,
                {
                    kind: ResampledMeasures(drawn_for[kind], drawn, response[0])
                    for kind, drawn in resamples.items()
                },
                keep=keep,
            )
            for layer, response in example.items()
        }
        share = share_of_rank(len(images))
        before: Counter[str] = Counter()
        batches = load_batches(
            images, share, batch_size=batch_size, workers=workers, size=tuple(first.shape[1:])
        )
        shown = progress and rank_and_world()[0] == 0
        with (
            keeping_freed_memory(),
            progress_bar("analyzing", len(share), "stimuli", enabled=shown) as advance,
        ):
            for indices, responses in _read_chunks(probe, batches, share, units):
                bags = {name: drawn.bags(indices) for name, drawn in resamples.items()}
                chunk = Chunk(images.labels[indices], indices, bags)
                missed, before = probe.unreached - before, Counter(probe.unreached)
                for layer, values in responses.items():
                    _update(statistics[layer], layer, values, chunk, images.ids, missed[layer])
                advance(len(indices))
        attributes = {
            "network": network.name,
            "weights_fingerprint": network.fingerprint,
            "preprocessing": describe_transform(images.transform),
            "pool": pool,
            "stimuli": images.name,
            "stimuli_fingerprint": images.fingerprint,
            "torch_version": str(torch.__version__),
            "n_permutations": n_permutations,
            "n_bootstrap": n_bootstrap,
            "seed": seed,
            "signed": signed,
            "stimulus_count": len(images),
            "needs_recording": ", ".join(
                name for name in default_metrics(len(images)) if name not in names
            )
            if metrics is None
            else "",
            "inference_needs_recording": ", ".join(without_inference),
        }
    for of_layer in statistics.values():
        of_layer.merge_across_ranks()
    kept = reached_layers({layer: of_layer.class_counts for layer, of_layer in statistics.items()})
    statistics = {layer: statistics[layer] for layer in kept}
    if metrics is None:
        fewest = min(int(of_layer.class_counts.sum()) for of_layer in statistics.values())
        names = [name for name in names if name in default_metrics(fewest)]
    warn_if_signed(
        {layer: of_layer.negative_responses for layer, of_layer in statistics.items()},
        signed,
        names,
    )
    nodes = _nodes(statistics, names, attributes, null_names, interval_names)
    if metrics is None:
        add_weight_norms(nodes, network, several)
    return _assemble(nodes, stimuli, attributes)


def _read_chunks(
    probe: Probe[Responses], batches: Iterable[tuple[Tensor, Tensor]], share: range, units: int
) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
    """Yield the indices and responses of as many batches as make a chunk.

    A statistic costs less for a thousand stimuli at once than for a thousand one by one.
    """
    enough = min(CHUNK_STIMULI, max(1, CHUNK_BYTES // (4 * units)))
    held: dict[str, list[Tensor]] = {}
    start, stop = share.start, share.start
    for images, _ in batches:
        for layer, response in probe(images).items():
            parts = held.setdefault(layer, [])
            if parts and parts[0].shape[1:] != response.shape[1:]:
                raise ResponseError(
                    f"layer {layer!r} gave {response.shape[1]} units where earlier stimuli gave "
                    f"{parts[0].shape[1]}; stimuli of one size are needed"
                )
            # The array API knows no bfloat16.
            parts.append(response.float() if response.dtype == torch.bfloat16 else response)
        stop += len(images)
        if stop - start >= enough or stop == share.stop:
            joined = {layer: torch.cat(parts) for layer, parts in held.items()}
            held.clear()
            yield np.arange(start, stop), joined
            start = stop


def _update(
    statistics: LayerStatistics,
    layer: str,
    responses: Tensor,
    chunk: Chunk,
    ids: NDArray[np.str_],
    missed: int,
) -> None:
    """Let the statistics of a layer take in what reached it; `missed` stimuli did not."""
    if missed:
        if chunk.bags:
            raise ResponseError(
                f"layer {layer!r} was not reached by all stimuli, and which it would be is not "
                "known beforehand; choose n_permutations=0 and n_bootstrap=0, or other layers, or "
                "record, then analyze the recording"
            )
        reached = ~torch.isnan(responses).all(dim=1)
        place = reached.cpu().numpy()
        responses = responses[reached]
        chunk = Chunk(chunk.labels[place], chunk.indices[place], chunk.bags)
        if not len(responses):
            return
    if not bool(torch.isfinite(responses).all()):
        check_finite(responses.cpu().numpy(), layer, ids[chunk.indices])
    try:
        statistics.update(responses, chunk)
    except ResponseError as error:
        raise ResponseError(f"layer {layer!r}, {error}") from error


def _nodes(
    statistics: Mapping[str, LayerStatistics],
    names: Sequence[str],
    attributes: Mapping[str, Any],
    null_names: Sequence[str],
    interval_names: Sequence[str],
) -> dict[str, xr.Dataset]:
    """Return the statistics of each layer."""
    nodes: dict[str, xr.Dataset] = {}
    for layer, of_layer in statistics.items():
        node = of_layer.dataset(names, attributes["stimulus_count"])
        draws = {key: attributes[key] for key in ("n_permutations", "n_bootstrap", "seed")}
        of_layer.add_inference(node, null_names, interval_names, **draws)
        node.attrs.update(
            signed=attributes["signed"], negative_responses=of_layer.negative_responses
        )
        nodes[layer] = node.assign_coords(unit=np.arange(of_layer.units))
    return nodes


def _assemble(
    nodes: Mapping[str, xr.Dataset], stimuli: Stimuli, attributes: Mapping[str, Any]
) -> xr.DataTree:
    """Return the statistics of all layers with their summary."""
    add_false_discovery_rates(nodes)
    root = summarize_layers(nodes).assign_coords(
        class_name=np.asarray(stimuli.class_names, dtype=object),
        stimulus=stimuli.ids,
        label=("stimulus", stimuli.labels),
    )
    root.attrs = {
        "unitprobe_content": "analysis",
        "unitprobe_schema": SCHEMA_VERSION,
        "unitprobe_version": version("unitprobe"),
        **attributes,
    }
    return xr.DataTree.from_dict({"/": root, **nodes})
