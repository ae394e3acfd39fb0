"""Labelled images as a torch data set."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unitprobe.errors import LabelError, StimuliError
from unitprobe.stimuli.image_files import ImageFiles
from unitprobe.typing import IntArray

#: Number of images that are hashed together.
_HASHED = 256


class Stimuli(torch.utils.data.Dataset[tuple[Any, int]]):
    """Labelled images with fixed ids, as a torch data set.

    Images of bytes become PIL images and go through the transform. **Images of floats are inputs
    ready for the network: they are returned as float32 tensors, without any transform**; `ready`
    is then True and `transform` None.

    Parameters
    ----------
    images : sequence
        PIL images; or bytes of shape ``(n, y, x)``, ``(n, y, x, channel)`` or ``(n, channel, y,
        x)`` with 1 or 3 channels (if both fit, the channel is last); or floats ``(n, channel, y,
        x)``. An array, a tensor, or any sequence of such items.
    labels : array of int, (n,)
        Index of the class of each image. Every class has an image.
    class_names : sequence of str, optional
        Names of the classes, by default "0", "1", ...
    ids : sequence of str, (n,), optional
        Names of the images, all different, by default "00000", "00001", ...
    transform : callable, optional
        Preprocessing of one PIL image.
    name : str
        Name of the set.

    Attributes
    ----------
    labels : ndarray of int64, (n,)
    class_names : list of str
    ids : ndarray of str, (n,)
    transform : callable or None
    name : str
    ready : bool
        Whether the images are network inputs, which have no transform.

    Raises
    ------
    StimuliError
        There are no images, or they have a wrong shape, type or number, NaN pixels or repeated ids.
    LabelError
        The labels are not integers from 0, have a wrong number, or leave a class without images.

    Examples
    --------
    >>> images = np.zeros((4, 8, 8), dtype=np.uint8)
    >>> stimuli = Stimuli(images, labels=[0, 0, 1, 1], class_names=["ant", "bee"])
    >>> image, label = stimuli[3]
    >>> image.size, stimuli.class_names[label], str(stimuli.ids[3])
    ((8, 8), 'bee', '00003')
    """

    def __init__(
        self,
        images: Any,
        labels: npt.ArrayLike,
        class_names: Sequence[str] | None = None,
        ids: Sequence[str] | npt.NDArray[np.str_] | None = None,
        transform: Callable[[Any], Any] | None = None,
        name: str = "stimuli",
    ) -> None:
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu()
            images = (images.float() if images.is_floating_point() else images).numpy()
        if len(images) == 0:
            raise StimuliError(f"stimuli {name!r} hold no images")
        if isinstance(images, np.ndarray):
            _check_pixels(images, name)
        self._images = images
        self._indices = np.arange(len(images))
        # A list of tensors or arrays shows its type only in its items.
        typed = images if hasattr(images, "dtype") else images[0]
        self.ready = "float" in str(getattr(typed, "dtype", ""))
        self.labels = _check_labels(labels, len(images), name)
        self.class_names = _check_class_names(class_names, self.labels, name)
        self.ids = _check_ids(ids, len(images), name)
        self.transform = None if self.ready else transform
        self.name = name

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = _as_image(self._images[int(self._indices[index])])
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.labels[index])

    def ready_images(self, indices: npt.ArrayLike, *, pinned: bool = False) -> torch.Tensor | None:
        """Return a copy of network inputs, (stimulus, channel, y, x).

        None if they are not `ready` in one array in memory, so that each has to be read by itself.
        With `pinned` the copy is in pinned memory.

        Examples
        --------
        >>> stimuli = Stimuli(np.zeros((4, 3, 8, 8), np.float32), labels=[0, 0, 1, 1])
        >>> stimuli.ready_images([3, 1]).shape
        torch.Size([2, 3, 8, 8])
        """
        one_by_one = type(self).__getitem__ is not Stimuli.__getitem__
        if one_by_one or not self.ready or not isinstance(self._images, np.ndarray):
            return None
        chosen = self._indices[np.asarray(indices)]
        # In PyTorch's memory, because the alignment of NumPy's can change the last bit of results.
        shape = (len(chosen), *self._images.shape[1:])
        images = torch.empty(shape, dtype=torch.float32, pin_memory=pinned)
        images.numpy()[...] = _take(self._images, chosen)
        return images

    def __repr__(self) -> str:
        return f"Stimuli({self.name!r}: {len(self)} images, {len(self.class_names)} classes)"

    @property
    def fingerprint(self) -> str:
        """Hash of images, ids, labels and class names, without the transform.

        For image files it contains the path, the size and a hash of up to 64 KiB of each. Computed
        at each access.
        """
        digest = hashlib.sha256()
        digest.update(repr([self.class_names, self.ids.tolist(), self.labels.tolist()]).encode())
        blocks = [self._indices[i : i + _HASHED] for i in range(0, len(self), _HASHED)]
        # All cores hash an array, or files; another sequence may not support several readers.
        threads = None if isinstance(self._images, np.ndarray | ImageFiles) else 1
        with ThreadPoolExecutor(threads) as pool:
            for part in pool.map(self._digest, blocks):
                digest.update(part)
        return digest.hexdigest()

    def _digest(self, indices: npt.NDArray[np.intp]) -> bytes:
        kinds, pixels = hashlib.sha256(), hashlib.sha256()
        if isinstance(self._images, np.ndarray):
            # At once, because threads that hash image by image mostly wait for each other.
            rows = np.ascontiguousarray(_take(self._images, indices))
            kinds.update(f" {rows.dtype} {rows.shape[1:]}".encode() * len(rows))
            pixels.update(rows.data)
            return kinds.digest() + pixels.digest()
        for index in indices.tolist():
            if isinstance(self._images, ImageFiles):
                kinds.update(self._images.describe(index).encode())
                continue
            source = self._images[index]
            source = source if isinstance(source, np.ndarray) else _as_image(source)
            image = np.ascontiguousarray(source)
            kinds.update(f"{getattr(source, 'mode', '')} {image.dtype} {image.shape}".encode())
            pixels.update(image.data)
        return kinds.digest() + pixels.digest()

    def with_transform(self, transform: Callable[[Any], Any] | None) -> Stimuli:
        """Return the same stimuli, with the same images in memory and another transform.

        Stimuli that are `ready` never have one.
        """
        other = copy.copy(self)
        other.transform = None if self.ready else transform
        return other

    def select(self, indices: npt.ArrayLike) -> Stimuli:
        """Return some of the stimuli, with the same images in memory and all class names.

        Parameters
        ----------
        indices : array of int, or of bool (n,)
            Which stimuli, in this order, each at most once.

        Raises
        ------
        StimuliError
            An index is out of range or repeated, or there are no indices.

        Examples
        --------
        >>> stimuli = Stimuli(np.zeros((4, 8, 8), dtype=np.uint8), labels=[0, 0, 1, 1])
        >>> stimuli.select([3, 0]).ids.tolist()
        ['00003', '00000']
        """
        chosen = np.asarray(indices)
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not len(chosen):
            raise StimuliError(
                f"stimuli {self.name!r}: indices of shape {chosen.shape} and type {chosen.dtype} "
                f"are invalid; give a list of integers, or {len(self)} booleans"
            )
        wrong = chosen[(chosen < 0) | (chosen >= len(self))]
        if len(wrong):
            raise StimuliError(
                f"stimuli {self.name!r}: no index {wrong[0]} among {len(self)} images"
            )
        if len(np.unique(chosen)) != len(chosen):
            twice = Counter(chosen.tolist()).most_common(1)[0][0]
            raise StimuliError(f"stimuli {self.name!r}: index {twice} is selected more than once")
        other = copy.copy(self)
        other._indices, other.labels, other.ids = (
            values[chosen] for values in (self._indices, self.labels, self.ids)
        )
        return other


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the channel axis of an image of bytes: -1, 0, or None if there is none."""
    return next((axis for axis in (-1, 0) if shape[axis] in (1, 3)), None)


def _check_pixels(images: npt.NDArray[Any], name: str) -> None:
    shape, dtype = images.shape, images.dtype
    if dtype == np.uint8:
        if len(shape) != 3 and (len(shape) != 4 or _channel_axis(shape[1:]) is None):
            raise StimuliError(
                f"stimuli {name!r}: images of bytes have shape {shape}; (n, y, x), (n, y, x, "
                f"channel) or (n, channel, y, x) with 1 or 3 channels is needed"
            )
    elif dtype.kind != "f":
        raise StimuliError(
            f"stimuli {name!r}: images have type {dtype}; uint8 pixels or float network inputs "
            f"are needed"
        )
    elif len(shape) != 4:
        raise StimuliError(
            f"stimuli {name!r}: float images have shape {shape}; (n, channel, y, x) is needed"
        )
    if 0 in shape:
        raise StimuliError(f"stimuli {name!r}: images have shape {shape}, which holds no pixels")
    if dtype.kind == "f":
        # The extremes show NaN and infinity without a copy of the images.
        axes = (1, 2, 3)
        bad = ~np.isfinite(images.min(axis=axes)) | ~np.isfinite(images.max(axis=axes))
        if bad.any():
            raise StimuliError(
                f"stimuli {name!r}: {bad.sum()} of {len(images)} images hold NaN or infinite "
                f"pixels, the first is image {bad.argmax()}"
            )


def _check_labels(labels: npt.ArrayLike, count: int, name: str) -> IntArray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise LabelError(f"stimuli {name!r}: labels have type {array.dtype}; integers are needed")
    if array.shape != (count,):
        raise LabelError(
            f"stimuli {name!r}: labels have shape {array.shape}; one for each of the {count} "
            f"images is needed"
        )
    if array.min() < 0:
        raise LabelError(
            f"stimuli {name!r}: label {array.min()} of image {array.argmin()} is negative; classes "
            f"count from 0"
        )
    return array.astype(np.int64)


def _check_class_names(class_names: Sequence[str] | None, labels: IntArray, name: str) -> list[str]:
    present = np.unique(labels)
    count = int(present[-1]) + 1 if class_names is None else len(class_names)
    if present[-1] >= count:
        raise LabelError(f"stimuli {name!r}: label {present[-1]} has no name among {count} classes")
    if len(present) < count:
        # Classes count from 0, so the first gap is where the two sequences differ.
        gap = next((i for i, label in enumerate(present) if i != label), len(present))
        called = "" if class_names is None else f" ({class_names[gap]!r})"
        raise LabelError(
            f"stimuli {name!r}: {count - len(present)} of {count} classes have no image, the first "
            f"is class {gap}{called}"
        )
    names = [str(each) for each in (range(count) if class_names is None else class_names)]
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise LabelError(f"stimuli {name!r}: more than one class is named {twice!r}")
    if len(names) < 2:
        raise LabelError(
            f"stimuli {name!r} have only one class, {names[0]!r}; two or more are needed"
        )
    return names


def _check_ids(
    ids: Sequence[str] | npt.NDArray[np.str_] | None, count: int, name: str
) -> npt.NDArray[np.str_]:
    listed = [f"{i:05d}" for i in range(count)] if ids is None else [str(i) for i in ids]
    if len(listed) != count:
        raise StimuliError(f"stimuli {name!r}: {len(listed)} ids for {count} images")
    if len(set(listed)) != count:
        twice = Counter(listed).most_common(1)[0][0]
        raise StimuliError(f"stimuli {name!r}: more than one image has the id {twice!r}")
    return np.array(listed, dtype=np.str_)


def _take(images: npt.NDArray[Any], indices: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return some of the images, without a copy if they are consecutive."""
    first = int(indices[0]) if len(indices) else 0
    stop = first + len(indices)
    return (
        images[first:stop] if np.array_equal(indices, np.arange(first, stop)) else images[indices]
    )


def _as_image(source: Any) -> Any:
    """Convert floats to a float32 tensor and bytes to a PIL image."""
    dtype = str(getattr(source, "dtype", ""))
    if "float" in dtype:
        return torch.as_tensor(source).detach().to(torch.float32, copy=True)
    if not dtype:
        return source
    from PIL import Image

    pixels = np.asarray(source)
    if pixels.dtype != np.uint8:
        raise StimuliError(f"an image has type {pixels.dtype}; uint8 or float is needed")
    if pixels.ndim == 3:
        axis = _channel_axis(pixels.shape)
        if axis is None:
            raise StimuliError(f"an image has shape {pixels.shape}; 1 or 3 channels are needed")
        pixels = np.moveaxis(pixels, axis, -1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(pixels))
