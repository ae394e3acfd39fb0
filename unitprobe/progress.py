"""Progress bars: with rate and time left on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Takes the number of steps done since the last call.
Advance = Callable[[float], None]


@contextmanager
def progress_bar(description: str, total: float, unit: str, *, enabled: bool) -> Iterator[Advance]:
    """Show a bar on standard error while the body runs.

    Parameters
    ----------
    description : str
        Name of the work.
    total : float
        Number of steps.
    unit : str
        Name of a step, for the rate: ``"stimuli"``.
    enabled : bool
        False shows nothing. Nothing is shown either if standard error is not a terminal.

    Yields
    ------
    callable
        An `Advance`.
    """
    if not enabled or not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(steps: float) -> None:
            progress.advance(task, steps)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.0f}/s" if speed else "")

        yield advance
