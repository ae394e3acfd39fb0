"""What one shard holds, on its way from the network to the disk.

On a GPU the numbers are copied to pinned memory while the network goes on with the next batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unitprobe.errors import ResponseError
from unitprobe.recording.in_memory import MemoryRecording
from unitprobe.recording.underflow import UnderflowCounter
from unitprobe.responses import check_finite
from unitprobe.store import Range, Recording, Shards


class ShardBuffer:
    """The arrays of one shard, filled batch by batch and used again for later shards.

    Parameters
    ----------
    recording : Recording
        What is recorded.
    device : torch.device
        Where the network runs.
    underflow : UnderflowCounter, optional
        Counts responses that are too small, if they are rounded to float16.
    """

    def __init__(
        self,
        recording: Recording,
        device: torch.device,
        underflow: UnderflowCounter | None = None,
    ) -> None:
        rows = min(recording.shard_stimuli, len(recording.ids))
        on_gpu = device.type == "cuda"
        self._recording = recording
        self._arrays = {
            array.layer: _empty_array(rows, array.shape, getattr(torch, recording.dtype), on_gpu)
            for array in recording.arrays
        }
        self._underflow = underflow
        self._unit_axes = {array.layer: array.dims.index("unit") for array in recording.arrays}
        self._unreached: Counter[str] = Counter()
        self._copies = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._device = device
        self._done = 0

    def clear(self) -> None:
        """Begin with the next shard."""
        self._unreached.clear()
        self._done = 0

    def next_rows(self, count: int) -> dict[str, Tensor]:
        """Return where the responses to the next `count` stimuli may be put, by layer name.

        Empty for a GPU, from which they are copied while it computes, and for responses that are
        looked at before they are rounded.
        """
        if self._copies is not None or self._underflow is not None:
            return {}
        return {
            name: array[self._done : self._done + count] for name, array in self._arrays.items()
        }

    def keep(self, responses: Mapping[str, Tensor], unreached: Mapping[str, int]) -> None:
        """Add one batch: responses by layer, and how many of its stimuli did not reach a layer.

        Raises
        ------
        ResponseError
            The responses have another shape than those of the first stimulus.
        """
        count = len(next(iter(responses.values())))
        rows = slice(self._done, self._done + count)
        targets = {name: self._arrays[name][rows] for name in responses}
        for name, values in responses.items():
            if targets[name].shape != values.shape:
                raise ResponseError(
                    f"layer {name!r} gave activations of shape {tuple(values.shape[1:])} where the "
                    f"first stimulus gave {tuple(targets[name].shape[1:])}; stimuli of one size "
                    "are needed"
                )
        if self._underflow is not None:
            for name, values in responses.items():
                self._underflow.add(name, values, self._unit_axes[name])
        if self._copies is None:
            for name, values in responses.items():
                if values.data_ptr() != targets[name].data_ptr():
                    targets[name].copy_(values)
        else:
            self._copies.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._copies):
                for name, values in responses.items():
                    converted = values.to(targets[name].dtype)
                    targets[name].copy_(converted, non_blocking=True)
                    values.record_stream(self._copies)
        self._unreached.update(unreached)
        self._done += count

    def write(self, target: Shards | MemoryRecording, span: Range) -> None:
        """Write the shard, once all copies have arrived.

        Raises
        ------
        ResponseError
            A response is NaN or infinite, and not because its stimulus did not reach the layer.
        """
        if self._copies is not None:
            self._copies.synchronize()
        start, stop = span
        arrays = {name: values[: stop - start].numpy() for name, values in self._arrays.items()}
        ids = self._recording.ids[start:stop]
        for name, values in arrays.items():
            if self._unreached[name]:
                # What did not reach a layer has nothing but NaN there.
                missed = np.isnan(values).all(axis=tuple(range(1, values.ndim)))
                if missed.sum() == self._unreached[name]:
                    check_finite(values[~missed], name, ids[~missed])
                    continue
            if not _sum_is_finite(values):
                check_finite(values, name, ids)
        target.write(start, arrays, +self._unreached)


def _empty_array(rows: int, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool) -> Tensor:
    """Return an array (stimulus, ...); maps are in memory as in the file, unit after unit."""
    if pinned or len(shape) < 3:
        return torch.empty((rows, *shape), dtype=dtype, pin_memory=pinned)
    units, *positions = shape
    return torch.empty((units, rows, *positions), dtype=dtype).movedim(1, 0)


def _sum_is_finite(values: npt.NDArray[Any]) -> bool:
    """Tell, in one pass, that all values are finite; a sum that overflows says nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.float32 if values.dtype == np.float16 else values.dtype
        return bool(np.isfinite(values.sum(dtype=wide)))
