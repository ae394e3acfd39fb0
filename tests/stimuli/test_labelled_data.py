"""Labels of any kind, data sets, tables, and stimuli that are not images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import unitprobe as up
from unitprobe.errors import LabelError, OptionError, StimuliError, UnitprobeWarning
from unitprobe.stimuli import Stimuli, load_stimuli


def of_labels(labels, **options):
    return Stimuli(np.zeros((len(labels), 4, 4), np.uint8), labels, **options)


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(["0", "2", "10"]):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (6, 6), (label, index, 0)).save(tmp_path / name / f"{index}.png")
    return tmp_path


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "names", "index"),
        [
            (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
            (["10", "9", "10"], ["9", "10"], [1, 0, 1]),
            ([1, 2, 3], ["1", "2", "3"], [0, 1, 2]),
            ([999, 3, 17], ["3", "17", "999"], [2, 0, 1]),
            ([1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
            ([-1, 1, -1], ["-1", "1"], [0, 1, 0]),
            ([True, False, True], ["False", "True"], [1, 0, 1]),
            ([[0, 1, 0], [0, 0, 1], [0, 1, 0]], ["1", "2"], [0, 1, 0]),
            ([[4], [5], [4]], ["4", "5"], [0, 1, 0]),
        ],
    )
    @pytest.mark.parametrize("convert", [list, np.array])
    def test_become_positions_of_classes(self, labels, names, index, convert):
        stimuli = of_labels(convert(labels))
        assert (stimuli.class_names, stimuli.labels.tolist()) == (names, index)
        assert stimuli.labels.dtype == np.int64

    def test_classes_without_stimuli_are_counted(self):
        names = [f"c{i}" for i in range(1000)]
        stimuli = of_labels([3, 17, 999, 3], class_names=names)
        assert stimuli.class_names == ["c3", "c17", "c999"]
        assert len(stimuli.absent_classes) == 997
        assert "997 classes without stimuli" in repr(stimuli)

    def test_names_may_count_from_one(self):
        assert of_labels([1, 2, 3], class_names=list("abc")).class_names == list("abc")

    def test_names_of_a_file_and_of_a_network(self, tmp_path):
        (tmp_path / "names.txt").write_text("ant\nbee\n")
        network = up.Network(nn.Linear(2, 2), class_names=["ant", "bee"])
        for source in (str(tmp_path / "names.txt"), network):
            assert of_labels([0, 1], class_names=source).class_names == ["ant", "bee"]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0.5, 1], "not a whole number"),
            ([0, None], "is missing"),
            (["a", 1], "a mixture of int and str"),
            (["a", ""], "is blank"),
            ([[0.2, 0.8], [0.5, 0.5]], "not a whole number"),
        ],
    )
    def test_what_is_refused(self, labels, message):
        with pytest.raises(LabelError, match=message):
            of_labels(labels)

    def test_several_labels_for_each_stimulus(self):
        stimuli = of_labels(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
        assert stimuli.multi_label
        assert stimuli.indicators.tolist() == [[1, 1], [0, 1], [0, 0]]
        assert stimuli.fingerprint != of_labels(np.array([[1, 1], [0, 1], [1, 0]])).fingerprint
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.ReLU())
        with pytest.raises(LabelError, match="multi-label"):
            up.record(network, stimuli)


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "network"),
        [
            ((8, 6), nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))),
            (
                (8, 1, 20),
                nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)),
            ),
            (
                (8, 1, 4, 5, 5),
                nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)),
            ),
        ],
    )
    def test_are_those_that_the_network_takes(self, shape, network, tmp_path):
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.savez(tmp_path / "x.npz", x=x, y=[0, 1] * 4)
        stimuli = load_stimuli(f"array:{tmp_path / 'x.npz'}")
        with torch.no_grad():
            expected = network[:2](torch.tensor(x)).flatten(2).mean(2) if x.ndim > 2 else None
        tree = up.record(network, stimuli, progress=False)
        if expected is not None:
            np.testing.assert_allclose(tree["1"]["response"], expected, atol=1e-6)
        assert up.analyze(tree)["1"]["class_selectivity"].shape == (4,)
        swept = up.ablate(network, stimuli, progress=False)
        assert swept["1"]["accuracy_drop"].shape == (4,)

    def test_images_of_sixteen_bits_with_a_scale(self):
        x = np.array([[[0, 4095]], [[819, 0]]], np.uint16)
        image, _ = Stimuli(x, [0, 1], scale=4095)[1]
        torch.testing.assert_close(image, torch.tensor([[[0.2, 0.0]]]))
        with pytest.raises(StimuliError, match=r"from 0 to 4095, but scale=255"):
            Stimuli(x, [0, 1], scale=255)
        with pytest.raises(StimuliError, match=r"or scale= with the value of white"):
            Stimuli(x, [0, 1])


class TestDatasets:
    def test_a_folder_a_part_of_it_and_a_loader(self, folder):
        whole = ImageFolder(folder)
        assert Stimuli.from_dataset(whole).ids.tolist()[0] == "0/0.png"
        part = Stimuli.from_dataset(Subset(whole, [5, 0]))
        assert part.ids.tolist() == ["2/1.png", "0/0.png"]
        assert (part.class_names, part.absent_classes) == (["0", "2"], ["10"])
        again = Stimuli.from_dataset(DataLoader(whole, batch_size=2, shuffle=True))
        assert again.fingerprint == Stimuli.from_dataset(whole).fingerprint

    def test_tensors_arrays_pairs_and_paths(self, folder):
        x, y = torch.rand(4, 3), torch.tensor([5, 7, 5, 7])
        for source in (TensorDataset(x, y), (x, y), list(zip(x, y.tolist(), strict=True))):
            stimuli = Stimuli.from_dataset(source)
            assert stimuli.class_names == ["5", "7"]
            torch.testing.assert_close(stimuli[2][0], x[2])
        paths = sorted(folder.rglob("*.png"))
        assert Stimuli(paths, ["a", "b"] * 3).ids[0] == "0/0.png"

    def test_limit_is_balanced(self):
        source = TensorDataset(torch.rand(30, 3), torch.arange(30) % 3)
        assert np.bincount(Stimuli.from_dataset(source, limit=6).labels).tolist() == [2, 2, 2]

    def test_streams_and_random_transforms_are_refused(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter([])

        for stream in (Stream(), DataLoader(Stream()), (pair for pair in [])):
            with pytest.raises(StimuliError, match="a stream"):
                Stimuli.from_dataset(stream)

        class Noisy(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                return torch.rand(3), index

        with pytest.raises(StimuliError, match="differs each time"):
            Stimuli.from_dataset(Noisy())


class TestSources:
    def test_numbers_order_folders(self, folder):
        assert load_stimuli(f"imagefolder:{folder}").class_names == ["0", "2", "10"]

    def test_splits_in_any_case(self, folder, tmp_path_factory):
        root = tmp_path_factory.mktemp("split")
        for split in ("Training", "TEST"):
            for name in ("ant", "bee"):
                (root / split / name).mkdir(parents=True)
                Image.new("RGB", (4, 4)).save(root / split / name / f"{split}.png")
        assert load_stimuli(f"imagefolder:{root}").ids[0] == "ant/TEST.png"
        assert load_stimuli(f"imagefolder:{root}", split="train").ids[0] == "ant/Training.png"

    def test_a_table(self, folder):
        lines = ["path;label", *(f"{p.relative_to(folder)};c{p.parent.name}" for p in sorted(
            folder.rglob("*.png")))]  # fmt: skip
        (folder / "t.csv").write_text("\n".join(lines))
        stimuli = load_stimuli(f"table:{folder / 't.csv'}")
        assert (stimuli.class_names, stimuli.ids[0]) == (["c0", "c10", "c2"], "0/0.png")

    def test_imagenet_in_one_folder(self, tmp_path):
        for number in (1, 2):
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
            Image.new("RGB", (4, 4)).save(tmp_path / name, "JPEG")
        truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
        truth.write_text("490\n361\n")
        with pytest.raises(LabelError, match=r"put its meta\.mat"):
            load_stimuli(f"imagenet:{tmp_path}")
        (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(
            "n01751748\nn09193705\n"
        )
        stimuli = load_stimuli(f"imagenet:{tmp_path}")
        assert stimuli.class_names == ["n01751748", "n09193705"]


class TestTransforms:
    def test_one_that_raises_is_named_with_the_stimulus(self):
        from torchvision.transforms import Compose, Normalize, ToTensor

        wrong = Compose([Normalize([0.5], [0.5]), ToTensor()])
        with pytest.raises(StimuliError, match=r"'00001'.*Compose\(Normalize, ToTensor\) raised"):
            of_labels([0, 1], transform=wrong)[1]

    def test_that_of_the_stimuli_wins_over_that_of_the_network(self):
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.ReLU())
        network = up.Network(module, transform=lambda image: 1 / 0)
        stimuli = of_labels([0, 1], transform=lambda image: torch.zeros(1, 4, 4))
        with pytest.warns(UnitprobeWarning, match="takes precedence"):
            up.record(network, stimuli, progress=False)

    def test_a_lambda_cannot_be_sent_to_a_worker(self, monkeypatch):
        monkeypatch.setattr("multiprocessing.get_start_method", lambda: "spawn")
        stimuli = of_labels([0, 1], transform=lambda image: torch.zeros(1, 4, 4))
        module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.ReLU())
        with pytest.raises(OptionError, match="use workers=0"):
            up.record(module, stimuli, workers=1, progress=False)
