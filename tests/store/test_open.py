import fcntl

import h5py
import networks
import numpy as np
import pytest
import xarray as xr
from conftest import make_stimuli

import unitprobe as up
from unitprobe.errors import StorageError, StoreError, StoreExistsError, StoreNotFoundError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s.h5"
    up.record(networks.build_tiny(), make_stimuli(40), path)
    return path


def damaged(store, tmp_path, edit):
    copy = tmp_path / "damaged.h5"
    data = bytearray(store.read_bytes())
    copy.write_bytes(edit(data))
    return copy


def test_opening_reads_no_responses(store):
    tree = up.open_store(store)
    assert not tree["relu"]["response"].variable._in_memory


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_it_is_the_tree_that_xarray_opens_by_itself(tmp_path, pool):
    for name, network in (("maps", networks.build_tiny()), ("tokens", networks.TinyAttention())):
        path = tmp_path / f"{name}.h5"
        up.record(network, make_stimuli(40), path, pool=pool)
        with xr.open_datatree(path, engine="h5netcdf") as expected, up.open_store(path) as tree:
            assert tree.identical(expected)
            for layer, node in expected.children.items():
                for variable in node.data_vars:
                    ours, theirs = tree[layer][variable], node[variable]
                    assert ours.dtype == theirs.dtype
                    assert ours.encoding["chunksizes"] == theirs.encoding["chunksizes"]


def test_dask_opens_it_in_chunks(store):
    pytest.importorskip("dask")
    tree = up.open_store(store, chunks="auto")
    assert tree["relu"]["response"].chunks is not None


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(StoreNotFoundError, match="does not exist") as caught:
        up.open_store(tmp_path / "none.h5")
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_store_is_said_to_be_damaged(store, tmp_path, share):
    copy = damaged(store, tmp_path, lambda data: data[: int(len(data) * share)])
    with pytest.raises(StoreError, match=r"damaged\.h5 is damaged: .*truncated"):
        up.open_store(copy)


def test_a_file_of_another_kind_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a store")
    with pytest.raises(StoreError, match="not an HDF5 file"):
        up.open_store(text)
    with pytest.raises(StoreError, match="not an HDF5 file"):
        up.open_store(tmp_path)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(StoreError, match="not one of unitprobe's"):
        up.open_store(foreign)


def test_a_layer_of_another_length_or_type_is_refused(store, tmp_path):
    for change in ("shape", "type", "gone"):
        copy = tmp_path / f"{change}.h5"
        copy.write_bytes(store.read_bytes())
        with h5py.File(copy, "r+") as file:
            del file["relu/response"]
            if change == "shape":
                file["relu/response"] = np.zeros((3, 6), np.float32)
            if change == "type":
                file["relu/response"] = np.zeros((40, 6), "S3")
        with pytest.raises(StoreError, match="'relu'"):
            up.open_store(copy)


def test_a_newer_schema_is_not_guessed_at(store, tmp_path):
    copy = tmp_path / "new.h5"
    copy.write_bytes(store.read_bytes())
    with h5py.File(copy, "r+") as file:
        file.attrs["unitprobe_schema"] = 99
    with pytest.raises(StoreError, match="schema 99"):
        up.open_store(copy)


def test_an_analysis_saves_whole_and_opens_as_it_was(store, tmp_path):
    analysis = up.analyze(up.open_store(store), n_permutations=10)
    up.save_tree(analysis, tmp_path / "a.h5")
    with pytest.raises(StoreExistsError):
        up.save_tree(analysis, tmp_path / "a.h5")
    opened = up.open_store(tmp_path / "a.h5")
    for name, node in analysis.subtree_with_keys:
        xr.testing.assert_equal(opened[name].to_dataset(), node.to_dataset())
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_group_of_the_users_own_is_ignored(store, tmp_path):
    copy = tmp_path / "own.h5"
    copy.write_bytes(store.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["behaviour/rt"] = np.arange(40.0)
    assert list(up.open_store(copy).children) == list(up.open_store(store).children)
    assert up.status(copy).layers == up.status(store).layers
    assert "gini" in up.analyze(copy, metrics=["gini"])["relu"]


def test_a_store_that_another_program_writes_to_is_not_called_damaged(store, tmp_path):
    copy = tmp_path / "held.h5"
    copy.write_bytes(store.read_bytes())
    with copy.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"held\.h5 is open in another program"):
            up.open_store(copy)
    up.open_store(copy)


def test_xarray_opens_it_with_the_engine_of_this_name(store):
    with xr.open_datatree(store, engine="unitprobe") as opened:
        xr.testing.assert_identical(opened.load(), up.open_store(store).load())


def test_the_engine_refuses_what_is_not_a_recording(store, tmp_path):
    up.save_tree(up.analyze(store, metrics=["gini"]), tmp_path / "a.h5")
    with pytest.raises(StoreError, match=r"holds: analysis; open it with engine='h5netcdf'"):
        xr.open_datatree(tmp_path / "a.h5", engine="unitprobe")
