"""Stores that were mutated open and read as what they were, or are refused: nothing else happens.

With the environment variable ``UNITPROBE_LONG_TESTS`` set, a thousand mutated stores instead of 60.
A changed number among the responses is not noticed: HDF5 keeps no checksum of it.
"""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import networks
import numpy as np
import pytest
from conftest import make_stimuli

import unitprobe as up
from unitprobe.errors import StoreError
from unitprobe.store.checksum_footer import write_footer
from unitprobe.store.layout import structure_of

TESTS = Path(__file__).parent.parent
COUNT = 1000 if os.environ.get("UNITPROBE_LONG_TESTS") else 60

# Opens and reads one mutant after another in one process, which has 4 GB and no more. It says the
# name of each before, so that a crash has one.
READER = """
import resource, sys, warnings
import numpy as np
import unitprobe as up
warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), -1))
for path in sys.argv[2:]:
    print(path, end=" ", flush=True)
    try:
        with up.open_store(path) as tree:
            shapes = [
                f"{name}:{variable.dtype}{variable.values.shape}"
                for node in tree.subtree
                for name, variable in {**node.coords, **node.data_vars}.items()
            ]
        print("read", *shapes, flush=True)
    except up.errors.UnitprobeError as error:
        assert "\\n" not in str(error), error
        print("refused", str(error)[:200], flush=True)
"""

# How HDF5 itself may have changed a store.
EDITS = {
    "shape": lambda file: replace(file, "relu/response", lambda old: old[:, :3]),
    "length": lambda file: replace(file, "relu/response", lambda old: old[:5]),
    "flat": lambda file: replace(file, "relu/response", lambda old: old.ravel()),
    "type": lambda file: replace(file, "relu/response", lambda old: old.astype("S4")),
    "objects": lambda file: replace(file, "relu_1/response", lambda old: old.astype(complex)),
    "labels": lambda file: replace(file, "label", lambda old: old.astype(float)),
    "ids": lambda file: replace(file, "stimulus", lambda old: old[:3]),
    "number ids": lambda file: replace(file, "stimulus", lambda old: list(range(len(old)))),
    "scalar": lambda file: replace(file, "label", lambda old: 3),
    "a group": lambda file: (file.__delitem__("relu/unit"), file.create_group("relu/unit")),
    "an array": lambda file: (file.__delitem__("relu"), file.create_dataset("relu", data=[1.0])),
    "no scales": lambda file: replace(file, "relu/unit", lambda old: old),
    "content": lambda file: file.attrs.__setitem__("unitprobe_content", [1, 2]),
    "schema": lambda file: file.attrs.__setitem__("unitprobe_schema", "newest"),
    "huge": lambda file: replace(file, "relu/response", None),
}


def replace(file, name, change):
    old = file[name][()]
    del file[name]
    if change is None:
        file.create_dataset(name, shape=(40, 2**40), dtype="f4", chunks=(40, 64))
    else:
        file[name] = change(old)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.h5"
    up.record(networks.build_tiny(), make_stimuli(40), path)
    return path


def read(paths, memory=4 * 2**30):
    """Return what became of each mutant: "read ..." or "refused ..."."""
    command = [sys.executable, "-c", READER, str(memory), *map(str, paths)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=280)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-2000:]}"
    assert len(lines) == len(paths)
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.process
def test_flipped_and_missing_bits_are_refused_or_change_nothing(store, tmp_path):
    random = np.random.default_rng(0)
    whole = store.read_bytes()
    with h5py.File(store) as file:
        chunks = [file[f"{name}/response"].id.get_chunk_info(0) for name in ("relu", "relu_1")]
    numbers = {place for c in chunks for place in range(c.byte_offset, c.byte_offset + c.size)}
    paths, harmless = [], []
    for index in range(COUNT):
        mutant = bytearray(whole)
        if index % 5 == 4:
            del mutant[random.integers(1, len(mutant)) :]
            harmless.append(False)
        else:
            places = random.integers(0, len(mutant), random.integers(1, 4))
            for place in places:
                mutant[place] ^= 1 << random.integers(8)
            harmless.append(set(places.tolist()) <= numbers)
        paths.append(tmp_path / f"{index}.h5")
        paths[-1].write_bytes(mutant)
    expected = read([store])[str(store)]
    found = read(paths)
    for path, only_numbers in zip(paths, harmless, strict=True):
        outcome = found[str(path)]
        assert outcome.startswith("refused") or outcome == expected
        if only_numbers:
            assert outcome == expected


@pytest.mark.process
@pytest.mark.parametrize("sealed", [True, False])
def test_an_unsealed_store_is_refused_or_read_too(store, tmp_path, sealed):
    paths = []
    for name, edit in EDITS.items():
        paths.append(tmp_path / f"{name.replace(' ', '_')}.h5")
        paths[-1].write_bytes(store.read_bytes())
        with h5py.File(paths[-1], "r+") as file:
            edit(file)
        if sealed:
            write_footer(paths[-1])
    found = {Path(path).stem: outcome for path, outcome in read(paths).items()}
    for name in ("length", "flat", "type", "objects", "labels", "ids", "scalar", "a_group"):
        assert found[name].startswith("refused"), (name, found[name])


def test_one_flipped_bit_anywhere_in_the_structure_is_seen(store, tmp_path):
    copy = tmp_path / "copy.h5"
    data = store.read_bytes()
    for place in range(0, structure_of(store)[0][1], 97 if COUNT < 1000 else 7):
        mutant = bytearray(data)
        mutant[place] ^= 4
        copy.write_bytes(mutant)
        with pytest.raises(StoreError):
            up.open_store(copy)
