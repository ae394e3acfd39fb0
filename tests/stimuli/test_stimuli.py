import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from unitprobe.errors import ImageError, LabelError, StimuliError, UnitprobeError, UnitprobeWarning
from unitprobe.stimuli import Stimuli, load_stimuli


def image_file(path: Path, colour=(10, 20, 30), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(["cat", "ant", "bee"]):
        for index in range(3):
            image_file(tmp_path / name / f"{index}.png", (label, index, 0))
    return tmp_path


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return f"array:{path}"

    return write


def of_labels(labels, **kwargs):
    return Stimuli(np.zeros((len(labels), 4, 4), np.uint8), labels, **kwargs)


def test_every_message_is_one_line(folder, npz):
    specs = ["what", "imagefolder:nowhere", "array:nowhere.npz", f"cifar10:{folder}", npz(y=[1])]
    for spec in specs:
        with pytest.raises(UnitprobeError) as caught:
            load_stimuli(spec)
        assert "\n" not in str(caught.value)


class TestDigits:
    def test_images_are_grey_and_eight_pixels_wide(self):
        image, label = load_stimuli("digits", split="all")[0]
        assert (image.mode, image.size, label) == ("L", (8, 8), 0)

    def test_the_full_range_of_grey_is_used(self):
        pixels = np.concatenate([np.asarray(image) for image, _ in load_stimuli("digits")])
        assert (pixels.min(), pixels.max()) == (0, 255)

    def test_splits_part_the_set_with_a_fifth_of_each_class_for_testing(self):
        train, test, both = (load_stimuli("digits", split=s) for s in ("train", "test", "all"))
        assert sorted([*train.ids, *test.ids]) == sorted(both.ids)
        assert len(both) == 1797
        share = np.bincount(test.labels) / np.bincount(both.labels)
        np.testing.assert_allclose(share, 0.2, atol=0.01)

    def test_ids_and_names(self):
        test = load_stimuli("digits")
        assert test.ids[0] == "digits/0000"
        assert test.class_names == list("0123456789")
        assert test.name == "digits"
        assert test.labels.dtype == np.int64

    def test_a_split_that_digits_lack(self):
        with pytest.raises(StimuliError, match="no split 'val'; it has train, test, all"):
            load_stimuli("digits", split="val")


class TestFolder:
    def test_classes_and_images_are_sorted(self, folder):
        stimuli = load_stimuli(f"imagefolder:{folder}")
        assert stimuli.class_names == ["ant", "bee", "cat"]
        assert stimuli.ids.tolist()[:4] == ["ant/0.png", "ant/1.png", "ant/2.png", "bee/0.png"]
        assert stimuli.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]

    def test_images_are_rgb(self, folder):
        Image.new("L", (5, 4), 7).save(folder / "ant" / "0.png")
        image, label = load_stimuli(f"imagefolder:{folder}")[0]
        assert (image.mode, image.size, image.getpixel((0, 0)), label) == (
            "RGB",
            (5, 4),
            (7,) * 3,
            0,
        )

    def test_upper_case_nested_hidden_and_other_files(self, folder):
        image_file(folder / "ant" / "deep" / "a.JPEG")
        image_file(folder / "ant" / ".cache" / "a.png")
        image_file(folder / "ant" / ".hidden.png")
        image_file(folder / ".thumbs" / "a.png")
        (folder / "ant" / "notes.txt").write_text("not an image")
        with pytest.warns(UnitprobeWarning, match=r"1 files are left out.* 1 \.txt"):
            stimuli = load_stimuli(f"imagefolder:{folder}")
        assert stimuli.class_names == ["ant", "bee", "cat"]
        assert [i for i in stimuli.ids if i.startswith("ant")][3:] == ["ant/deep/a.JPEG"]

    def test_a_file_name_that_is_not_text_is_named(self, folder):
        name = os.fsencode(folder / "ant") + b"/\xff.png"
        try:
            Path(os.fsdecode(name)).write_bytes(b"")
        except OSError:
            pytest.skip("this system takes no such name")
        with pytest.raises(StimuliError, match="is not UTF-8"):
            load_stimuli(f"imagefolder:{folder}")

    def test_a_divided_folder_is_read_by_split(self, tmp_path):
        for split in ("train", "test"):
            for name in ("ant", "bee"):
                image_file(tmp_path / split / name / f"{split}.png")
        stimuli = load_stimuli(f"imagefolder:{tmp_path}", split="train")
        assert stimuli.ids.tolist() == ["ant/train.png", "bee/train.png"]
        assert load_stimuli(f"imagefolder:{tmp_path}").ids[0] == "ant/test.png"

    def test_test_falls_back_to_val(self, tmp_path):
        for name in ("ant", "bee"):
            image_file(tmp_path / "val" / name / "a.png")
        assert len(load_stimuli(f"imagefolder:{tmp_path}", split="test")) == 2

    def test_a_split_that_a_divided_folder_lacks(self, tmp_path):
        image_file(tmp_path / "train" / "ant" / "a.png")
        with pytest.raises(StimuliError, match="no split 'val'; it has train"):
            load_stimuli(f"imagefolder:{tmp_path}", split="val")

    @pytest.mark.parametrize("split", ["train", "test", "val", "all"])
    def test_an_undivided_folder_is_used_whole(self, folder, split):
        assert len(load_stimuli(f"imagefolder:{folder}", split=split)) == 9

    def test_a_class_may_be_called_train(self, tmp_path):
        for name in ("train", "car"):
            image_file(tmp_path / name / "a.png")
        assert load_stimuli(f"imagefolder:{tmp_path}").class_names == ["car", "train"]

    def test_a_truncated_image_is_named_when_it_is_read(self, folder):
        path = folder / "ant" / "1.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:500])
        stimuli = load_stimuli(f"imagefolder:{folder}")
        with pytest.raises(ImageError, match=str(path)) as caught:
            stimuli[1]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50]
    )
    def test_a_corrupt_image_is_named_and_no_other_suffers(self, folder, content):
        path = folder / "ant" / "0.png"
        path.write_bytes(content)
        stimuli = load_stimuli(f"imagefolder:{folder}")
        with pytest.raises(ImageError, match=str(path)):
            stimuli[0]
        assert stimuli[1][1] == 0

    def test_a_worker_process_raises_the_same_error(self, folder):
        (folder / "ant" / "0.png").write_bytes(b"no image")
        stimuli = load_stimuli(f"imagefolder:{folder}", transform=np.asarray)
        with pytest.raises(ImageError, match=r"ant/0\.png"):
            next(iter(DataLoader(stimuli, num_workers=1)))

    def test_sixteen_bits_are_refused_where_pil_would_clip_them_to_white(self, folder):
        Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(folder / "ant" / "0.png")
        with pytest.raises(ImageError, match="not 8 bits"):
            load_stimuli(f"imagefolder:{folder}")[0]

    def test_a_folder_that_is_not_there(self):
        with pytest.raises(StimuliError, match="no folder nowhere"):
            load_stimuli("imagefolder:nowhere")

    def test_images_without_class_folders(self, tmp_path):
        image_file(tmp_path / "a.png")
        with pytest.raises(StimuliError, match="holds no folders, so its images have no labels"):
            load_stimuli(f"imagefolder:{tmp_path}")

    def test_a_class_folder_without_images(self, folder):
        (folder / "dog").mkdir()
        with pytest.raises(StimuliError, match=f"class folder {folder / 'dog'} holds no image"):
            load_stimuli(f"imagefolder:{folder}")

    def test_one_class_only(self, tmp_path):
        image_file(tmp_path / "ant" / "a.png")
        with pytest.raises(LabelError, match="only one class, 'ant'"):
            load_stimuli(f"imagefolder:{tmp_path}")


class TestCifar:
    @pytest.fixture
    def cifar(self, tmp_path, monkeypatch):
        import torchvision.datasets.cifar as cifar

        # The check sums are those of the real, large, files.
        monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
        base = tmp_path / "cifar-10-batches-py"
        base.mkdir()
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        for name in names:
            batch = {"data": np.full((10, 3072), 9, np.uint8), "labels": list(range(10))}
            (base / name).write_bytes(pickle.dumps(batch))
        meta = {"label_names": [f"class{i}" for i in range(10)]}
        (base / "batches.meta").write_bytes(pickle.dumps(meta))
        return f"cifar10:{tmp_path}"

    def test_splits_names_and_ids(self, cifar):
        test, train = load_stimuli(cifar), load_stimuli(cifar, split="train")
        assert (len(test), len(train)) == (10, 50)
        assert test.class_names[3] == "class3"
        assert (test.ids[2], train.ids[49]) == ("cifar10/test/00002", "cifar10/train/00049")
        assert (test[0][0].mode, test[0][0].size) == ("RGB", (32, 32))

    @pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
    def test_absent(self, tmp_path, kind):
        with pytest.raises(StimuliError, match=r"absent.*'imagefolder:DIR' reads a folder"):
            load_stimuli(f"{kind}:{tmp_path}")

    def test_a_split_that_it_lacks(self, tmp_path):
        with pytest.raises(StimuliError, match="no split 'all'; it has train, test"):
            load_stimuli(f"cifar10:{tmp_path}", split="all")


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "mode"),
        [
            ((6, 5, 4), "L"),
            ((6, 5, 4, 1), "L"),
            ((6, 1, 5, 4), "L"),
            ((6, 5, 4, 3), "RGB"),
            ((6, 3, 5, 4), "RGB"),
        ],
    )
    def test_bytes_become_images(self, npz, shape, mode):
        x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        stimuli = load_stimuli(npz(x=x, y=[0, 1] * 3))
        image = stimuli[2][0]
        assert (image.mode, image.size) == (mode, (4, 5))
        pixels = np.asarray(image)
        expected = np.moveaxis(x[2], 0, -1) if shape[1] in (1, 3) else x[2]
        np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)
        assert not stimuli.ready

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_floats_are_network_inputs_that_no_transform_touches(self, npz, dtype):
        x = np.random.default_rng(0).normal(size=(4, 2, 5, 3)).astype(dtype)
        with pytest.warns(UnitprobeWarning, match="floats, which are network inputs"):
            stimuli = load_stimuli(npz(x=x, y=[0, 1, 0, 1]), transform=lambda image: 1 / 0)
        image, label = stimuli[1]
        assert stimuli.ready
        assert stimuli.transform is None
        assert (image.dtype, label) == (torch.float32, 1)
        np.testing.assert_array_equal(image.numpy(), x[1].astype("float32"))

    def test_what_is_given_out_is_a_copy(self):
        x = np.zeros((2, 1, 2, 2), np.float32)
        Stimuli(x, [0, 1])[0][0].add_(1)
        assert x.sum() == 0

    def test_class_names_and_ids(self, npz):
        spec = npz(x=np.zeros((3, 4, 4), np.uint8), y=[1, 0, 1], class_names=["ant", "bee"])
        stimuli = load_stimuli(spec)
        assert stimuli.class_names == ["ant", "bee"]
        assert stimuli.ids.tolist() == ["00000", "00001", "00002"]
        assert stimuli.name == spec

    @pytest.mark.parametrize(
        ("arrays", "error", "message"),
        [
            ({"y": [0, 1]}, StimuliError, "holds no images 'x'"),
            ({"x": np.zeros((2, 4, 4), np.uint8)}, LabelError, "holds no labels 'y'"),
            ({"y": [0, 1, 1]}, LabelError, r"shape \(3,\); one for each of the 2 stimuli"),
            ({"y": [[[0]], [[1]]]}, LabelError, r"labels have shape \(2, 1, 1\)"),
            ({"y": [0.0, 0.5]}, LabelError, "label 0.5 of stimulus 1 is not a whole number"),
            ({"y": [0, np.nan]}, LabelError, "1 labels are missing"),
            ({"y": [0, -1]}, LabelError, "label -1 of stimulus 1 is negative"),
            ({"y": [0, 0]}, LabelError, "only one class, '0'"),
            ({"y": [0, 1], "class_names": ["a"]}, LabelError, "label 1 has no name among 1"),
            ({"y": [0, 1], "class_names": ["a", "a"]}, LabelError, "than one class is named 'a'"),
            ({"y": [0, 1], "class_names": [1, 2]}, LabelError, "array of str is needed"),
            ({"x": np.zeros((0, 4, 4), np.uint8), "y": []}, StimuliError, "hold no images"),
            ({"x": np.zeros((2, 0, 4), np.uint8)}, StimuliError, "holds no pixels"),
            ({"x": np.zeros((2, 4, 4, 2), np.uint8)}, StimuliError, "1 or 3 channels"),
            ({"x": np.zeros((2, 4), np.uint8)}, StimuliError, r"shape \(2, 4\)"),
            ({"x": np.zeros((2, 4, 4), np.int64)}, StimuliError, "type int64; uint8"),
            ({"x": np.zeros(2)}, StimuliError, "two or more axes"),
        ],
    )
    def test_malformed(self, npz, arrays, error, message):
        full = {"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 1]} | arrays
        if list(arrays) in (["x"], ["y"]) and "holds no" in message and "pixels" not in message:
            full = arrays
        with pytest.raises(error, match=message):
            load_stimuli(npz(**full))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinite_pixels(self, npz, value):
        x = np.zeros((3, 1, 4, 4), np.float32)
        x[1, 0, 2, 2] = value
        with pytest.raises(StimuliError, match=r"1 of 3 stimuli hold NaN .* first is stimulus 1"):
            load_stimuli(npz(x=x, y=[0, 1, 0]))

    def test_no_file(self):
        with pytest.raises(StimuliError, match=r"no file nowhere\.npz"):
            load_stimuli("array:nowhere.npz")

    @pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage"])
    def test_no_npz(self, tmp_path, content):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(StimuliError, match=r"not a readable \.npz file"):
            load_stimuli(f"array:{tmp_path / 'a.npz'}")

    def test_a_bare_npy(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros(3))
        with pytest.raises(StimuliError, match=r"not a readable \.npz file"):
            load_stimuli(f"array:{tmp_path / 'a.npy'}")

    def test_objects_in_the_file_are_never_unpickled(self, npz):
        class Trap:
            def __reduce__(self):
                return pytest.fail, ("code from the file ran",)

        trap = np.empty(2, dtype=object)
        trap[:] = Trap()
        with pytest.raises(StimuliError, match="allow_pickle"):
            load_stimuli(npz(x=trap, y=[0, 1]))


class TestOwnImages:
    def test_pil_images(self):
        images = [Image.new("L", (3, 3), value) for value in (0, 9)]
        stimuli = Stimuli(images, [0, 1], ["dark", "light"], ids=["a", "b"], transform=np.asarray)
        assert stimuli[1][0].max() == 9
        assert stimuli.ids.tolist() == ["a", "b"]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("wrap", [torch.stack, list])
    def test_float_tensors_are_ready(self, dtype, wrap):
        images = wrap([torch.full((1, 2, 2), value, dtype=dtype) for value in (0, 2)])
        stimuli = Stimuli(images, [0, 1])
        assert stimuli.ready
        assert stimuli[1][0].dtype == torch.float32
        assert stimuli[1][0].mean() == 2
        assert stimuli.fingerprint

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_ready_images_are_those_that_are_given_out_one_by_one(self, dtype):
        images = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(dtype)
        stimuli = Stimuli(images, [0, 1, 0, 1, 1]).select([4, 0, 1, 3])
        chosen = stimuli.ready_images([2, 0])
        assert torch.equal(chosen, torch.stack([stimuli[2][0], stimuli[0][0]]))
        assert chosen.dtype == torch.float32

    def test_a_network_may_write_into_ready_images(self):
        images = np.ones((4, 1, 2, 2), np.float32)
        stimuli = Stimuli(images, [0, 1, 0, 1])
        stimuli.ready_images(range(3)).zero_()
        stimuli.ready_images(range(4)).zero_()
        assert images.all()

    def test_only_an_array_of_floats_has_ready_images(self):
        class Flipped(Stimuli):
            def __getitem__(self, index):
                image, label = super().__getitem__(index)
                return image.flip(-1), label

        floats = np.ones((2, 1, 2, 2), np.float32)
        assert Stimuli(list(map(torch.tensor, floats)), [0, 1]).ready_images([0]) is None
        assert Stimuli(np.ones((2, 2, 2), np.uint8), [0, 1]).ready_images([0]) is None
        assert Flipped(floats, [0, 1]).ready_images([0]) is None

    def test_a_list_of_byte_arrays(self):
        images = [np.zeros((2, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
        stimuli = Stimuli(images, [0, 1])
        assert [image.mode for image, _ in stimuli] == ["L", "RGB"]

    @pytest.mark.parametrize("item", [np.zeros((2, 2), int), np.zeros((5, 4, 4), np.uint8)])
    def test_an_item_that_is_not_an_image(self, item):
        with pytest.raises(StimuliError, match="an image has"):
            Stimuli([item, item], [0, 1])[0]

    def test_repeated_ids(self):
        with pytest.raises(StimuliError, match="more than one image has the id 'a'"):
            of_labels([0, 1, 1], ids=["a", "b", "a"])

    def test_wrong_number_of_ids(self):
        with pytest.raises(StimuliError, match="2 ids for 3 images"):
            of_labels([0, 1, 1], ids=["a", "b"])


class TestTransformAndSelection:
    def test_the_transform_gets_the_image(self):
        stimuli = load_stimuli("digits", transform=lambda image: image.size)
        assert stimuli[0][0] == (8, 8)

    def test_with_transform_leaves_the_original(self):
        stimuli = of_labels([0, 1])
        other = stimuli.with_transform(lambda image: "changed")
        assert other[0][0] == "changed"
        assert stimuli[0][0] != "changed"
        assert other._images is stimuli._images

    def test_select_keeps_images_labels_and_ids_together(self):
        images = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
        chosen = Stimuli(images, [0, 1, 2, 0, 1]).select([4, 1]).select([1, 0])
        assert chosen.ids.tolist() == ["00001", "00004"]
        assert [np.asarray(image).max() for image, _ in chosen] == [1, 4]
        assert chosen.labels.tolist() == [1, 1]
        assert len(chosen.class_names) == 3

    def test_select_by_booleans(self):
        assert of_labels([0, 1, 1]).select([False, True, False]).ids.tolist() == ["00001"]

    @pytest.mark.parametrize(
        ("indices", "message"),
        [
            ([], "are invalid"),
            ([0.5], "are invalid"),
            ([True], "are invalid"),
            ([3], "no index 3 among 3"),
            ([-1], "no index -1"),
            ([1, 1], "index 1 is selected more than once"),
        ],
    )
    def test_a_selection_that_cannot_be(self, indices, message):
        with pytest.raises(StimuliError, match=message):
            of_labels([0, 1, 1]).select(indices)

    def test_stimuli_can_be_sent_to_workers(self, folder):
        stimuli = pickle.loads(pickle.dumps(load_stimuli(f"imagefolder:{folder}")))
        assert stimuli[8][1] == 2


class TestFingerprint:
    def test_is_the_same_for_the_same_contents(self, folder):
        spec = f"imagefolder:{folder}"
        assert load_stimuli(spec).fingerprint == load_stimuli(spec).fingerprint
        assert load_stimuli("digits").fingerprint == load_stimuli("digits").fingerprint

    def test_does_not_depend_on_the_transform(self):
        stimuli = of_labels([0, 1])
        assert stimuli.with_transform(np.asarray).fingerprint == stimuli.fingerprint

    def test_changes_with_pixels_labels_names_ids_and_selection(self):
        x = np.zeros((3, 4, 4), np.uint8)
        other = x.copy()
        other[2, 3, 3] = 1
        variants = [
            Stimuli(x, [0, 1, 1]),
            Stimuli(other, [0, 1, 1]),
            Stimuli(x, [0, 1, 0]),
            Stimuli(x, [0, 1, 1], class_names=["a", "b"]),
            Stimuli(x, [0, 1, 1], ids=["x", "y", "z"]),
            Stimuli(x, [0, 1, 1]).select([0, 1]),
            Stimuli(x.astype(np.float32)[:, None], [0, 1, 1]),
        ]
        assert len({variant.fingerprint for variant in variants}) == len(variants)

    def test_of_an_array_is_that_of_a_list_of_its_images(self):
        x = np.random.default_rng(0).standard_normal((300, 3, 2, 2), np.float32)
        labels = np.arange(300) % 2
        assert Stimuli(x, labels).fingerprint == Stimuli(list(x), labels).fingerprint
        some = [5, 2, 299]
        assert (
            Stimuli(x, labels).select(some).fingerprint
            == Stimuli(x[some], labels[some], ids=[f"{i:05d}" for i in some]).fingerprint
        )
        turned = np.asfortranarray(x)
        assert Stimuli(turned, labels).fingerprint == Stimuli(x, labels).fingerprint

    def test_changes_with_a_file(self, folder):
        stimuli = load_stimuli(f"imagefolder:{folder}")
        before = stimuli.fingerprint
        image_file(folder / "ant" / "0.png", size=(50, 50))
        assert stimuli.fingerprint != before

    @pytest.mark.parametrize("size", [100, 65536, 65537, 1_000_000])
    @pytest.mark.parametrize("place", [0, 50, -50, -1])
    def test_changes_with_a_file_of_the_same_size(self, size, place, folder):
        stimuli, path = load_stimuli(f"imagefolder:{folder}"), folder / "ant" / "0.png"
        contents = bytearray(np.random.default_rng(0).bytes(size))
        path.write_bytes(contents)
        before = stimuli.fingerprint
        contents[place] ^= 1
        path.write_bytes(contents)
        assert stimuli.fingerprint != before

    def test_of_a_large_file_does_not_read_it_all(self, folder):
        with (folder / "ant" / "0.png").open("r+b") as file:
            file.truncate(10**13)  # a hole: no disk holds it, and no test would outlive its reading
        assert load_stimuli(f"imagefolder:{folder}").fingerprint

    def test_is_the_same_for_a_copy_elsewhere_of_another_date(self, folder, tmp_path_factory):
        copy = tmp_path_factory.mktemp("moved") / "images"
        shutil.copytree(folder, copy)
        os.utime(copy / "ant" / "0.png", (0, 0))
        copied = load_stimuli(f"imagefolder:{copy}")
        assert copied.fingerprint == load_stimuli(f"imagefolder:{folder}").fingerprint

    def test_names_a_file_that_went_away(self, folder):
        stimuli = load_stimuli(f"imagefolder:{folder}")
        (folder / "bee" / "1.png").unlink()
        with pytest.raises(ImageError, match=r"bee/1\.png"):
            _ = stimuli.fingerprint


class TestSpec:
    @pytest.mark.parametrize("spec", ["", "mnist", "mnist:/data", "array", "array:", "digits:2"])
    def test_an_unknown_spec_lists_the_known(self, spec):
        with pytest.raises(StimuliError, match="'digits', 'imagefolder:DIR', 'cifar10:DIR'"):
            load_stimuli(spec)

    def test_an_unknown_split_lists_the_known(self, npz):
        spec = npz(x=np.zeros((2, 4, 4), np.uint8), y=[0, 1])
        with pytest.raises(StimuliError, match="no split 'tset'; it has train, val, test, all"):
            load_stimuli(spec, split="tset")


class TestLimit:
    def test_is_balanced_keeps_the_order_and_follows_the_seed(self):
        first, again = (load_stimuli("digits", limit=50, seed=1) for _ in range(2))
        other = load_stimuli("digits", limit=50, seed=2)
        assert np.bincount(first.labels).tolist() == [5] * 10
        assert first.ids.tolist() == again.ids.tolist() == sorted(first.ids)
        assert first.ids.tolist() != other.ids.tolist()

    def test_too_few_for_the_classes(self):
        with pytest.raises(StimuliError, match="limit=9 is less than one image for each of the 10"):
            load_stimuli("digits", limit=9)

    @pytest.mark.parametrize("limit", ["20", 20.5])
    def test_no_number(self, limit):
        with pytest.raises(StimuliError, match="give a number of images"):
            load_stimuli("digits", limit=limit)

    @given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
    def test_classes_get_as_equal_a_share_as_they_can(self, tmp_path_factory, counts, data):
        labels = np.repeat(np.arange(len(counts)), counts)
        labels = np.random.default_rng(0).permutation(labels)
        limit = data.draw(st.integers(len(counts), len(labels) + 3))
        seed = data.draw(st.integers(0, 3))
        path = tmp_path_factory.getbasetemp() / "limit.npz"
        np.savez(path, x=np.zeros((len(labels), 2, 2), np.uint8), y=labels)
        chosen = load_stimuli(f"array:{path}", limit=limit, seed=seed)
        assert len(chosen) == min(limit, len(labels))
        assert chosen.ids.tolist() == sorted(chosen.ids)
        np.testing.assert_array_equal(chosen.labels, labels[[int(i) for i in chosen.ids]])
        # No class that has images left has two fewer than another.
        taken = np.bincount(chosen.labels, minlength=len(counts))
        left = taken < counts
        assert not left.any() or taken.max() - taken[left].min() <= 1
        smaller = load_stimuli(f"array:{path}", limit=len(counts), seed=seed)
        assert set(smaller.ids) <= set(chosen.ids)
