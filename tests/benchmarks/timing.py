"""Time two ways of doing the same, in turns, and give the ratio."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

#: What was timed: ``what``, ``ours_s``, ``reference_s``, ``ratio`` (ours over reference).
Row: TypeAlias = dict[str, Any]


def alternate(
    what: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    repeats: int = 5,
    calls: int = 1,
) -> Row:
    """Return the least time of each over alternating repeats, and the ratio of the two.

    `ratio_of_medians` stands beside it: where the two ratios differ much, the machine was busy.
    """
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for function in (ours, reference):
        function()
    for _ in range(repeats):
        for name, function in (("ours", ours), ("reference", reference)):
            times[name].append(seconds(function, calls))
    return row_of(what, times["ours"], times["reference"])


def row_of(what: str, ours: Sequence[float], reference: Sequence[float]) -> Row:
    """Return the row of what was timed, of the seconds of each."""
    return {
        "what": what,
        "ours_s": min(ours),
        "reference_s": min(reference),
        "ratio": min(ours) / min(reference),
        "ratio_of_medians": statistics.median(ours) / statistics.median(reference),
    }


def seconds(function: Callable[[], object], calls: int = 1) -> float:
    """Return the seconds that one of several calls takes."""
    gc.collect()
    _wait_for_device()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _wait_for_device()
    return (time.perf_counter() - start) / calls


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_rows(rows: Iterable[Row]) -> None:
    """Print rows as a table."""
    for row in rows:
        if row.get("skipped"):
            print(f"{row['what']}: skipped, {row['skipped']}")
            continue
        print(
            f"{row['what']}: ours {row['ours_s']:.4g} s, reference {row['reference_s']:.4g} s, "
            f"ratio {row['ratio']:.3g}"
            + (f" (of medians {row['ratio_of_medians']:.3g})" if "ratio_of_medians" in row else "")
        )
