"""One result from many processes: each sees a share of the stimuli, then their states merge."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed

from unitprobe.online.accumulator import Accumulator

AnyAccumulator = TypeVar("AnyAccumulator", bound=Accumulator)


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes: (0, 1) if there is only one.

    Processes form a group once `torch.distributed.init_process_group` has run in each.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def share_of_rank(stimuli: int) -> range:
    """Return the contiguous indices of the stimuli that this process sees.

    Examples
    --------
    >>> share_of_rank(10)  # alone
    range(0, 10)
    """
    rank, world = rank_and_world()
    return range(stimuli * rank // world, stimuli * (rank + 1) // world)


def merge_across_ranks(accumulator: AnyAccumulator) -> AnyAccumulator:
    """Merge the accumulator of every process, in the order of ranks, and return it in each.

    Every process must call this, for one kind of accumulator after another. So a process holds only
    one kind of state of all processes at a time.

    Parameters
    ----------
    accumulator : Accumulator
        The state of this process, which may have seen no stimuli.

    Returns
    -------
    Accumulator
        The merged state, on the CPU; the accumulator itself if there is one process.
    """
    if rank_and_world()[1] == 1:
        return accumulator
    parts: list[AnyAccumulator] = gather_across_ranks(accumulator.to("cpu"))
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged


def gather_across_ranks(item: Any) -> list[Any]:
    """Return the items of all processes, in the order of ranks.

    Every process must call this.
    """
    _, world = rank_and_world()
    items = [item] * world
    if world > 1:
        torch.distributed.all_gather_object(items, item)
    return items
