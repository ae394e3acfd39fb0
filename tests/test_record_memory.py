import os
import platform
import resource

import pytest
import torch

from unitprobe.record.memory import keeping_freed_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory"
)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for name in os.environ:
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)


def faults():
    """How often the system lent memory for eight tensors of 64 MiB, one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(2**24).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_memory_that_was_freed_serves_again_until_the_end():
    ordinary = faults()
    with keeping_freed_memory():
        assert faults() < ordinary / 2
    assert faults() > ordinary / 2


def test_what_the_user_has_set_is_left_alone(monkeypatch):
    ordinary = faults()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with keeping_freed_memory():
        assert faults() > ordinary / 2
