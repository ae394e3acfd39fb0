"""A recording survives what happens to processes and disks, and ends with the same bytes.

With the environment variable ``UNITPROBE_LONG_TESTS`` set, a hundred kills instead of a few.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import networks
import pytest
from conftest import make_stimuli

import unitprobe as up
from unitprobe.errors import StorageError, StoreExistsError
from unitprobe.store import Shards, recording_status

TESTS = Path(__file__).parent
LONG = bool(os.environ.get("UNITPROBE_LONG_TESTS"))

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")

# Forks a recorder and kills it at a random moment after a random number of further shards, again
# and again: torch is imported but once.
KILLS = """
import os, random, signal, sys, time, networks, torch
from pathlib import Path
from conftest import make_stimuli
import unitprobe as up

torch.set_num_threads(1)
folder, kills, compression = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None
network, stimuli, whole, path = networks.build_tiny(), make_stimuli(700), folder / "w", folder / "s"

def record(path):
    up.record(network, stimuli, path, batch_size=16, pool="none", compression=compression,
              shard_stimuli=32)

def recorded():
    return len(list(folder.glob("s.partial/shard-*.json")))

record(whole)
begun = time.monotonic()
record(folder / "again")
duration = time.monotonic() - begun
chance, finished, met = random.Random(0), 0, set()
for _ in range(kills):
    child = os.fork()
    if child == 0:
        record(path)
        os._exit(0)
    wanted = recorded() + chance.randrange(6)
    while recorded() < wanted and not path.exists():
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, duration / 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    met.add(recorded())
    if path.exists():
        assert path.read_bytes() == whole.read_bytes()
        path.unlink()
        finished += 1
record(path)
assert path.read_bytes() == whole.read_bytes()
print(len(met), finished)
"""


def run_script(script, *arguments, timeout=280):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_while_it_clears_up_it_can_be_recorded_again(tmp_path, interrupted, monkeypatch):
    pytest.importorskip("hdf5plugin")
    # The order in which a folder is deleted is the file system's; a kill leaves any part of it.
    network, stimuli = networks.build_tiny(), make_stimuli(60)
    folder = Path(f"{interrupted}.partial")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: (folder / "structure").unlink())
        up.record(network, stimuli, interrupted, compression="zstd")
    assert folder.exists()
    before = interrupted.read_bytes()
    up.record(network, stimuli, interrupted, compression="zstd", overwrite=True)
    assert interrupted.read_bytes() == before


@pytest.mark.process
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_killed_at_any_moment_it_ends_with_the_same_file(tmp_path, compression):
    if compression:
        pytest.importorskip("hdf5plugin")
    stages, _ = run_script(KILLS, tmp_path, 100 if LONG else 6, compression or "").split()
    assert int(stages) >= (10 if LONG else 2)  # the kills met it at different shards


FINISHES = """
import os, random, signal, sys, time, networks, torch
from pathlib import Path
from conftest import make_stimuli
import unitprobe as up

torch.set_num_threads(1)
path, kills = Path(sys.argv[1]), int(sys.argv[2])
network, stimuli, chance = networks.build_tiny(), make_stimuli(700), random.Random(0)
for _ in range(kills):
    child = os.fork()
    if child == 0:
        up.record(network, stimuli, path, pool="none", compression="zstd")
        os._exit(0)
    folder = path.with_name(path.name + ".partial")
    while not (folder / "compressed").exists() and not path.exists():
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if path.exists():
        break
if not path.exists():
    up.record(network, stimuli, path, pool="none", compression="zstd")
"""


@pytest.mark.process
def test_killed_while_it_finishes_it_ends_with_the_same_file(tmp_path):
    pytest.importorskip("hdf5plugin")
    up.record(
        networks.build_tiny(),
        make_stimuli(700),
        tmp_path / "whole.h5",
        pool="none",
        compression="zstd",
    )
    run_script(FINISHES, tmp_path / "s.h5", 50 if LONG else 5)
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The path of a recording that has all its shards and is not finished."""
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            up.record(networks.build_tiny(), make_stimuli(60), tmp_path / "s.h5")
    return tmp_path / "s.h5"


def test_killed_after_the_file_is_in_place_it_is_finished(tmp_path, interrupted):
    folder = Path(f"{interrupted}.partial")
    shutil.copytree(folder, tmp_path / "left")
    up.record(networks.build_tiny(), make_stimuli(60), interrupted)
    before = interrupted.read_bytes()
    (tmp_path / "left" / "data").unlink()  # it was renamed
    (tmp_path / "left").rename(folder)
    assert recording_status(interrupted).complete
    up.record(networks.build_tiny(), make_stimuli(60), interrupted, overwrite=True)
    assert interrupted.read_bytes() == before
    assert not folder.exists()


SLOW = """
import sys, time, networks
from conftest import make_stimuli
import unitprobe as up
network = networks.build_tiny()
network.register_forward_pre_hook(lambda *_: time.sleep(0.02))
up.record(network, make_stimuli(4000), sys.argv[1], batch_size=8, shard_stimuli=8)
"""


def record_many(path):
    up.record(networks.build_tiny(), make_stimuli(4000), path, batch_size=8, shard_stimuli=8)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.process
def test_two_recorders_refuse_each_other_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "s.h5"
    first = subprocess.Popen([sys.executable, "-c", SLOW, str(path)], cwd=TESTS)
    try:
        wait_for(lambda: len(list(tmp_path.glob("s.h5.partial/shard-*.json"))) > 3)
        with pytest.raises(StoreExistsError, match=f"another process .process {first.pid} on") as e:
            record_many(path)
        assert "\n" not in str(e.value)
        status = recording_status(path)
        assert status.active
        assert not status.complete
        assert status.stimuli == 4000
        assert 0 < status.stimuli_done < 4000
        assert status.shards == 500
        assert status.rate > 0
        assert status.seconds_left > 0
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not recording_status(path).active
    record_many(path)
    assert recording_status(path).complete


def test_an_unreadable_manifest_is_one_line(interrupted):
    (Path(f"{interrupted}.partial") / "manifest.json").write_text("{")
    with pytest.raises(up.errors.StoreError, match=r"no readable manifest.*--no-resume"):
        up.record(networks.build_tiny(), make_stimuli(60), interrupted)
    up.record(networks.build_tiny(), make_stimuli(60), interrupted, resume=False)


def test_a_disk_that_fills_up_at_the_end_loses_nothing(tmp_path):
    pytest.importorskip("hdf5plugin")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted")
    try:
        network, stimuli = networks.build_tiny(), make_stimuli(300)
        options = {"pool": "none", "compression": "zstd"}
        (disk / "filler").write_bytes(bytes(1_200_000))
        with pytest.raises(StorageError, match=r"No space left.*what was recorded .* is kept"):
            up.record(network, stimuli, disk / "s.h5", **options)
        assert recording_status(disk / "s.h5").stimuli_done == 300
        (disk / "filler").unlink()
        up.record(network, stimuli, disk / "s.h5", **options)
        up.record(network, stimuli, tmp_path / "whole.h5", **options)
        assert (disk / "s.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
        (disk / "filler").write_bytes(bytes(2_000_000))
        with pytest.raises(StorageError, match="No space left"):
            up.record(network, stimuli, disk / "t.h5", pool="none")
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "s.h5"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # open stores keep it


UNPRIVILEGED = """
import os, sys, networks
from conftest import make_stimuli
import unitprobe as up
network, stimuli = networks.build_tiny(), make_stimuli(60)
record = up.record  # loaded before the libraries can no longer be read
os.chdir(sys.argv[1])
os.mkdir("folder")
os.chmod(".", 0o755)  # whoever is in it may stay, even where the folders above are closed
os.chmod("folder", 0o555)
if os.getuid() == 0:
    os.setuid(65534)  # nothing is unwritable for root
try:
    record(network, stimuli, "folder/s.h5")
except up.errors.StorageError as error:
    print(error)
"""


@pytest.mark.process
def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    out = run_script(UNPRIVILEGED, tmp_path)
    assert "folder cannot be written; choose another path" in out
    assert out.count("\n") == 1


RANK = """
import os, signal, sys, networks, torch
import torch.distributed as dist
from conftest import make_stimuli
import unitprobe as up
dist.init_process_group("gloo")
network, batches = networks.build_tiny(), []

def die(*_):
    batches.append(1)
    if dist.get_rank() == 1 and len(batches) > 20:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "die":
    network.register_forward_pre_hook(die)
tree = up.record(network, make_stimuli(1000), sys.argv[1], batch_size=16, shard_stimuli=64)
total = float(tree["relu"]["response"].sum())
# One call: the pieces of a print mix with those of other processes.
sys.stdout.write(f"opened {len(tree['stimulus'])} {total}\\n")
sys.stdout.flush()
dist.destroy_process_group()
"""


def launch(processes, script, *arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={processes}", str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=240, env=environment
    )


@pytest.mark.process
def test_many_processes_give_the_file_of_one_also_after_one_was_killed(tmp_path, monkeypatch):
    script = tmp_path / "rank.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(TESTS)!r})\n{RANK}")
    killed = launch(2, script, tmp_path / "s.h5", "die")
    assert killed.returncode != 0
    assert 0 < recording_status(tmp_path / "s.h5").shards_done < 16
    done = launch(3, script, tmp_path / "s.h5", "live")  # sixteen shards, 1000 stimuli
    assert done.returncode == 0, done.stderr
    assert len({line for line in done.stdout.splitlines() if line.startswith("opened")}) == 1
    assert done.stdout.count("opened 1000") == 3
    assert not (tmp_path / "s.h5.partial").exists()
    alone = launch(1, script, tmp_path / "one.h5", "live")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
