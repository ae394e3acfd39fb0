"""Check and measure the library on a GPU, in one command and in so many minutes.

``python tests/gpu_check.py --minutes 9 --out DIR --cifar10 cifar10.tar.xz`` runs three parts:

- ``tests``: the tests of devices, which elsewhere run on a pretended GPU;
- ``rows``: benchmark rows on the GPU, each a ratio within one run;
- ``networks``: the networks of the recipe on selectivity regularization, in what time is left.

It needs the checkout and the packages of the project, which need not be installed. Every part runs
in processes of its own with a time limit, and what is known is written at once, so that neither an
error nor an early end loses what was measured. ``--dry`` runs all of it in small, without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import unitprobe  # noqa: E402  (found through the path above)

PARTS = ("tests", "rows", "networks")
TESTS = ("tests/recipes/test_recipe_devices.py", "tests/test_devices.py")
TEST_SECONDS = 150
#: Share of all minutes after which no further row begins, so that networks have the rest.
ROWS_SHARE = 0.55
#: Of a part's last words, how much is kept.
TAIL = 4000


def main() -> None:
    """Run the parts that are asked for; the exit code tells whether something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="of all parts together")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--rows", default="", help="only these rows, with commas between")
    parser.add_argument("--dry", action="store_true", help="in small, on a pretended GPU")
    parser.add_argument("--cifar10", type=Path, help="folder, or an archive of it")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := {*parts} - {*PARTS}:
        parser.error(f"no part is named {unknown.pop()!r}; choose from {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(arguments, Path(scratch))
        # Images are decoded while the tests run.
        networks = check.prepare_networks() if "networks" in parts else None
        if "tests" in parts:
            check.run_tests()
        if "rows" in parts:
            check.run_rows()
        if networks is not None:
            check.run_networks(networks)
    check.note("done", True)
    sys.exit(int(check.has_failed))


class Check:
    """The parts, the time that they have, and what is known so far."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self._arguments = arguments
        self._scratch = scratch
        self._begun = time.time()
        self._end = self._begun + 60 * arguments.minutes
        self._summary: dict[str, Any] = {"machine": describe_machine(arguments.dry)}
        self.has_failed = False
        describe_package(scratch / "metadata")
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(scratch / "metadata"), os.environ.get("PYTHONPATH", "")]
            ),
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "Agg",
        }
        self.note("begun", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def note(self, name: str, value: Any) -> None:
        """Add to the summary, and write it."""
        self._summary[name] = value
        self._summary["seconds"] = round(time.time() - self._begun, 1)
        write_json(self._arguments.out / "summary.json", self._summary)

    def run_tests(self) -> None:
        """Run the tests of devices; keep how many passed, and why others did not."""
        report = self._scratch / "junit.xml"
        few = ["-k", "allows or refused"] if self._arguments.dry else []
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *few, f"--junitxml={report}"]
        limit = min(TEST_SECONDS, self._end - time.time())
        begun = time.time()
        child = self._start("tests", [*command, *TESTS])
        code = wait(child, begun + limit)
        result = {"exit_code": code, "wall_s": round(time.time() - begun, 1)}
        if report.exists():
            result |= read_junit(report)
        if code:
            self.has_failed = True
            result["tail"] = self._tail("tests")
        self.note("tests", result)
        print(f"tests: {result}", flush=True)

    def run_rows(self) -> None:
        """Run every row, each in a process that is started while the one before runs."""
        import gpu_rows

        names = [name for name in self._arguments.rows.split(",") if name] or list(gpu_rows.LIMITS)
        last = self._begun + ROWS_SHARE * (self._end - self._begun)
        found: dict[str, Any] = {}
        following = self._start_row(names[0])
        for index, name in enumerate(names):
            child = following
            if time.time() > last:
                found[name] = {"skipped": "no time was left"}
                stop(child)
            else:
                begun = time.time()
                send(child, "go")
                if index + 1 < len(names):
                    following = self._start_row(names[index + 1])
                code = wait(child, min(begun + gpu_rows.LIMITS[name], self._end))
                lines = self._log(name).read_text(errors="replace").splitlines()
                rows = [json.loads(line[4:]) for line in lines if line.startswith("ROW ")]
                found[name] = {"rows": rows, "wall_s": round(time.time() - begun, 1)}
                if code:
                    self.has_failed = True
                    found[name] |= {"exit_code": code, "tail": self._tail(name)}
            write_json(self._arguments.out / "rows.json", found)
            print(f"rows {name}: {json.dumps(found[name])[:1500]}", flush=True)
            if time.time() > last and index + 1 < len(names):
                found |= {other: {"skipped": "no time was left"} for other in names[index + 1 :]}
                stop(following)
                write_json(self._arguments.out / "rows.json", found)
                break

    def prepare_networks(self) -> subprocess.Popen[bytes]:
        """Start the process that trains, which first reads the images."""
        options = ["--out", str(self._arguments.out), "--scratch", str(self._scratch / "networks")]
        if self._arguments.cifar10 is not None:
            options += ["--cifar10", str(self._arguments.cifar10)]
        return self._start("networks", ["tests/gpu_networks.py", *options, *self._dry()])

    def run_networks(self, child: subprocess.Popen[bytes]) -> None:
        """Train networks until the end."""
        rows = self._arguments.out / "rows.json"
        at_once = best_at_once(json.loads(rows.read_text())) if rows.exists() else None
        # What is left after training: to measure, and to pack.
        send(child, json.dumps({"until": self._end - 10, "at_once": at_once}))
        code = wait(child, self._end)
        result: dict[str, Any] = {"exit_code": code, "tail": self._tail("networks")}
        self.has_failed |= bool(code)
        self.note("networks", result)
        print(result["tail"], flush=True)

    def _dry(self) -> list[str]:
        return ["--dry"] if self._arguments.dry else []

    def _start_row(self, name: str) -> subprocess.Popen[bytes]:
        return self._start(name, ["tests/gpu_rows.py", name, *self._dry()])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log(name).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._scratch / f"{name}.log"

    def _tail(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")[-TAIL:]


def describe_machine(dry: bool) -> dict[str, Any]:
    """Return what the figures were measured on."""
    machine: dict[str, Any] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "dry": dry,
    }
    for name in ("torch", "timm", "numpy"):
        machine[name] = importlib.metadata.version(name)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        machine["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except OSError:
        machine["gpu"] = "none"
    return machine


def describe_package(folder: Path) -> None:
    """Tell the children the version of a checkout that is not installed."""
    try:
        importlib.metadata.version("unitprobe")
    except importlib.metadata.PackageNotFoundError:
        described = folder / f"unitprobe-{unitprobe.__version__}.dist-info" / "METADATA"
        described.parent.mkdir(parents=True)
        described.write_text(
            f"Metadata-Version: 2.1\nName: unitprobe\nVersion: {unitprobe.__version__}\n"
        )


def best_at_once(found: dict[str, Any]) -> int | None:
    """Return how many networks to train at once, by what was measured."""
    rates = {
        row["at_once"]: row["images_per_second"]
        for row in found.get("training", {}).get("rows", [])
        if row.get("at_once")
    }
    return max(rates, key=lambda count: rates[count]) if rates else None


def read_junit(path: Path) -> dict[str, Any]:
    """Return the counts, and of each failure the name and the last lines."""
    suite = ElementTree.parse(path).getroot()[0]
    failures = [
        {
            "test": f"{case.get('classname')}::{case.get('name')}",
            "message": (problem.get("message") or "")[:300],
            "last_lines": (problem.text or "").strip().splitlines()[-8:],
        }
        for case in suite.iter("testcase")
        for problem in [*case.findall("failure"), *case.findall("error")]
    ]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {**counts, "failed": failures}


def send(child: subprocess.Popen[bytes], line: str) -> None:
    """Tell a child that waits what to do."""
    assert child.stdin is not None
    try:
        child.stdin.write(f"{line}\n".encode())
        child.stdin.close()
    except OSError:
        pass  # it has ended already, and its exit code tells why


def wait(child: subprocess.Popen[bytes], until: float) -> int | str:
    """Return the exit code of a child, which is ended when its time is over."""
    try:
        return child.wait(max(1.0, until - time.time()))
    except subprocess.TimeoutExpired:
        stop(child)
        return "time is over"


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def write_json(path: Path, value: Any) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
