"""The processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from unitprobe.errors import OptionError


@dataclass(frozen=True)
class Processes:
    """Which of the processes that train one network together the present one is.

    Attributes
    ----------
    rank : int
        Of this process, from 0; rank 0 writes.
    count : int
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            torch.distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values / self.count

    def part(self, size: int) -> slice:
        """Return which part of a batch this process takes.

        Raises
        ------
        OptionError
            The batch does not divide evenly.
        """
        if size % self.count:
            raise OptionError(f"batch_size={size} does not divide among {self.count} processes")
        share = size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun started, if it did, and choose the device of this one.

    Parameters
    ----------
    device : str, optional
        "cpu", "cuda", ...; a GPU if there is one by default. Each process of a machine takes a GPU
        of its own.

    Raises
    ------
    OptionError
        There is no such device here.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and torch.cuda.is_available() and device in (None, "cuda"):
        # Its own from the start: whatever looks at "cuda" takes memory of the first GPU.
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    place = find_device(device)
    if count == 1:
        yield Processes(), place
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), count), place
    finally:
        torch.distributed.destroy_process_group()


def find_device(name: str | None) -> torch.device:
    """Return the device of that name, or else a GPU if there is one.

    Raises
    ------
    OptionError
        There is no such device here.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {name!r} cannot be used here; give cpu or cuda") from error
    return device
