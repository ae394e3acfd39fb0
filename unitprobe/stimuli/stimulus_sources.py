"""Find and read stimuli by their name: digits, folders, CIFAR, arrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unitprobe.errors import LabelError, OptionError, StimuliError
from unitprobe.stimuli.image_files import IMAGE_SUFFIXES, ImageFiles
from unitprobe.stimuli.labelled_images import Stimuli

_FORMS = "'digits', 'imagefolder:DIR', 'cifar10:DIR', 'cifar100:DIR' or 'array:FILE.npz'"


_SPLITS = ("train", "val", "test")


def load_stimuli(
    spec: str,
    *,
    transform: Callable[[Any], Any] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> Stimuli:
    """Load labelled images.

    Parameters
    ----------
    spec : str
        - ``"digits"``: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, a
          fifth of each class for testing.
        - ``"imagefolder:DIR"``: a folder of images for each class, in DIR, or in DIR/SPLIT where
          DIR is divided into splits. Without a folder "test", "val" is used.
        - ``"cifar10:DIR"``, ``"cifar100:DIR"``: as torchvision keeps them in DIR.
        - ``"array:FILE.npz"``: images ``x`` and labels ``y`` as for `Stimuli`, and optionally
          ``class_names``. **Float images are network inputs: no transform is applied.**
    transform : callable, optional
        Preprocessing of one PIL image; by default a recording uses that of the network.
    split : {"test", "train", "val", "all"}
        Which part. A folder or file without splits is always used as a whole.
    limit : int, optional
        Take this many images, as evenly over the classes as possible, in their order.
    seed : int
        Seed of the choice of images. A smaller limit takes some of the images of a larger one.

    Raises
    ------
    StimuliError
        The spec or split is unknown, the data are missing or malformed, or the limit is less than
        the number of classes.
    LabelError
        The labels are missing or malformed, or there is only one class.
    ImageError
        When an image is read, if it cannot be decoded.

    Examples
    --------
    >>> digits = load_stimuli("digits", limit=20)
    >>> np.bincount(digits.labels)
    array([2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    kind, _, location = spec.partition(":")
    if spec != "digits" and (kind not in _READERS or not location):
        raise StimuliError(f"unknown stimuli {spec!r}; give {_FORMS}")
    _check_split(split, (*_SPLITS, "all"), spec)
    stimuli = _load_digits(split) if spec == "digits" else _READERS[kind](spec, location, split)
    if limit is not None:
        stimuli = stimuli.select(_balanced(stimuli, limit, seed))
    return stimuli.with_transform(transform)


def _balanced(stimuli: Stimuli, limit: int, seed: int) -> npt.NDArray[np.intp]:
    """Choose `limit` indices, as evenly over the classes as possible, in order."""
    try:
        limit = operator.index(limit)
    except TypeError:
        raise StimuliError(f"limit is {limit!r}; give a number of images") from None
    if seed < 0:
        raise OptionError(f"seed={seed} is negative; give 0 or more")
    classes = len(stimuli.class_names)
    if limit < classes:
        raise StimuliError(
            f"limit={limit} is less than one image for each of the {classes} classes of "
            f"{stimuli.name!r}; use a limit of {classes} or more"
        )
    # The rank of each image in its shuffled class; the lowest ranks are an even choice.
    rng = np.random.default_rng(seed)
    rank = np.empty(len(stimuli), dtype=np.int64)
    for label in range(classes):
        members = np.flatnonzero(stimuli.labels == label)
        rank[rng.permutation(members)] = np.arange(len(members))
    return np.sort(np.lexsort((stimuli.labels, rank))[:limit])


def _load_digits(split: str) -> Stimuli:
    from sklearn.datasets import load_digits

    _check_split(split, ("train", "test", "all"), "digits")
    digits = load_digits()
    test = np.zeros(len(digits.target), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(digits.target == label)[::5]] = True
    chosen = {"train": ~test, "test": test, "all": np.ones_like(test)}[split]
    stimuli = Stimuli(
        np.rint(digits.images * (255 / 16)).astype(np.uint8),
        digits.target,
        class_names=[str(label) for label in range(10)],
        ids=[f"digits/{index:04d}" for index in range(len(test))],
        name="digits",
    )
    return stimuli.select(chosen)


def _load_folder(spec: str, location: str, split: str) -> Stimuli:
    root = Path(location)
    if not root.is_dir():
        raise StimuliError(f"{spec!r}: no folder {root}")
    divisions = [name for name in _SPLITS if _is_division(root / name)]
    if divisions:
        wanted = "val" if split == "test" and "test" not in divisions else split
        _check_split(wanted, tuple(divisions), spec)
        root = root / wanted
    folders = _class_folders(root)
    if not folders:
        raise StimuliError(
            f"{spec!r}: {root} holds no folders, so its images have no labels; put the images of "
            f"each class in a folder named after it, such as {root / 'CLASS' / 'image.jpg'}"
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            path.relative_to(root).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
        )
        if not found:
            raise StimuliError(f"{spec!r}: class folder {folder} holds no image")
        paths += found
        labels += [label] * len(found)
    _check_text(spec, paths)
    names = [folder.name for folder in folders]
    return Stimuli(ImageFiles(root, paths), labels, names, paths, name=spec)


def _check_text(spec: str, paths: list[str]) -> None:
    """Raise an error for names that are not text, because they become ids in files."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise StimuliError(
                f"{spec!r}: the name of {path!r} is not UTF-8; rename the file or its folder"
            ) from None


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _is_division(folder: Path) -> bool:
    """Tell whether a folder is a split, which has folders, and not a class, which has images."""
    if not folder.is_dir() or not _class_folders(folder):
        return False
    return not any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _load_cifar(spec: str, location: str, split: str) -> Stimuli:
    from torchvision import datasets

    kind = spec.partition(":")[0]
    _check_split(split, ("train", "test"), spec)
    family = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    try:
        data = family(location, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise StimuliError(
            f"{spec!r}: {Path(location) / family.base_folder} is missing or damaged; torchvision "
            f"keeps {kind} there; 'imagefolder:DIR' reads a folder of images"
        ) from error
    ids = [f"{kind}/{split}/{index:05d}" for index in range(len(data.targets))]
    return Stimuli(data.data, data.targets, data.classes, ids, name=spec)


def _load_array(spec: str, location: str, split: str) -> Stimuli:
    try:
        with np.load(location, allow_pickle=False) as file:
            held = {key: file[key] for key in ("x", "y", "class_names") if key in file}
    except FileNotFoundError:
        raise StimuliError(f"{spec!r}: no file {location}") from None
    except Exception as error:  # zipfile, zlib and numpy raise errors of their own
        problem = " ".join(str(error).split())
        raise StimuliError(
            f"{spec!r}: {location} is not a readable .npz file: {problem}"
        ) from error
    if "x" not in held:
        raise StimuliError(f"{spec!r}: {location} holds no images 'x'")
    if "y" not in held:
        raise LabelError(f"{spec!r}: {location} holds no labels 'y'")
    names = held.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind not in "US"):
        raise LabelError(f"{spec!r}: class_names has type {names.dtype}; an array of str is needed")
    listed = None if names is None else names.astype(str).tolist()
    return Stimuli(held["x"], held["y"], listed, name=spec)


#: By the word before the colon: a function of the full spec, the part after the colon, and the
#: split.
_READERS: dict[str, Callable[[str, str, str], Stimuli]] = {
    "imagefolder": _load_folder,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "array": _load_array,
}


def _check_split(split: str, known: tuple[str, ...], spec: str) -> None:
    if split not in known:
        raise StimuliError(f"{spec!r} has no split {split!r}; it has {', '.join(known)}")
