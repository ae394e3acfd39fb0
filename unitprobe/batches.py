"""Bring a network and its stimuli together: transform, device, batches."""

from __future__ import annotations

import multiprocessing
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from unitprobe.errors import OptionError, StimuliError, UnitprobeError, UnitprobeWarning
from unitprobe.layers import device_of
from unitprobe.models import (
    Network,
    as_network,
    describe_transform,
    plain_transform,
    timm_transform,
)
from unitprobe.stimuli import Stimuli


@contextmanager
def prepare(
    model: Network | nn.Module,
    stimuli: Stimuli,
    *,
    batch_size: int,
    device: str | torch.device | None,
) -> Iterator[tuple[Network, Stimuli]]:
    """Yield the network on `device` and the stimuli as it takes them; move it back afterwards.

    The transform of the stimuli takes precedence. Stimuli without one get the network's; of a bare
    timm module, images that are not in an array get that of its configuration. Otherwise images
    become tensors in [0, 1] as they are.

    Raises
    ------
    OptionError
        `batch_size` is not a positive integer, or there is no such device.
    StimuliError
        `stimuli` is not a `Stimuli`.
    """
    _check_given(stimuli, batch_size)
    network = as_network(model)
    if stimuli.transform is None and not stimuli.ready:
        channels = network.input_size[0] if network.input_size else None
        own = network.transform
        if own is None and not stimuli.in_array:
            own = timm_transform(network.module)
        stimuli = stimuli.with_transform(own or plain_transform(channels))
    elif network.transform is not None and stimuli.transform is not None:
        used, unused = map(describe_transform, (stimuli.transform, network.transform))
        same = stimuli.transform is network.transform
        if not same and (used != unused or "<lambda>" in used):
            warnings.warn(
                f"the stimuli {stimuli.name!r} have their own transform, {used[:200]}; it takes "
                f"precedence over that of network {network.name!r}, which is not applied",
                UnitprobeWarning,
                stacklevel=4,
            )
    original = device_of(network.module)
    target = _check_device(device) if device is not None else original
    network.module.to(target)
    try:
        yield network, stimuli
    finally:
        network.module.to(original)


def batches_of_two_or_more(count: int, batch_size: int, first: int = 0) -> list[range]:
    """Return the indices from `first` on in batches, none of a single one where there are more.

    ``x.squeeze()`` in a network would remove the stimulus axis of a single stimulus.

    Examples
    --------
    >>> batches_of_two_or_more(5, batch_size=2)
    [range(0, 2), range(2, 5)]
    """
    size = max(2, batch_size)
    batches = [range(i, min(i + size, count)) for i in range(first, count, size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [range(batches[-2].start, count)]
    return batches


def load_batches(
    stimuli: Stimuli,
    indices: Sequence[int],
    *,
    batch_size: int,
    workers: int = 0,
    size: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) of the stimuli at `indices`, in order, each once.

    Parameters
    ----------
    stimuli, indices, batch_size
        What to load.
    workers : int
        Processes that load images; 0 loads them in this one.
    size : sequence of int, optional
        Channels, height and width that all must have; those of the first of a batch if None.

    Raises
    ------
    OptionError
        `workers` is negative.
    ImageError
        A stimulus cannot be read.
    StimuliError
        Stimuli have different sizes.
    """
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    yield from load_these_batches(stimuli, batches, workers=workers, size=size)


def load_these_batches(
    stimuli: Stimuli,
    batches: Sequence[Sequence[int]],
    *,
    workers: int = 0,
    size: Sequence[int] | None = None,
    pinned: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images, labels) of each batch of indices, in order; otherwise as `load_batches`.

    Parameters
    ----------
    stimuli, workers, size
        As `load_batches`.
    batches : sequence of sequences of int
        The indices of each batch.
    pinned : bool
        Keep images in pinned memory, which a GPU copies while it computes.
    """
    if workers < 0:
        raise OptionError(f"workers={workers} is negative; 0 loads images in this process")
    if stimuli.ready_images(range(1)) is not None:
        yield from _ready_batches(stimuli, batches, pinned=pinned)
        return
    loader = DataLoader(
        _Numbered(stimuli, range(len(stimuli))),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=workers,
        pin_memory=pinned,
        collate_fn=_Collate(stimuli, size),
        generator=torch.Generator(),  # its own, or it would draw from the caller's random state
    )
    try:
        yield from _started(loader, workers)
    except UnitprobeError as error:
        # A worker process sends its whole traceback along; the last line is the message.
        last = str(error).strip().splitlines()[-1]
        message = last.partition("Error: ")[2] if "Traceback" in str(error) else str(error)
        raise type(error)(message) from error


def _started(loader: DataLoader[Any], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the iterator of a loader, whose workers get a copy of the stimuli.

    Raises
    ------
    OptionError
        The stimuli cannot be sent to worker processes.
    """
    if workers and multiprocessing.get_start_method() != "fork":
        # Before a process starts, which would print a traceback of its own.
        try:
            pickle.dump(loader.dataset, _Discarding())
        except Exception as error:  # an object's own way to pickle may raise any error
            problem = " ".join(str(error).split())[:200]
            raise OptionError(
                f"workers={workers}: the stimuli or their transform cannot be sent to another "
                f"process ({problem}); use workers=0, or a function of a module instead of a lambda"
            ) from error
    return iter(loader)


class _Discarding:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def _ready_batches(
    stimuli: Stimuli, batches: Sequence[Sequence[int]], *, pinned: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        images = stimuli.ready_images(batch, pinned=pinned)
        assert images is not None
        labels = torch.from_numpy(stimuli.labels[np.asarray(batch)])
        yield images, labels


def _check_given(stimuli: object, batch_size: object) -> None:
    if not isinstance(batch_size, Integral) or int(batch_size) < 1:
        raise OptionError(f"batch_size={batch_size!r} is not a positive integer; 64 is usual")
    if not isinstance(stimuli, Stimuli):
        raise StimuliError(
            f"stimuli must be a Stimuli, not a {type(stimuli).__name__}; use "
            "load_stimuli('digits'), Stimuli(images, labels) for an array or a sequence, or "
            "Stimuli.from_dataset(dataset)"
        )


def _check_device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).item()  # a device without numbers, "meta", fails here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise OptionError(f"device={str(device)!r} cannot be used here: {reason}") from error
    return target


class _Numbered(Dataset[tuple[Tensor, int, int]]):
    """Some stimuli with their index, so that an error can name the one it is about."""

    def __init__(self, stimuli: Stimuli, indices: Sequence[int]) -> None:
        self._stimuli = stimuli
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        index = self._indices[position]
        image, label = self._stimuli[index]
        return image, label, index


class _Collate:
    """Stack images into a batch, and name the one that has another shape."""

    def __init__(self, stimuli: Stimuli, size: Sequence[int] | None) -> None:
        self._stimuli = stimuli
        self._size = size

    def __call__(self, items: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor]:
        images, labels, indices = zip(*items, strict=True)
        for image, index in zip(images, indices, strict=True):
            name = str(self._stimuli.ids[index])
            if not isinstance(image, Tensor):
                raise StimuliError(
                    f"stimulus {name!r} is a {type(image).__name__} after its transform, which "
                    "should return a tensor (channel, y, x)"
                )
            size = tuple(self._size or images[0].shape)
            if tuple(image.shape) != size:
                raise StimuliError(
                    f"stimulus {name!r} has shape {tuple(image.shape)}, "
                    f"others have {size}; give a transform that resizes them to one size"
                )
        return torch.stack(images), torch.tensor(labels)
