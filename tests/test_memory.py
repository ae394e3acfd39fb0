"""While it is kept, the memory of one batch serves the next; afterwards the system has it back.

Each test runs in a process of its own, since what malloc does depends on all that it did before.
"""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory"
)

# Prints how much the process took from the system for eight tensors of 64 MiB, one after the other
# (in MiB; before and inside the context), and what it holds more than at first, inside and after.
SCRIPT = """
import resource, torch
from unitprobe.memory import keeping_freed_memory

PAGE = resource.getpagesize()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE

def taken():
    total = 0
    for _ in range(8):
        before = resident()
        tensor = torch.zeros(2**24).add_(1)
        total += resident() - before
        del tensor
    return total

first = taken()
start = resident()
with keeping_freed_memory():
    kept = taken()
    # What is still in use lies above what was freed.
    used = [torch.zeros(2**14).add_(1) for _ in range(8)]
    inside = resident() - start
after = resident() - start
print(*(round(size / 2**20) for size in (first, kept, inside, after)))
"""


# The same, with a context that begins and ends inside.
NESTED = SCRIPT.replace(
    "    kept = taken()", "    with keeping_freed_memory():\n        pass\n    kept = taken()"
)


def sizes(script=SCRIPT, **variables):
    names = [n for n in os.environ if not n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    environment = {name: os.environ[name] for name in names} | variables
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


@pytest.mark.process
@pytest.mark.parametrize("script", [SCRIPT, NESTED])
def test_memory_that_was_freed_serves_again_and_is_given_back_at_the_end(script):
    ordinary, kept, inside, after = sizes(script)
    assert ordinary > 500
    assert kept < ordinary / 2
    assert inside > 60
    assert after < 20


@pytest.mark.process
def test_what_the_user_has_set_is_left_alone():
    ordinary, kept, inside, after = sizes(MALLOC_ARENA_MAX="2")
    assert kept > 0.9 * ordinary
    assert max(inside, after) < 20


@pytest.mark.process
def test_the_option_turns_it_off():
    off = "import unitprobe\nunitprobe.set_options(keep_freed_memory=False)\n"
    ordinary, kept, inside, after = sizes(off + SCRIPT)
    assert kept > 0.9 * ordinary
    assert max(inside, after) < 20
