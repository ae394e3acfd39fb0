"""The checks for a GPU, in small and without one."""

import importlib.metadata
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import gpu_check
import gpu_rows
import pytest

HERE = Path(__file__).parent
LIBRARY_VERSION = importlib.metadata.version("unitprobe")


@pytest.mark.slow
@pytest.mark.process
def test_all_parts_run_in_small(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, HERE / "gpu_check.py", "--dry", "--minutes", "9", "--out", out]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    # No more than 8 files, and none in a folder, so that all of them come back from anywhere.
    names = ["networks.json", "rows.json", "runs.tar", "summary.json", "weights.tar"]
    assert sorted(path.name for path in out.iterdir()) == names
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tests"]["tests"] > 0
    assert summary["tests"]["failed"] == []
    rows = json.loads((out / "rows.json").read_text())
    assert list(rows) == list(gpu_rows.LIMITS)
    assert all("exit_code" not in found for found in rows.values())
    networks = json.loads((out / "networks.json").read_text())
    assert list(networks) == ["alpha+0-seed0", "alpha-1-seed0"]
    with tarfile.open(out / "runs.tar") as archive:
        assert "resnet8-digits-short/alpha-1-seed0/run.nc" in archive.getnames()


def test_the_number_of_networks_at_once_is_the_fastest_that_was_measured():
    rows = [{"at_once": 1, "images_per_second": 50}, {"at_once": 2, "images_per_second": 80}]
    rows += [{"at_once": 4, "images_per_second": 70}, {"value": 1.0}]
    assert gpu_check.best_at_once({"training": {"rows": rows}}) == 2
    assert gpu_check.best_at_once({"training": {"skipped": "no time was left"}}) is None


def test_failures_are_kept_with_their_last_lines(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert 1 + 1 == 3\n")
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", f"--junitxml={report}", tmp_path]
    subprocess.run(command, capture_output=True)
    found = gpu_check.read_junit(report)
    assert (found["tests"], found["failures"]) == (1, 1)
    assert any("assert (1 + 1) == 3" in line for line in found["failed"][0]["last_lines"])


def test_a_checkout_that_is_not_installed_has_a_version(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", missing)
        gpu_check.describe_package(tmp_path)
    (found,) = importlib.metadata.distributions(name="unitprobe", path=[str(tmp_path)])
    assert found.version == LIBRARY_VERSION
