import h5netcdf
import h5py
import numpy as np
import pytest

from unitprobe.store.netcdf import NetcdfWriter, write_attributes


def written_by_h5netcdf(path):
    with h5netcdf.File(path, "w") as file:
        file.attrs["title"], file.attrs["schema"] = "ünits", np.int64(1)
        file.dimensions = {"stimulus": 3}
        names = np.asarray(["a", "b", "ç"], object)
        file.create_variable("stimulus", ("stimulus",), h5py.string_dtype(), data=names)
        for layer in ("second", "first"):
            group = file.create_group(layer)
            group.attrs["shape"] = np.array([4, 2])
            group.dimensions = {"unit": 4, "x": 2}
            group.create_variable("unit", ("unit",), np.int64, data=np.arange(4))
            dims = ("stimulus", "unit", "x")
            array = group.create_variable("activation", dims, "f4", chunks=(2, 4, 2))
            array.attrs["long_name"] = "activation"


def written_by_us(path):
    with h5py.File(path, "w", track_order=True) as file:
        writer = NetcdfWriter(file)
        write_attributes(file, {"title": "ünits", "schema": np.int64(1)})
        stimulus = writer.coordinates(file, "stimulus", ["a", "b", "ç"], h5py.string_dtype())
        for layer in ("second", "first"):
            group = file.create_group(layer, track_order=True)
            write_attributes(group, {"shape": np.array([4, 2])})
            unit = writer.coordinates(group, "unit", np.arange(4), np.int64)
            dims = [stimulus, unit, writer.dimension(group, "x", 2)]
            array = writer.variable(group, "activation", dims, "f4", chunks=(2, 4, 2))
            write_attributes(array, {"long_name": "activation"})


def attributes_of(file, item):
    """Every attribute: its type in the file and its value, references as the names they mean."""
    found = {}
    for name in item.attrs:
        kind, value = item.attrs.get_id(name).get_type(), item.attrs[name]
        if name == "DIMENSION_LIST":
            value = [file[scale].name for (scale,) in value]
        if name == "REFERENCE_LIST":
            value = [(file[dataset].name, axis) for dataset, axis in value]
        kind = (kind.get_class(), kind.get_size(), item.attrs.get_id(name).shape)
        found[name] = (kind, np.asarray(value).tolist())
    found.pop("_NCProperties", None)
    return found


@pytest.fixture
def both(tmp_path):
    written_by_us(tmp_path / "ours.h5")
    written_by_h5netcdf(tmp_path / "h5netcdf.h5")
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "h5netcdf.h5") as theirs:
        yield ours, theirs


def test_every_attribute_is_what_h5netcdf_writes(both):
    ours, theirs = both
    names = ["/"]
    theirs.visit(names.append)
    assert len(names) == 10
    for name in names:
        assert attributes_of(ours, ours[name]) == attributes_of(theirs, theirs[name]), name


def test_every_dataset_is_what_h5netcdf_makes(both):
    ours, theirs = both
    names = []
    theirs.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    assert [len(names), sum(ours[name].is_scale for name in names)] == [7, 5]
    for name in names:
        one, other = ours[name], theirs[name]
        assert (one.dtype, one.shape, one.chunks) == (other.dtype, other.shape, other.chunks)
        np.testing.assert_array_equal(one[()], other[()])


def test_groups_and_variables_keep_the_order_in_which_they_were_made(both):
    for file in both:
        assert list(file) == ["stimulus", "second", "first"]


def test_h5netcdf_reads_the_dimensions(tmp_path):
    written_by_us(tmp_path / "ours.h5")
    with h5netcdf.File(tmp_path / "ours.h5") as file:
        assert file["second/activation"].dimensions == ("stimulus", "unit", "x")
        assert {name: dim.size for name, dim in file["first"].dimensions.items()} == {
            "unit": 4,
            "x": 2,
        }
