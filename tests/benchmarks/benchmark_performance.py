"""Each speed-up on and off on the same workload; writes the table of docs/performance.md.

``python tests/benchmarks performance`` measures what is still in the library and renews its table.
The times are processor time of this process (user and system, all threads), because it depends
less on other programs than the time on the clock. Speed-ups that were removed stay in
``docs/performance.json`` with what was measured before.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import benchmark_ablation as sweeps
import networks
import numpy as np
import timm
import torch
from timing import Row

import unitprobe as up
from unitprobe import metrics
from unitprobe.ablation.engine import FullEngine
from unitprobe.ablation.partial_forward.winograd import WinogradConvolution
from unitprobe.metrics import _neighbours, _rounded
from unitprobe.models import as_network

DOCS = Path(__file__).parents[2] / "docs"


def run(quick: bool) -> list[Row]:
    """Time every speed-up on and off; renew docs/performance.md unless `quick`."""
    rows = [
        *_winograd(quick),
        *_neighbour_products(quick),
        *_recording(quick),
    ]
    if not quick:
        write_page(rows)
    return rows


def _row(trick: str, workload: str, on: list[float], off: list[float]) -> Row:
    return {
        "what": f"{trick}: {workload}",
        "trick": trick,
        "workload": workload,
        "ours_s": min(on),
        "reference_s": min(off),
        "ratio": min(on) / min(off),
    }


def _seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _in_turns(
    function: Callable[[], object], switch_off: Callable[[], Any], repeats: int
) -> tuple[list[float], list[float]]:
    """Return the seconds with the speed-up and without it."""
    on, off = [], []
    for _ in range(repeats):
        on.append(_seconds(function))
        with switch_off():
            off.append(_seconds(function))
    return on, off


def _winograd(quick: bool) -> Iterator[Row]:
    tricks = {"Winograd convolution of small maps": WinogradConvolution}
    for name in sweeps.CASES:
        case = sweeps._case(name, quick=True)  # an eighth of the units
        with torch.no_grad():
            full = FullEngine(as_network(case.module))
            engines = {"": sweeps._partial_engine(case, full)}
            for trick, kind in tricks.items():
                with mock.patch.object(kind, "suits", return_value=False):
                    engines[trick] = sweeps._partial_engine(case, full)
            times: dict[str, list[float]] = {trick: [] for trick in engines}
            for _ in range(1 if quick else 3):
                for trick, engine in engines.items():
                    sweep = partial(sweeps._sweep, engine, case.batch, case.swept)
                    times[trick].append(_seconds(sweep))
        workload = f"sweep of {name}, an eighth of the units"
        for trick in tricks:
            yield _row(trick, workload, times[""], times[trick])


def _neighbour_products(quick: bool) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    stimuli, units = (2_000, 64) if quick else (20_000, 512)
    points = np.maximum(rng.standard_normal((stimuli, units)), 0)
    workload = f"TwoNN, {stimuli:,} stimuli x {units} units"

    def measure() -> None:
        metrics.twonn_dimension(points)

    def single() -> Any:
        return mock.patch.object(_rounded, "multiplies_bfloat16", return_value=False)

    def uncompiled() -> Any:
        return mock.patch.object(_neighbours, "compile_loop", return_value=None)

    measure()
    if _rounded.multiplies_bfloat16():
        yield _row("products in bfloat16", workload, *_in_turns(measure, single, 2))
    yield _row("compiled search of neighbours", workload, *_in_turns(measure, uncompiled, 1))


def _recording(quick: bool) -> Iterator[Row]:
    for name, count in (("ResNet-20 at 32 px", 8192), ("ResNet-18 at 224 px", 128)):
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(1 if quick else 3):
            for keep, values in times.items():
                spawn = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    number = max(16, count // 64) if quick else count
                    values.append(pool.submit(_seconds_to_record, name, number, keep).result())
        yield _row("freed memory is kept (mallopt)", f"record {name}", times[True], times[False])


def _seconds_to_record(name: str, count: int, keep: bool) -> float:
    small = name.startswith("ResNet-20")
    network = networks.ResNet20() if small else timm.create_model("resnet18")
    pixels = 32 if small else 224
    images = np.random.default_rng(0).standard_normal((count, 3, pixels, pixels), np.float32)
    stimuli = up.Stimuli(images, np.arange(count) % 10)
    with tempfile.TemporaryDirectory() as folder, up.set_options(keep_freed_memory=keep):
        path = Path(folder) / "store.h5"
        up.record(network, stimuli.select(range(10)), path, progress=False, overwrite=True)
        return _seconds(lambda: up.record(network, stimuli, path, progress=False, overwrite=True))


def write_page(rows: list[Row]) -> None:
    """Write the measured rows to docs/performance.json, and the tables to docs/performance.md."""
    data = json.loads((DOCS / "performance.json").read_text())
    data["machine"] = {
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    data["kept"] = [
        {"trick": row["trick"], "workload": row["workload"], "on_s": row["ours_s"]}
        | {"off_s": row["reference_s"]}
        for row in rows
    ]
    (DOCS / "performance.json").write_text(json.dumps(data, indent=1) + "\n")
    page = (DOCS / "performance.md").read_text()
    for name in ("kept", "removed"):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + "\n" + _table(data[name]) + "\n" + end + rest.split(end)[1]
    (DOCS / "performance.md").write_text(page)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| speed-up | workload | with (s) | without (s) | gain |", "|---|---|---|---|---|"]
    for row in rows:
        gain = row["off_s"] / row["on_s"]
        cells = (row["trick"], row["workload"], f"{row['on_s']:.3g}", f"{row['off_s']:.3g}")
        lines.append(f"| {' | '.join(cells)} | {gain:.2f} |")
    return "\n".join(lines) + "\n"
