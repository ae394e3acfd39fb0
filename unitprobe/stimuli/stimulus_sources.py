"""Find and read stimuli by their name: digits, folders, tables, CIFAR, arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unitprobe.errors import LabelError, OptionError, StimuliError
from unitprobe.stimuli.folders import load_folder
from unitprobe.stimuli.imagenet_validation import load_imagenet_validation
from unitprobe.stimuli.labelled_images import Stimuli
from unitprobe.stimuli.labels import ClassNames
from unitprobe.stimuli.splits import SPLITS, Options, check_split
from unitprobe.stimuli.tables import load_table

_FORMS = (
    "'digits', 'imagefolder:DIR', 'cifar10:DIR', 'cifar100:DIR', 'table:FILE', 'imagenet:DIR' or "
    "'array:FILE.npz'"
)


def load_stimuli(
    spec: str,
    *,
    transform: Callable[[Any], Any] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    class_names: ClassNames | None = None,
    scale: float | None = None,
) -> Stimuli:
    """Load labelled stimuli.

    Parameters
    ----------
    spec : str
        - ``"digits"``: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn, a
          fifth of each class for testing.
        - ``"imagefolder:DIR"``: a folder of images for each class, in DIR, or in DIR/SPLIT where
          DIR is divided into splits (train, val, test and their usual synonyms, in any case).
          Without a folder "test", "val" is used. Folders whose names are numbers are in the order
          of the numbers. A warning counts the files that are left out.
        - ``"table:FILE"``: a .csv, .tsv or .parquet with a column ``path``, relative to the table,
          and a column ``label`` (synonyms: ``file``, ``filename``, ``image``; ``class``,
          ``class_name``, ``target``); optionally ``split`` and ``id``.
        - ``"imagenet:DIR"``: ImageNet's flat validation folder, with its ground-truth file in DIR
          or beside it; classes are named by WordNet id.
        - ``"cifar10:DIR"``, ``"cifar100:DIR"``: as torchvision keeps them in DIR.
        - ``"array:FILE.npz"``: stimuli ``x`` of any shape and labels ``y`` as for `Stimuli`, and
          optionally ``class_names`` and ``scale``. **Floats are network inputs: no transform is
          applied.**
    transform : callable, optional
        Preprocessing of one PIL image; by default a recording uses that of the network.
    split : {"test", "train", "val", "all"}
        Which part. A folder or file without splits is always used as a whole.
    limit : int, optional
        Take this many images, as evenly over the classes as possible, in their order.
    seed : int
        Seed of the choice of images. A smaller limit takes some of the images of a larger one.

    class_names : sequence of str, path or Network, optional
        Names of the classes of a table or an array; see `Stimuli`.
    scale : float, optional
        The value of white in images of 16 bits or of floats; see `Stimuli`.

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
    check_split(split, (*SPLITS, "all"), spec)
    options = Options(split, class_names, scale)
    if class_names is not None and kind not in ("table", "array"):
        raise OptionError(
            f"class_names= has no effect on {spec!r}, whose classes have names already"
        )
    if scale is not None and kind not in ("table", "array", "imagefolder"):
        raise OptionError(f"scale= has no effect on {spec!r}, whose pixels are of 8 bits")
    stimuli = _load_digits(split) if spec == "digits" else _READERS[kind](spec, location, options)
    if limit is not None:
        stimuli = stimuli.balanced_subset(limit, seed=seed)
    return stimuli if transform is None else stimuli.with_transform(transform)


def _load_digits(split: str) -> Stimuli:
    from sklearn.datasets import load_digits

    check_split(split, ("train", "test", "all"), "digits")
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


def _load_cifar(spec: str, location: str, options: Options) -> Stimuli:
    from torchvision import datasets

    split = options.split
    kind = spec.partition(":")[0]
    check_split(split, ("train", "test"), spec)
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


def _load_array(spec: str, location: str, options: Options) -> Stimuli:
    try:
        with np.load(location, allow_pickle=False) as file:
            held = {key: file[key] for key in ("x", "y", "class_names", "scale") if key in file}
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
    if options.class_names is not None and names is not None:
        raise OptionError(f"{spec!r}: the file holds class_names already; leave class_names= out")
    listed = options.class_names if names is None else names.astype(str).tolist()
    stated = held["scale"].item() if "scale" in held and held["scale"].ndim == 0 else None
    scale = stated if options.scale is None else options.scale
    return Stimuli(held["x"], held["y"], listed, name=spec, scale=scale)


#: By the word before the colon: a function of the full spec, the part after the colon, and the
#: options.
_READERS: dict[str, Callable[[str, str, Options], Stimuli]] = {
    "imagefolder": load_folder,
    "imagenet": load_imagenet_validation,
    "table": load_table,
    "cifar10": _load_cifar,
    "cifar100": _load_cifar,
    "array": _load_array,
}
