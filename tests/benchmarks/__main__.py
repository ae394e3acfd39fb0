"""Run the benchmarks: ``python tests/benchmarks [NAME ...] [--quick] [--out FILE.json]``.

Each module ``benchmark_NAME.py`` has a function ``run(quick)`` that returns rows: what was timed,
our seconds, those of the reference, and the ratio. Nothing here is a test: machines are noisy, so
only ratios within one run are compared, and no test asserts them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from timing import print_rows  # noqa: E402  (found through the path above)

NAMES = sorted(path.stem.removeprefix("benchmark_") for path in HERE.glob("benchmark_*.py"))


def main() -> None:
    """Run the benchmarks that are asked for, print a table, and write JSON."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *NAMES], help="all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try them")
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.names or NAMES:
        print(f"\n{name}", flush=True)
        found = importlib.import_module(f"benchmark_{name}").run(arguments.quick)
        print_rows(found)
        rows += [{"benchmark": name, **row} for row in found]
    if arguments.out is not None:
        machine = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "quick": arguments.quick,
        }
        arguments.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
