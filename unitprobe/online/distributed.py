"""One result from many processes: each sees its share of the stimuli, and their states merge."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed

from unitprobe.online.accumulator import Accumulator

AnyAccumulator = TypeVar("AnyAccumulator", bound=Accumulator)


def rank_and_world() -> tuple[int, int]:
    """Return the rank of this process and the number of processes: (0, 1) when alone.

    Processes belong together once `torch.distributed.init_process_group` has run in each.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def share_of_rank(stimuli: int) -> range:
    """Return the indices that this process sees: contiguous, none twice, none left out.

    Examples
    --------
    >>> share_of_rank(10)  # alone
    range(0, 10)
    """
    rank, world = rank_and_world()
    return range(stimuli * rank // world, stimuli * (rank + 1) // world)


def merge_across_ranks(accumulator: AnyAccumulator) -> AnyAccumulator:
    """Merge the accumulator of every process, in the order of ranks, and return it in each.

    Every process has to call this, on the same kind of accumulator. One after another, so that a
    process holds one kind of state as often as there are processes, and not all of them.

    Parameters
    ----------
    accumulator : Accumulator
        What this process has seen; it may have seen nothing.

    Returns
    -------
    Accumulator
        What all have seen, on the CPU; when alone, the accumulator itself.
    """
    if rank_and_world()[1] == 1:
        return accumulator
    parts: list[AnyAccumulator] = gather_across_ranks(accumulator.to("cpu"))
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged


def gather_across_ranks(item: Any) -> list[Any]:
    """Return what every process has, in the order of ranks, in each of them.

    Every process has to call this.
    """
    _, world = rank_and_world()
    items = [item] * world
    if world > 1:
        torch.distributed.all_gather_object(items, item)
    return items
