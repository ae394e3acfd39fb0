"""Compiled loops: the same numbers with numba, without it, and where nothing can be kept."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from unitprobe import compiled
from unitprobe.errors import UnitprobeWarning


def running_sum(values):
    for i in range(1, values.size):
        values[i] += values[i - 1]


@pytest.fixture(autouse=True)
def forgotten():
    for function in (compiled.compile_loop, compiled._import_numba):
        function.cache_clear()
    yield
    for function in (compiled.compile_loop, compiled._import_numba):
        function.cache_clear()


def test_a_compiled_loop_does_what_the_function_does():
    pytest.importorskip("numba")
    values = np.arange(5.0)
    loop = compiled.compile_loop(running_sum)
    assert loop is not None
    loop(values)
    np.testing.assert_array_equal(values, [0, 1, 3, 6, 10])


def test_a_loop_without_a_file_is_compiled_and_not_kept():
    pytest.importorskip("numba")
    scope = {}
    exec("def fill(values):\n    for i in range(values.size):\n        values[i] = i", scope)
    values = np.empty(3)
    compiled.compile_loop(scope["fill"])(values)
    np.testing.assert_array_equal(values, [0, 1, 2])


def test_a_full_disk_does_not_stop_a_loop(monkeypatch):
    caching = pytest.importorskip("numba.core.caching")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.FunctionCache, "load_overload", lambda *args: None)
    monkeypatch.setattr(caching.FunctionCache, "save_overload", full)
    values = np.ones(3)
    compiled.compile_loop(running_sum)(values)
    np.testing.assert_array_equal(values, [1, 2, 3])


def test_without_numba_there_is_no_loop_and_no_warning(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiled.compile_loop(running_sum) is None


def test_numba_that_is_switched_off_compiles_nothing(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert compiled.compile_loop(running_sum) is None


def test_numba_that_is_broken_is_said_once(monkeypatch):
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.warns(UnitprobeWarning, match="numba is installed but cannot be imported"):
        assert compiled.compile_loop(running_sum) is None
    # A second warning would be an error here.
    assert compiled.compile_loop(len) is None


def test_threads_do_every_part_and_pass_an_error_on():
    done = []
    compiled.run_in_threads(done.append, range(100))
    assert sorted(done) == list(range(100))
    with pytest.raises(ZeroDivisionError):
        compiled.run_in_threads(lambda part: 1 / part, [1, 0])


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_run_as_torch_may_use_and_torch_has_one_in_each(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    together = threading.Barrier(threads, timeout=30)
    seen = []

    def task(part):
        together.wait()
        seen.append((threading.get_ident(), torch.get_num_threads()))

    try:
        compiled.run_in_threads(task, range(2 * threads))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len({thread for thread, _ in seen}) == threads
    assert {count for _, count in seen} == {1}


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_a_new_thread(function):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result(timeout=30)


def test_threads_within_a_thread_are_one(three_threads):
    seen = []

    def task(part):
        compiled.run_in_threads(lambda _: seen.append(threading.get_ident()), range(5))
        seen.append(torch.get_num_threads())

    compiled.run_in_threads(task, range(1))
    assert len(set(seen[:5])) == 1
    assert seen[5] == 1
    assert torch.get_num_threads() == in_a_new_thread(torch.get_num_threads) == 3


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_torch_has_its_threads_again_whichever_of_two_pools_ends_first(
    first_ends_first, three_threads
):
    def use_a_second(first):
        with compiled.single_threads() as second:
            together = threading.Barrier(3, timeout=30)
            list(second.map(lambda _: together.wait(), range(3)))
            if first_ends_first:
                first.close()
        first.close()
        return torch.get_num_threads()

    with contextlib.ExitStack() as first:
        pool = first.enter_context(compiled.single_threads())
        pool.submit(torch.get_num_threads).result()
        assert in_a_new_thread(lambda: use_a_second(first)) == 3
    assert torch.get_num_threads() == in_a_new_thread(torch.get_num_threads) == 3


@pytest.mark.process
def test_importing_unitprobe_imports_no_numba():
    code = "import sys, unitprobe, unitprobe.compiled; print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
