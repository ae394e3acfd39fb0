"""ImageNet's validation images in one folder, with a file of their classes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from unitprobe.errors import LabelError, StimuliError
from unitprobe.stimuli.image_files import ImageFiles
from unitprobe.stimuli.labelled_images import Stimuli
from unitprobe.stimuli.splits import Options, check_split

_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_SYNSET = re.compile(r"n\d{8}")
#: Files with the class of each image, the surest first.
_TRUTHS = (
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)


def load_imagenet_validation(spec: str, location: str, options: Options) -> Stimuli:
    """Return the images of ``imagenet:DIR``; see `load_stimuli`."""
    check_split(options.split, ("val", "test", "all"), spec)
    root = Path(location).expanduser()
    if not root.is_dir():
        raise StimuliError(f"{spec!r}: no folder {root}")
    folders = [folder for folder in (root, root / "val") if folder.is_dir()]
    found = ((f, sorted(p.name for p in f.iterdir() if _IMAGE.fullmatch(p.name))) for f in folders)
    folder, paths = next(((f, names) for f, names in found if names), (root, []))
    if not paths:
        raise StimuliError(
            f"{spec!r}: {root} holds no ILSVRC2012_val_00000001.JPEG or the like; "
            "'imagefolder:DIR' reads images in a folder for each class"
        )
    truth = _find(_TRUTHS, folder)
    if truth is None:
        raise LabelError(
            f"{spec!r}: no file with the class of each image in {folder} or beside it; give one of "
            f"{', '.join(_TRUTHS)}"
        )
    class_of = _classes(spec, truth)
    numbers = [int(_IMAGE.fullmatch(path)[1]) for path in paths]  # type: ignore[index]
    lost = [path for path, number in zip(paths, numbers, strict=True) if number not in class_of]
    if lost:
        raise LabelError(f"{spec!r}: {truth} has no class for {len(lost)} images, first {lost[0]}")
    labels = [class_of[number] for number in numbers]
    return Stimuli(ImageFiles(folder, paths), labels, ids=paths, name=spec)


def _find(names: tuple[str, ...], folder: Path) -> Path | None:
    """Return the first of these files in a folder, beside it, or in a development kit there."""
    near = [folder, folder.parent]
    near += [kit / "data" for each in near for kit in sorted(each.glob("ILSVRC2012_devkit*"))]
    return next((d / name for name in names for d in near if (d / name).is_file()), None)


def _classes(spec: str, truth: Path) -> dict[int, str]:
    """Return the WordNet id of each image by its number in the file name."""
    if truth.suffix == ".csv":
        with truth.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        return {int(row[0].split("_")[-1]): row[1].split()[0] for row in rows if row}
    lines = truth.read_text().split("\n")
    words = [line.split() for line in lines if line.strip()]
    if truth.name == "val.txt":
        from timm.data import ImageNetInfo

        synsets = list(ImageNetInfo("imagenet-1k").label_names())
        try:
            return {
                int(Path(name).stem.split("_")[-1]): label
                if _SYNSET.fullmatch(label)
                else synsets[int(label)]
                for name, label in words
            }
        except (ValueError, IndexError) as error:
            raise LabelError(
                f"{spec!r}: {truth} does not hold a file name and an index from 0 to 999 a line"
            ) from error
    by_line = {number: line[0] for number, line in enumerate(words, start=1)}
    if all(_SYNSET.fullmatch(label) for label in by_line.values()):
        return by_line
    # The numbers of the development kit are not indices of outputs: only its table says which.
    table = _find(("meta.mat",), truth.parent)
    if table is None:
        raise LabelError(
            f"{spec!r}: the numbers in {truth} are those of ImageNet's development kit, which are "
            f"not indices of outputs; put its meta.mat into {truth.parent}"
        )
    synset_of = _development_kit(table)
    try:
        return {number: synset_of[int(label)] for number, label in by_line.items()}
    except (ValueError, KeyError) as error:
        raise LabelError(
            f"{spec!r}: {truth} holds {error}, which is not a class of {table}"
        ) from error


def _development_kit(table: Path) -> dict[int, str]:
    from scipy.io import loadmat

    synsets = loadmat(table, squeeze_me=True)["synsets"]
    return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
