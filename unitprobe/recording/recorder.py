"""Show stimuli to a network and keep the responses of its units in a store or in memory."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence

import torch
import xarray as xr
from torch import nn

from unitprobe.batches import load_batches, prepare
from unitprobe.errors import OptionError, ProcessError
from unitprobe.layers import Selection, device_of
from unitprobe.models import Network
from unitprobe.probe import Probe
from unitprobe.recording.describe import check_autocast, describe_recording
from unitprobe.recording.fill import AutocastProbe, Recorder
from unitprobe.recording.in_memory import MemoryRecording
from unitprobe.recording.processes import Processes, processes
from unitprobe.recording.underflow import warn_of_underflow
from unitprobe.stimuli import Stimuli
from unitprobe.store import (
    SHARD_STIMULI,
    Range,
    Recording,
    Shards,
    check_dtype,
    check_layer_names,
    check_output,
    compression_filter,
    format_seconds,
    format_size,
    open_store,
    parse_size,
)


def record(
    model: Network | nn.Module,
    stimuli: Stimuli,
    path: str | os.PathLike[str] | None = None,
    *,
    layers: Selection = "activations",
    pool: str = "mean",
    rectify: bool = False,
    batch_size: int = 64,
    dtype: str = "float32",
    compression: str | None = None,
    device: str | torch.device | None = None,
    resume: bool = True,
    overwrite: bool = False,
    workers: int = 0,
    autocast: str | None = None,
    max_size: int | str | None = None,
    shard_stimuli: int | None = None,
    progress: bool = True,
    announce: Callable[[str], None] | None = None,
) -> xr.DataTree:
    """Record the responses of a network's units to stimuli, in one HDF5 file or in memory.

    The file grows in the folder ``PATH.partial`` and is moved to its path at the end; memory does
    not grow with the number of stimuli. If the recording is interrupted, the same call goes on
    where it stopped and ends with the same file. Two recordings of one path refuse each other.
    Without a path the same tree is returned in memory and nothing is written.

    Under torchrun, once `torch.distributed.init_process_group` has run, every process calls this
    with the same arguments and records its own part of the stimuli. The file is the same, bit for
    bit, for any number of processes that compute alike (on equal devices, with equal numbers of
    threads), and each of them returns it.

    While it runs, glibc is told to keep freed memory, in the whole process;
    ``unitprobe.set_options(keep_freed_memory=False)`` turns this off.

    Parameters
    ----------
    model : Network or nn.Module
        The network. It is left as it was found.
    stimuli : Stimuli
        Labelled images. Without a transform of their own they get the network's.
    path : path, optional
        The file to write; without it the recording is kept in memory.
    layers : str, module, class, Layer, callable, or a list of these
        Which layers; see `unitprobe.layers.select_layers`.
    pool : {"mean", "max", "center", "cls", "none"}
        How positions are pooled; ``"none"`` keeps whole activations.
    rectify : bool
        Set negative values to 0 before they are pooled, so that no response is negative. The
        attribute ``rectify`` of the recording says so: "before pooling" or "no".
    batch_size : int
        Stimuli in one forward pass.
    dtype : {"float32", "float64", "float16"}
        Type of the numbers in the file. A warning names the layers with responses that are too
        small for float16: below 3e-6 their error is above 1%. Only stimuli that this call records
        are counted, not those of an earlier, interrupted call.
    compression : {None, "zstd"}
        Compress the finished file (needs the extra ``zstd``). Half the size or less for whole
        activations; other programs then need hdf5plugin to read it.
    device : str or torch.device, optional
        Where to run; the network's own device if None. The network is moved back.
    resume : bool
        Go on with an unfinished recording at the same path; if False, start again.
    overwrite : bool
        Replace an existing file.
    workers : int
        Processes that load images; 0 loads them in this one.
    autocast : {None, "bfloat16", "float16"}
        Let the network compute in this type where PyTorch's autocast considers it safe.
    max_size : int or str, optional
        Refuse to record if the file would be larger, before anything is written: bytes, or text
        such as ``"10GB"``. Compression is not taken into account.
    shard_stimuli : int, optional
        After how many stimuli the file is flushed to disk; a kill loses at most so many. By default
        1024, or fewer where activations are large. At least `batch_size`.
    progress : bool
        Show the expected size and time and a progress bar if standard error is a terminal.
    announce : callable, optional
        Receives the line with the expected size and time, instead of standard error.

    Returns
    -------
    xarray.DataTree
        The finished store, opened by `open_store`, or the same in memory.

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
    OptionError
        An option is invalid or has no effect without a path, or the file would be larger than
        `max_size`.
    StoreExistsError, ContentsMismatchError, StorageError
        The file exists or another process records it, the folder holds another unfinished
        recording, or it cannot be written.
    ProcessError
        Another process of the same run has failed.

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
    if path is None:
        _check_in_memory(
            compression=compression,
            max_size=max_size,
            overwrite=overwrite,
            resume=not resume,
            shard_stimuli=shard_stimuli,
        )
    if shard_stimuli is not None and not isinstance(shard_stimuli, int):
        raise OptionError(f"shard_stimuli={shard_stimuli!r} is not an integer; 1024 is usual")
    if shard_stimuli is not None and isinstance(batch_size, int) and shard_stimuli < batch_size:
        raise OptionError(
            f"shard_stimuli={shard_stimuli} is less than batch_size={batch_size}; a shard holds "
            "whole batches"
        )
    target = None if path is None else check_output(path, overwrite=overwrite)
    check_dtype(dtype)
    check_autocast(autocast)
    compression_filter(compression)
    limit = None if max_size is None else parse_size(max_size)
    with (
        processes() as run,
        prepare(model, stimuli, batch_size=batch_size, device=device) as (network, images),
        Probe(network, layers, pool, rectify=rectify) as probe,
    ):
        seen = AutocastProbe(probe, device_of(network.module), autocast)
        # Where the path depends on the data, layers are searched with all of the first batch.
        few = range(min(batch_size, len(images)))
        example, _ = next(load_batches(images, few, batch_size=batch_size))
        first, chosen = example[:1], probe.resolve(example)
        check_layer_names(layer.name for layer in chosen)
        recording = describe_recording(
            network,
            images,
            chosen,
            seen(first),
            pool=pool,
            rectify=rectify,
            dtype=dtype,
            compression=compression,
            autocast=autocast,
            batch_size=batch_size,
            max_shard_stimuli=shard_stimuli or SHARD_STIMULI,
        )
        _check_size(recording, limit)
        _check_processes_agree(run, recording)
        recorder = Recorder(run, seen, images, recording, size=first.shape[1:], workers=workers)
        if announce is None and progress and sys.stderr.isatty():
            announce = _print_to_stderr

        def fill(where: Shards | MemoryRecording, missing: Sequence[Range]) -> None:
            if announce is not None and run.first:
                seconds = recorder.estimate_seconds(missing)
                medium = "in memory" if target is None else "on disk"
                announce(_expectation(recording, missing, seconds, medium))
            seen.forget()
            small = run.gather(
                lambda: recorder.fill(where, missing, progress=progress and run.first)
            )
            if run.first:
                warn_of_underflow(small)

        if target is None:
            if run.world > 1:
                raise OptionError(
                    f"a recording of {run.world} processes needs a file; give path= (--out)"
                )
            memory = MemoryRecording(recording)
            fill(memory, recording.shards)
            return memory.tree()
        shards = Shards(target, recording)
        try:
            run.first_alone(lambda: shards.begin(resume=resume, shared=run.world > 1))
            # Another run may have finished the file since the first check.
            run.first_alone(lambda: check_output(target, overwrite=overwrite))
            fill(shards, recorder.find_missing(shards))
            run.first_alone(shards.finish)
        finally:
            shards.close()
    return open_store(target)


def _check_in_memory(**given: object) -> None:
    """Refuse options that have no effect without a path."""
    for option, value in given.items():
        if value:
            raise OptionError(f"{option}= has no effect without a path; give path= or leave it out")


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _expectation(
    recording: Recording, missing: Sequence[Range], seconds: float, medium: str
) -> str:
    left = sum(stop - start for start, stop in missing)
    total = len(recording.ids)
    again = "" if left == total else f", {total - left} of them recorded before"
    return (
        f"recording {len(recording.arrays)} layers of {total} stimuli{again}: "
        f"{format_size(recording.file_bytes)} {medium}, about {format_seconds(seconds)}"
    )


def _check_size(recording: Recording, limit: int | None) -> None:
    if limit is not None and recording.file_bytes > limit:
        raise OptionError(
            f"the recording of {len(recording.arrays)} layers and {len(recording.ids)} stimuli "
            f"would take {format_size(recording.file_bytes)}, more than max_size "
            f"{format_size(limit)} (--max-size); pool, choose fewer layers or record float16"
        )


def _check_processes_agree(run: Processes, recording: Recording) -> None:
    """Refuse processes that would record different things, such as other random weights."""
    key = repr(sorted(recording.contents.items())) + f" {recording.shard_stimuli}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    found = run.gather(lambda: (digest, dict(recording.contents)))
    for rank, (other, contents) in enumerate(found):
        if other != found[0][0]:
            what = [name for name in contents if contents[name] != found[0][1].get(name)]
            raise ProcessError(
                f"process {rank} records something else than process 0 "
                f"({', '.join(what) or 'batch_size'}); give all the same network, with the same "
                "weights, stimuli and options"
            )
