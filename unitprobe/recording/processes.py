"""The processes of one run: what each records, and how they keep together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as distributed

from unitprobe.errors import ProcessError
from unitprobe.online import rank_and_world

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Processes wait for the slowest at the end only, and that may take long.
_TIMEOUT = timedelta(days=30)


class Processes:
    """The processes that record together, one by default.

    Attributes
    ----------
    rank, world : int
        The number of this process, and how many there are.
    """

    def __init__(self, rank: int, world: int, group: Any) -> None:
        self.rank = rank
        self.world = world
        self._group = group

    @property
    def first(self) -> bool:
        """Whether this is the process that begins and finishes the file."""
        return self.rank == 0

    def title(self, what: str) -> str:
        """Return what this process does, and which of several it is.

        Examples
        --------
        >>> Processes(0, 1, None).title("recording"), Processes(0, 2, None).title("recording")
        ('recording', 'recording, process 0 of 2')
        """
        return what if self.world == 1 else f"{what}, process {self.rank} of {self.world}"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the contiguous part of some items that is this process's."""
        count = len(items)
        return items[count * self.rank // self.world : count * (self.rank + 1) // self.world]

    def gather(self, compute: Callable[[], Result]) -> list[Result]:
        """Compute something in every process and return what each found, in the order of ranks.

        Raises
        ------
        UnitprobeError
            One of them failed: its own error in that process, a `ProcessError` in the others.
        """
        if self.world == 1:
            return [compute()]
        error: BaseException | None = None
        found: tuple[Any, str] = (None, "")
        try:
            found = (compute(), "")
        except Exception as caught:
            error = caught
            found = (None, str(caught) or type(caught).__name__)
        results: list[tuple[Any, str]] = [found] * self.world
        try:
            distributed.all_gather_object(results, found, group=self._group)
        except RuntimeError as gone:
            raise (error or _stopped("another process of this recording is gone")) from gone
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(results):
            if message:
                raise _stopped(f"process {rank} of {self.world} failed ({message})")
        return [result for result, _ in results]

    def first_alone(self, compute: Callable[[], Result]) -> Result | None:
        """Let the first process compute something while the others wait; None in these."""
        return self.gather(lambda: compute() if self.first else None)[0 if self.first else -1]


@contextmanager
def processes() -> Iterator[Processes]:
    """Yield the processes of the initialised process group, or this one alone."""
    rank, world = rank_and_world()
    if world == 1:
        yield Processes(0, 1, None)
        return
    # A group of its own: gloo, whatever the network computes on, and without a short timeout.
    group = distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    try:
        yield Processes(rank, world, group)
    finally:
        distributed.destroy_process_group(group)


def _stopped(why: str) -> ProcessError:
    return ProcessError(f"{why}; run the same again to go on, what was recorded is kept")
