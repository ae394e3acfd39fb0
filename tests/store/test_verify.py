import h5py
import networks
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_stimuli

import unitprobe as up
from unitprobe.errors import StoreError, StoreNotFoundError


@pytest.fixture(params=["pooled", "activations", "compressed"])
def store(request, tmp_path):
    """Forty-eight stimuli in three shards and whole chunks; layers in an order of their own."""
    if request.param == "compressed":
        pytest.importorskip("hdf5plugin")
    options = {
        "pooled": {"layers": ["relu", "conv1"]},
        "activations": {"pool": "none", "dtype": "float16"},
        "compressed": {"pool": "none", "compression": "zstd"},
    }[request.param]
    path = tmp_path / "s.h5"
    up.record(
        networks.build_tiny(), make_stimuli(48), path, batch_size=8, shard_stimuli=16, **options
    ).close()
    return path


def offsets_of_numbers(path):
    """Where each chunk of each layer stands: (start, length)."""
    found = []
    with h5py.File(path) as file:
        for group in (item for item in file.values() if isinstance(item, h5py.Group)):
            array = group["response" if "response" in group else "activation"]
            array.id.chunk_iter(lambda chunk: found.append((chunk.byte_offset, chunk.size)))
    return found


def test_a_file_is_as_it_was_recorded(store):
    up.verify_store(store)


def test_one_flipped_bit_in_any_array_is_found(store, tmp_path):
    whole, random = store.read_bytes(), np.random.default_rng(0)
    for start, length in offsets_of_numbers(store):
        for place in {start, start + length - 1, start + int(random.integers(length))}:
            mutant = bytearray(whole)
            mutant[place] ^= 1 << random.integers(8)
            copy = tmp_path / f"{place}.h5"  # HDF5 would remember what stood in a file of that name
            copy.write_bytes(mutant)
            assert f"{place}.h5 is damaged" in what_is_wrong(copy)


def what_is_wrong(path):
    try:
        up.verify_store(path)
    except StoreError as error:
        return str(error)
    return ""


def test_the_message_names_the_stimuli(tmp_path):
    path = tmp_path / "s.h5"
    up.record(networks.build_tiny(), make_stimuli(40), path, batch_size=8, shard_stimuli=16).close()
    with h5py.File(path) as file:
        chunks = file["relu_1/response"].id
        start, row = chunks.get_chunk_info(0).byte_offset, 4 * file["relu_1/response"].chunks[1]
    data = bytearray(path.read_bytes())
    data[start + 17 * row] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="numbers of the stimuli 16 to 31 have changed"):
        up.verify_store(path)
    data[start + 39 * row] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="stimuli 16 to 31 and in 1 more ranges have changed"):
        up.verify_store(path)


def test_labels_ids_and_units_are_checked_with_the_structure(store, tmp_path):
    with h5py.File(store) as file:
        layer = next(name for name, item in file.items() if isinstance(item, h5py.Group))
        offsets = [file[name].id.get_offset() for name in ("label", f"{layer}/unit")]
    for offset in offsets:
        mutant = bytearray(store.read_bytes())
        mutant[offset] ^= 1
        (tmp_path / "copy.h5").write_bytes(mutant)
        with pytest.raises(StoreError, match="structure has changed"):
            up.verify_store(tmp_path / "copy.h5")


def test_nan_where_a_stimulus_did_not_reach_a_layer_is_not_damage(tmp_path):
    class Fork(torch.nn.Module):
        input_size = (3, 8, 8)

        def __init__(self):
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, x):
            return self.relu(x) if x.mean() > 0 else x

    with pytest.warns(UserWarning, match="not reached"):
        up.record(Fork(), make_stimuli(12), tmp_path / "s.h5").close()
    up.verify_store(tmp_path / "s.h5")


def test_a_saved_result_has_nothing_but_its_structure(tmp_path):
    up.record(networks.build_tiny(), make_stimuli(20), tmp_path / "s.h5")
    up.save_tree(up.analyze(up.open_store(tmp_path / "s.h5")), tmp_path / "analysis.h5")
    up.verify_store(tmp_path / "analysis.h5")


def test_what_another_program_has_changed_cannot_be_verified(store):
    with h5py.File(store, "r+") as file:
        file.attrs["note"] = "mine"
    with pytest.raises(StoreError, match="has no checksums of its numbers"):
        up.verify_store(store)


def test_only_a_store_is_accepted(tmp_path):
    with pytest.raises(StoreNotFoundError):
        up.verify_store(tmp_path / "none.h5")
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "other.h5", engine="h5netcdf")
    with pytest.raises(StoreError, match="not one of unitprobe's"):
        up.verify_store(tmp_path / "other.h5")
