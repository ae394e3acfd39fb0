"""Drive stimuli through a network and keep what its units do in a store."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from unitprobe.batches import load_batches, prepare
from unitprobe.errors import ContentsMismatchError, ResponseError
from unitprobe.layers import Layer, Selection
from unitprobe.models import Network, describe_transform
from unitprobe.probe import Probe
from unitprobe.progress import progress_bar
from unitprobe.responses import check_finite
from unitprobe.stimuli import Stimuli
from unitprobe.store import (
    LayerArray,
    Recording,
    Shards,
    check_dtype,
    check_layer_names,
    check_output,
    compression_filter,
    merge_shards,
    open_store,
)


def record(
    model: Network | nn.Module,
    stimuli: Stimuli,
    path: str | os.PathLike[str],
    *,
    layers: Selection = "activations",
    pool: str = "mean",
    batch_size: int = 64,
    dtype: str = "float32",
    compression: str | None = None,
    device: str | torch.device | None = None,
    resume: bool = True,
    overwrite: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> xr.DataTree:
    """Record the responses of a network's units to stimuli in one HDF5 file.

    Responses go to shards in the folder ``PATH.partial`` as they come, and into the file at the
    end; memory does not grow with the number of stimuli. If the recording is interrupted, the same
    call goes on where it stopped and ends with the same file.

    Parameters
    ----------
    model : Network or nn.Module
        The network. It is left as it was found.
    stimuli : Stimuli
        Labelled images. Without a transform of their own they get the network's.
    path : path
        The file to write.
    layers : str, sequence of str or callable
        Which layers; see `unitprobe.layers.select_layers`.
    pool : {"mean", "max", "center", "cls", "none"}
        How positions are pooled; ``"none"`` keeps whole activations.
    batch_size : int
        Stimuli in one forward pass.
    dtype : {"float32", "float64", "float16"}
        Type of the numbers in the file.
    compression : {None, "zstd"}
        Compress the finished file (needs the extra ``zstd``). Half the size or less for whole
        activations; other programs then need hdf5plugin to read it.
    device : str or torch.device, optional
        Where to run; the network's own device if None. The network is moved back.
    resume : bool
        Go on with an unfinished recording at the same path; if False, begin anew.
    overwrite : bool
        Replace an existing file.
    workers : int
        Processes that load images; 0 loads them in this one.
    progress : bool
        Show a progress bar if standard error is a terminal.

    Returns
    -------
    xarray.DataTree
        The finished store, opened by `open_store`.

    Raises
    ------
    LayerNotFoundError, LayerError
        The layers cannot be selected or pooled as asked.
    ModelError
        The network does not run on the stimuli.
    ImageError
        A stimulus cannot be read.
    ResponseError
        A layer gives NaN or infinite responses.
    StoreExistsError, ContentsMismatchError, StorageError
        The file exists, another unfinished recording is in its place, or it cannot be written.

    Examples
    --------
    >>> import tempfile, torch, unitprobe as up
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.ReLU())
    >>> digits = up.load_stimuli("digits", limit=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = up.record(network, digits, f"{folder}/store.h5")
    ...     tree["2"]["response"].sizes
    Frozen({'stimulus': 20, 'unit': 5})
    """
    target = check_output(path, overwrite=overwrite)
    check_dtype(dtype)
    compression_filter(compression)
    with prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images):
        with Probe(network, layers, pool) as probe:
            first, _ = next(load_batches(images, range(1), batch_size=1))
            chosen = probe.resolve(first)
            check_layer_names(layer.name for layer in chosen)
            recording = replace(
                _describe(network, images, chosen, probe(first), pool=pool, dtype=dtype),
                compression=compression,
            )
            shards = Shards(target, recording, resume=resume)
            try:
                missing = shards.missing()
                _check_resumed(shards, missing, recording, probe, images)
                load = partial(
                    load_batches,
                    images,
                    batch_size=batch_size,
                    workers=workers,
                    size=tuple(first.shape[1:]),
                )
                _fill(shards, missing, recording, probe, load, progress)
            finally:
                shards.remove_if_empty()
        merge_shards(shards, recording, target)
    return open_store(target)


def _check_resumed(
    shards: Shards,
    missing: Sequence[tuple[int, int]],
    recording: Recording,
    probe: Probe,
    stimuli: Stimuli,
) -> None:
    """Compare one stimulus of what is recorded with what the network gives now.

    The key of a recording cannot see everything: a lambda in the transform, an attribute that the
    network reads while it runs.
    """
    whole = [start for start, stop in shards.ranges() if (start, stop) not in missing]
    if not whole:
        return
    image, _ = next(load_batches(stimuli, [whole[0]], batch_size=1))
    for name, response in probe(image).items():
        before = shards.read(whole[0], name)[0].astype(np.float64)
        now = response[0].double().cpu().numpy()
        scale = float(np.abs(before).max())
        tolerance = 1e-2 if recording.dtype == "float16" else 1e-3
        if not np.allclose(before, now, rtol=tolerance, atol=tolerance * scale):
            raise ContentsMismatchError(
                f"{shards.folder} was recorded with something else: layer {name!r} gives other "
                f"responses to stimulus {str(stimuli.ids[whole[0]])!r} now; choose another path, "
                "or give it up with resume=False (--no-resume)"
            )


def _fill(
    shards: Shards,
    missing: Sequence[tuple[int, int]],
    recording: Recording,
    probe: Probe,
    load: Callable[[range], Iterator[tuple[Tensor, Tensor]]],
    progress: bool,
) -> None:
    total = len(recording.ids)
    with progress_bar("recording", total, "stimuli", enabled=progress) as advance:
        advance(total - sum(stop - start for start, stop in missing))
        for start, stop in missing:
            block = {
                array.layer: np.empty((stop - start, *array.shape), recording.dtype)
                for array in recording.arrays
            }
            done = 0
            for images, _ in load(range(start, stop)):
                for name, response in probe(images).items():
                    _keep(block[name], done, response, name)
                done += len(images)
                advance(len(images))
            for name, array in block.items():
                check_finite(array, name, recording.ids[start:stop])
            shards.write(start, block)


def _keep(block: npt.NDArray[Any], done: int, response: Tensor, layer: str) -> None:
    values = response if response.dtype != torch.bfloat16 else response.float()
    rows = block[done : done + len(values)]
    if rows.shape != tuple(values.shape):
        raise ResponseError(
            f"layer {layer!r} gave activations of shape {tuple(values.shape[1:])} where the first "
            f"stimulus gave {block.shape[1:]}; stimuli of one size are needed"
        )
    with np.errstate(over="ignore"):
        rows[...] = values.cpu().numpy()


def _describe(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    responses: dict[str, Tensor],
    *,
    pool: str,
    dtype: str,
) -> Recording:
    arrays = [_layer_array(layer, responses[layer.name], pool) for layer in layers]
    contents = {
        "weights_fingerprint": network.fingerprint,
        "preprocessing": describe_transform(stimuli.transform),
        "layers": "; ".join(f"{array.layer} {array.shape}" for array in arrays),
        "pool": pool,
        "dtype": dtype,
        "stimuli_fingerprint": stimuli.fingerprint,
    }
    parameters = {str(p.dtype).removeprefix("torch.") for p in network.module.parameters()}
    provenance = {
        "network": network.name,
        "stimuli": stimuli.name,
        "compute_dtype": ", ".join(sorted(parameters)) or "float32",
        "unitprobe_version": version("unitprobe"),
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
    }
    return Recording(
        ids=stimuli.ids,
        labels=stimuli.labels,
        class_names=stimuli.class_names,
        arrays=arrays,
        dtype=dtype,
        contents=contents,
        provenance=provenance,
    )


def _layer_array(layer: Layer, response: Tensor, pool: str) -> LayerArray:
    if pool == "none" and layer.position_dims == ("token",):
        dims: tuple[str, ...] = ("stimulus", "token", "unit")
    elif pool == "none":
        dims = ("stimulus", "unit", *layer.position_dims)
    else:
        dims = ("stimulus", "unit")
    attributes = {
        "kind": layer.kind,
        "unit_axis": layer.unit_axis,
        "activation_shape": np.asarray(response.shape[1:] if pool == "none" else layer.shape[1:]),
    }
    return LayerArray(
        layer=layer.name,
        variable="response" if len(dims) == 2 else "activation",
        dims=dims,
        shape=tuple(response.shape[1:]),
        attributes=attributes,
    )
