"""A whole set of small images as bytes: decoded once, split, and augmented where it lies."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from unitprobe.errors import LabelError, OptionError, StimuliError
from unitprobe.stimuli import Stimuli, load_stimuli
from unitprobe.store import writing

#: Height and width of the images by kind of data; a folder's are those of its first image.
_SIZES = {"digits": 8, "cifar10": 32, "cifar100": 32, "tinyimagenet": 64}
_FORMS = "'digits', 'cifar10:DIR', 'cifar100:DIR', 'tinyimagenet:DIR' or 'imagefolder:DIR'"
#: Share of each class of the training images that is held out for validation: 5,000 images of
#: CIFAR-10, 50 of each class of Tiny ImageNet.
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class ImageSet:
    """Images of bytes (stimulus, y, x, channel), and their labels (stimulus,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: npt.NDArray[np.bool_]) -> ImageSet:
        """Return some of the images."""
        return ImageSet(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """The images of a data set in three parts, none of which shares an image with another.

    Attributes
    ----------
    train, validation, test : ImageSet
        Validation is a tenth of each class of what the data set has for training, always the same.
    class_names : list of str
    mean, std : tuple of float
        Of each channel of the training images, in 0..1.
    fingerprint : str
        Hash of all pixels and labels.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def image_size(self) -> int:
        """Height and width of the images."""
        return int(self.train.images.shape[1])


def data_name(spec: str) -> str:
    """Return what a data set is called in the names of folders.

    Examples
    --------
    >>> data_name("cifar10:/data/pictures"), data_name("imagefolder:/data/pictures")
    ('cifar10', 'pictures')
    """
    kind, _, place = spec.partition(":")
    return Path(place).resolve().name if kind == "imagefolder" else kind


def load_splits(spec: str, cache: Path, image_size: int | None = None) -> Splits:
    """Read a data set, decoded once and kept in `cache`.

    Parameters
    ----------
    spec : str
        "digits", "cifar10:DIR" or "cifar100:DIR" (as torchvision keeps them, or as folders
        DIR/train and DIR/test with a folder for each class), "tinyimagenet:DIR" (DIR/train/WNID
        and DIR/val/WNID; the official validation images are the test images) or "imagefolder:DIR"
        (DIR/train, and DIR/test or DIR/val).
    cache : Path
        Folder for the decoded images. Several processes may race for it.
    image_size : int, optional
        Height and width that the images are brought to, by default what they have.

    Raises
    ------
    StimuliError
        The data are absent, malformed or not divided into training and test images.
    LabelError
        A class has too few images, or the parts have different classes.
    """
    sources = {split: _source(spec, split) for split in ("train", "test")}
    names = sources["train"].class_names
    if sources["test"].class_names != names:
        other = sorted(set(names) ^ set(sources["test"].class_names))
        raise LabelError(
            f"{spec!r}: training and test images have different classes, such as {other[0]!r}; "
            "both need one folder for each class"
        )
    size = image_size or _SIZES.get(spec.partition(":")[0]) or min(sources["train"][0][0].size)
    if size < 4:
        raise OptionError(f"images of {size} pixels are too small; give an image size of 4 or more")
    trained, test = (_decoded(source, size, cache, split) for split, source in sources.items())
    held = hold_out(trained.labels)
    train = trained.select(~held)
    mean, std = channel_statistics(train.images)
    digest = hashlib.blake2b(digest_size=16)
    for part in (trained, test):
        digest.update(part.images.data)
        digest.update(part.labels.data)
    return Splits(train, trained.select(held), test, names, mean, std, digest.hexdigest())


def hold_out(
    labels: npt.NDArray[np.int64], share: float = VALIDATION_SHARE
) -> npt.NDArray[np.bool_]:
    """Choose the images that are held out for validation, the same in every run.

    Parameters
    ----------
    labels : array
        (stimulus,), the class of each image.
    share : float
        Share of each class, rounded, and at least one image.

    Returns
    -------
    array
        (stimulus,), true where the image is held out.

    Raises
    ------
    LabelError
        A class has only one image.

    Examples
    --------
    >>> int(hold_out(np.arange(200) % 10).sum())
    20
    """
    chosen = np.zeros(len(labels), dtype=bool)
    random = np.random.default_rng(0)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise LabelError(
                f"class {label} has one training image; two or more are needed to hold one out"
            )
        chosen[random.permutation(members)[: max(1, round(share * len(members)))]] = True
    return chosen


def channel_statistics(
    images: npt.NDArray[np.uint8],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of (stimulus, y, x, channel), in 0..1."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        # A channel without variation is only centred.
        stds.append(float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum())) or 1.0)
    return tuple(means), tuple(stds)


def to_inputs(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return what the network takes, (stimulus, channel, y, x) in float32 and channels-last.

    Parameters
    ----------
    images : Tensor
        Bytes, (stimulus, y, x, channel).
    mean, std : tuple of float
        Of each channel, in 0..1.
    """
    return Normalization(mean, std, images.device)(images)


class Normalization:
    """`to_inputs` for many batches on one device, which then copies the constants only once.

    Each copy would make the processor wait for a GPU.
    """

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        self._centre = torch.tensor([255 * value for value in mean], device=device)
        self._scale = torch.tensor([255 * value for value in std], device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return inputs (stimulus, channel, y, x) of images (stimulus, y, x, channel)."""
        return ((images.float() - self._centre) / self._scale).permute(0, 3, 1, 2)


class Augmentation:
    """Random crops of padded images, and flips: a whole batch in one operation.

    Parameters
    ----------
    images : Tensor
        Bytes, (stimulus, y, x, channel), all on one device; padded with black once, here.
    padding : int
        Pixels on each side.
    flip : bool
        Whether every second image is mirrored.
    """

    def __init__(self, images: Tensor, padding: int, flip: bool) -> None:
        self._padded = pad(images, (0, 0, *[padding] * 4))
        self._size = images.shape[1]
        self._padding = padding
        self._flip = flip

    def __call__(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Return the chosen images (stimulus, y, x, channel), each cropped and flipped again."""
        count, device = len(chosen), chosen.device
        corner = torch.randint(
            2 * self._padding + 1, (2, count, 1), generator=generator, device=device
        )
        steps = torch.arange(self._size, device=device)
        columns = steps.expand(count, -1)
        if self._flip:
            mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, self._size - 1 - columns, columns)
        rows = (steps + corner[0])[:, :, None]
        return self._padded[chosen[:, None, None], rows, (columns + corner[1])[:, None, :]]


def _source(spec: str, split: str) -> Stimuli:
    kind, _, place = spec.partition(":")
    known = {*_SIZES, "imagefolder"}
    if kind not in known or (kind == "digits") == bool(place):
        raise StimuliError(f"no data are named {spec!r}; give {_FORMS}")
    root = Path(place)
    divided = (root / "train").is_dir() and any((root / name).is_dir() for name in ("test", "val"))
    if kind in ("imagefolder", "tinyimagenet") and not divided:
        raise StimuliError(
            f"{spec!r}: {root} is not divided into folders 'train' and 'test' (or 'val')"
        )
    return load_stimuli(f"imagefolder:{place}" if divided and place else spec, split=split)


def _decoded(stimuli: Stimuli, size: int, cache: Path, split: str) -> ImageSet:
    # The fingerprint of a folder knows of each image its path within and its size: not enough to
    # tell two folders of the same names apart, nor an image that was written over.
    kind, _, place = stimuli.name.partition(":")
    written = _times_of_writing(Path(place)) if kind == "imagefolder" else ""
    key = f"{Path(place).resolve()} {split} {size} {stimuli.fingerprint} {written}"
    path = cache / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.npy"
    if not path.exists():
        pixels = _decode(stimuli, size)
        cache.mkdir(parents=True, exist_ok=True)
        # Another process may write the same: each its own file, and the last rename stands.
        partial = cache / f"{path.name}.{platform.node()}-{os.getpid()}.tmp"
        with writing(partial):
            with partial.open("wb") as file:
                np.save(file, pixels)
            partial.replace(path)
    return ImageSet(np.load(path), stimuli.labels)


def _times_of_writing(folder: Path) -> str:
    """Return a hash of when each file below a folder was last written."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _decode(stimuli: Stimuli, size: int) -> npt.NDArray[np.uint8]:
    from PIL import ImageOps

    pixels = np.empty((len(stimuli), size, size, 3), dtype=np.uint8)
    for index in range(len(stimuli)):
        image = stimuli[index][0].convert("RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size))
        pixels[index] = np.asarray(image)
    return pixels
