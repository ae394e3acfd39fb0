"""Labelled stimuli as a torch data set."""

from __future__ import annotations

import copy
import hashlib
import operator
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unitprobe.errors import (
    ImageError,
    LabelError,
    OptionError,
    StimuliError,
    UnitprobeError,
    UnitprobeWarning,
)
from unitprobe.stimuli.datasets import dataset_items, find_refusal, is_dataset
from unitprobe.stimuli.image_files import ImageFiles, check_scaled, files_of_paths, scaled_image
from unitprobe.stimuli.labels import ClassNames, encode_labels
from unitprobe.typing import IntArray

#: Number of images that are hashed together.
_HASHED = 256


class Stimuli(torch.utils.data.Dataset[tuple[Any, Any]]):
    """Labelled stimuli with fixed ids, as a torch data set.

    Images of bytes become PIL images and go through the transform. **Floats are inputs ready for
    the network: they are returned as float32 tensors, without any transform**; `ready` is then True
    and `transform` None. Classes without stimuli are left out and listed in `absent_classes`.

    Parameters
    ----------
    images : sequence or data set
        PIL images; paths of image files; bytes of shape ``(n, y, x)``, ``(n, y, x, channel)`` or
        ``(n, channel, y, x)`` with 1 or 3 channels (if both fit, the channel is last); or floats
        of any shape that the network takes: ``(n, feature)``, ``(n, channel, time)``, ``(n,
        channel, y, x)``, ``(n, channel, time, y, x)``. An array, a tensor, a table of numbers, any
        sequence of such items, or a data set of pairs, of which the first is the stimulus.
    labels : array_like, (n,) or (n, class_name), optional
        Class of each stimulus: integers of any range, whole floats, booleans, text or one-hot rows.
        Rows with any number of ones are several labels for each stimulus (`multi_label`). May be
        left out for a data set, which holds them.
    class_names : sequence of str, path or Network, optional
        Names of the classes, a text file with one on each line, or a network that has them.
        Integer labels are positions in them; text labels are among them. By default the labels
        themselves, sorted by value where all are numbers.
    ids : sequence of str, (n,), optional
        Names of the stimuli, all different, by default "00000", "00001", ..., or the paths.
    transform : callable, optional
        Preprocessing of one PIL image. It takes precedence over that of a network.
    name : str
        Name of the set.
    scale : float, optional
        The value of white in images of 16 bits or of floats. Such an image is divided by it, and
        the transform gets a float32 tensor ``(channel, y, x)`` in [0, 1].

    Attributes
    ----------
    labels : ndarray of int64, (n,)
        Position of the class in `class_names`. Reading it raises an error if `multi_label`.
    class_names : list of str
        Names of the classes that have stimuli.
    known_class_names : list of str
        Names of all classes, also of those without stimuli.
    absent_classes : list of str
        Names of the classes without stimuli.
    indicators : ndarray of bool, (n, class_name), or None
        Which labels each stimulus has, if `multi_label`.
    ids : ndarray of str, (n,)
    transform : callable or None
    name : str
    ready : bool
        Whether the stimuli are network inputs, which have no transform.

    Raises
    ------
    StimuliError
        There are no images, or they have a wrong shape, type or number, NaN pixels or repeated
        ids; or they come in a stream, which cannot be indexed.
    LabelError
        The labels are missing, of a wrong type or number, or all of one class.

    Examples
    --------
    >>> images = np.zeros((4, 8, 8), dtype=np.uint8)
    >>> stimuli = Stimuli(images, labels=["ant", "ant", "bee", "bee"])
    >>> image, label = stimuli[3]
    >>> image.size, stimuli.class_names[label], str(stimuli.ids[3])
    ((8, 8), 'bee', '00003')
    >>> Stimuli(images, labels=[3, 17, 3, 3], class_names=[f"c{i}" for i in range(1000)])
    Stimuli('stimuli': 4 stimuli, 2 classes; 998 classes without stimuli)
    """

    def __init__(
        self,
        images: Any,
        labels: npt.ArrayLike | None = None,
        class_names: ClassNames | None = None,
        ids: Sequence[str] | npt.NDArray[np.str_] | None = None,
        transform: Callable[[Any], Any] | None = None,
        name: str = "stimuli",
        *,
        scale: float | None = None,
    ) -> None:
        refusal = find_refusal(images)
        if refusal:
            raise StimuliError(f"stimuli {name!r}: {refusal}")
        if is_dataset(images):
            items = dataset_items(images, labels, class_names, name)
            images, labels, class_names = items.inputs, items.labels, items.class_names
            ids = items.ids if ids is None else ids
        if isinstance(images, torch.Tensor):
            images = images.detach().cpu()
            images = (images.float() if images.is_floating_point() else images).numpy()
        if hasattr(images, "to_numpy"):  # a table of numbers
            images = images.to_numpy()
        if len(images) == 0:
            raise StimuliError(f"stimuli {name!r} hold no images")
        if scale is not None:
            scale = _check_scale(scale)
        if not isinstance(images, ImageFiles) and isinstance(images[0], (str, os.PathLike)):
            images, paths = files_of_paths(images, name)
            ids = paths if ids is None else ids
        if isinstance(images, ImageFiles):
            images.scale = scale
        elif isinstance(images, np.ndarray):
            _check_pixels(images, name, scale)
        self._images = images
        self._scale = scale
        self._indices = np.arange(len(images))
        # A list of tensors or arrays shows its type only in its items.
        files = isinstance(images, ImageFiles)
        typed = images if files or hasattr(images, "dtype") else images[0]
        self.ready = scale is None and "float" in str(getattr(typed, "dtype", ""))
        encoded = encode_labels(labels, len(images), name, class_names)
        self._labels, self.indicators = encoded.index, encoded.indicators
        self.class_names, self.known_class_names = encoded.class_names, encoded.known_names
        self.ids = _check_ids(ids, len(images), name)
        self.transform: Callable[[Any], Any] | None = None
        self.name = name
        self._set_transform(transform)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        labels: npt.ArrayLike | None = None,
        *,
        class_names: ClassNames | None = None,
        ids: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        name: str | None = None,
        scale: float | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> Stimuli:
        """Return the stimuli of a data set, which stays where it is and is read item by item.

        Parameters
        ----------
        dataset : object
            A torch `Dataset` of pairs (image, label) or of dictionaries, such as those of
            torchvision, `TensorDataset` and `Subset`; a `DataLoader`, of which the data set is
            used; a `datasets.Dataset` of Hugging Face; a list of pairs; or a tuple (images,
            labels). A data set whose `targets` are known is not read for its labels.
        labels : array_like, optional
            Labels instead of those in the data set.
        class_names, ids, transform, scale
            As for `Stimuli`; names are by default the `classes` of the data set.
        name : str, optional
            Name of the set, by default that of its type.
        limit, seed
            As for `load_stimuli`.

        Raises
        ------
        StimuliError
            The data set is a stream, gives something else each time, or holds no pairs.
        LabelError
            As for `Stimuli`.

        Examples
        --------
        >>> pairs = torch.utils.data.TensorDataset(torch.zeros(4, 6), torch.tensor([5, 5, 7, 7]))
        >>> Stimuli.from_dataset(pairs).class_names
        ['5', '7']
        """
        called = name or type(dataset).__name__
        refusal = find_refusal(dataset)
        if refusal:
            raise StimuliError(f"stimuli {called!r}: {refusal}")
        if isinstance(dataset, tuple) and len(dataset) == 2 and not hasattr(dataset, "_fields"):
            images, own = dataset
            labels = own if labels is None else labels
        else:
            images = list(dataset) if isinstance(dataset, tuple) else dataset
        if not is_dataset(images) and labels is None:
            items = dataset_items(images, None, class_names, called)
            images, labels, class_names = items.inputs, items.labels, items.class_names
        stimuli = cls(images, labels, class_names, ids, transform, called, scale=scale)
        return stimuli if limit is None else stimuli.balanced_subset(limit, seed=seed)

    @property
    def labels(self) -> IntArray:
        """Position of each stimulus's class in `class_names`, (n,).

        Raises
        ------
        LabelError
            Each stimulus may have several labels.
        """
        if self._labels is None:
            raise LabelError(
                f"stimuli {self.name!r} have several labels for each stimulus (multi-label), and "
                "one class for each is needed here; give a column of `indicators` as labels"
            )
        return self._labels

    @property
    def multi_label(self) -> bool:
        """Whether each stimulus may have any number of labels."""
        return self._labels is None

    @property
    def absent_classes(self) -> list[str]:
        """Names of the classes without stimuli."""
        present = set(self.class_names)
        return [name for name in self.known_class_names if name not in present]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self._read(int(self._indices[index]), index)
        if self.transform is not None:
            try:
                image = self.transform(image)
            except Exception as error:  # it is the user's, and may raise anything
                given = _describe_input(image)
                raise StimuliError(
                    f"stimulus {str(self.ids[index])!r}, {given}: the transform "
                    f"{_describe(self.transform)} raised {_one_line(error)}"
                ) from error
        if self._labels is None:
            assert self.indicators is not None
            return image, self.indicators[index]
        return image, int(self._labels[index])

    def _read(self, number: int, index: int) -> Any:
        try:
            source = self._images[number]
            return _as_input(source, self._scale)
        except ImageError:
            raise
        except UnitprobeError as error:
            raise type(error)(f"stimulus {str(self.ids[index])!r}: {error}") from error
        except Exception as error:  # a data set may raise anything
            raise StimuliError(
                f"stimulus {str(self.ids[index])!r} cannot be read: {type(self._images).__name__} "
                f"raised {_one_line(error)}"
            ) from error

    @property
    def in_array(self) -> bool:
        """Whether all images are one array in memory, not files or another sequence."""
        return isinstance(self._images, np.ndarray)

    def ready_images(self, indices: npt.ArrayLike, *, pinned: bool = False) -> torch.Tensor | None:
        """Return a copy of network inputs, (stimulus, ...).

        None if they are not `ready` in one array in memory, so that each has to be read by itself.
        With `pinned` the copy is in pinned memory.

        Examples
        --------
        >>> stimuli = Stimuli(np.zeros((4, 3, 8, 8), np.float32), labels=[0, 0, 1, 1])
        >>> stimuli.ready_images([3, 1]).shape
        torch.Size([2, 3, 8, 8])
        """
        one_by_one = type(self).__getitem__ is not Stimuli.__getitem__
        if one_by_one or not self.ready or not self.in_array:
            return None
        chosen = self._indices[np.asarray(indices)]
        # In PyTorch's memory, because the alignment of NumPy's can change the last bit of results.
        shape = (len(chosen), *self._images.shape[1:])
        images = torch.empty(shape, dtype=torch.float32, pin_memory=pinned)
        images.numpy()[...] = _take(self._images, chosen)
        return images

    def __repr__(self) -> str:
        kind = "labels (multi-label)" if self.multi_label else "classes"
        absent = len(self.absent_classes)
        rest = f"; {absent} classes without stimuli" if absent else ""
        return f"Stimuli({self.name!r}: {len(self)} stimuli, {len(self.class_names)} {kind}{rest})"

    @property
    def fingerprint(self) -> str:
        """Hash of images, ids, labels and class names, without the transform.

        For image files it contains the path, the size and a hash of up to 64 KiB of each. Computed
        at each access.
        """
        digest = hashlib.sha256()
        labels = self.indicators if self._labels is None else self._labels
        assert labels is not None
        digest.update(repr([self.class_names, self.ids.tolist(), labels.tolist()]).encode())
        if self._scale is not None:
            digest.update(f" scale {float(self._scale)}".encode())
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
            source = self._read_source(index)
            image = np.ascontiguousarray(source)
            kinds.update(f"{getattr(source, 'mode', '')} {image.dtype} {image.shape}".encode())
            pixels.update(image.data)
        return kinds.digest() + pixels.digest()

    def _read_source(self, number: int) -> Any:
        source = self._images[number]
        if isinstance(source, np.ndarray):
            return source
        return np.asarray(source) if self._scale is not None else _as_input(source, None)

    def _set_transform(self, transform: Callable[[Any], Any] | None) -> None:
        if transform is not None and not callable(transform):
            raise OptionError(f"transform={transform!r} cannot be called; give a function")
        if self.ready and transform is not None:
            warnings.warn(
                f"stimuli {self.name!r} are floats, which are network inputs: the transform "
                f"{_describe(transform)} has no effect; give bytes, or scale=, for images",
                UnitprobeWarning,
                stacklevel=3,
            )
        self.transform = None if self.ready else transform

    def with_transform(self, transform: Callable[[Any], Any] | None) -> Stimuli:
        """Return the same stimuli, with the same images in memory and another transform.

        Stimuli that are `ready` never have one.
        """
        other = copy.copy(self)
        other._set_transform(transform)
        return other

    def balanced_subset(self, limit: int, *, seed: int = 0) -> Stimuli:
        """Return so many of the stimuli, as evenly over the classes as possible, in their order.

        Raises
        ------
        StimuliError
            `limit` is not an integer, or is less than the number of classes.
        LabelError
            Each stimulus may have several labels.

        Examples
        --------
        >>> stimuli = Stimuli(np.zeros((4, 8, 8), dtype=np.uint8), labels=[0, 0, 0, 1])
        >>> stimuli.balanced_subset(2).labels
        array([0, 1])
        """
        try:
            limit = operator.index(limit)
        except TypeError:
            raise StimuliError(f"limit is {limit!r}; give a number of images") from None
        if seed < 0:
            raise OptionError(f"seed={seed} is negative; give 0 or more")
        classes = len(self.class_names)
        if limit < classes:
            raise StimuliError(
                f"limit={limit} is less than one image for each of the {classes} classes of "
                f"{self.name!r}; use a limit of {classes} or more"
            )
        # The rank of each stimulus in its shuffled class; the lowest ranks are an even choice.
        labels = self.labels
        rng = np.random.default_rng(seed)
        rank = np.empty(len(self), dtype=np.int64)
        for label in range(classes):
            members = np.flatnonzero(labels == label)
            rank[rng.permutation(members)] = np.arange(len(members))
        return self.select(np.sort(np.lexsort((labels, rank))[:limit]))

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
        other._indices, other.ids = self._indices[chosen], self.ids[chosen]
        other._labels = None if self._labels is None else self._labels[chosen]
        other.indicators = None if self.indicators is None else self.indicators[chosen]
        return other


def _describe(transform: object) -> str:
    """Return the name of a transform, with the names of its steps."""
    steps = getattr(transform, "transforms", None)
    names = ", ".join(_describe(step) for step in steps) if isinstance(steps, list) else ""
    own = getattr(transform, "__qualname__", type(transform).__name__)
    return f"{own}({names})" if names else own


def _describe_input(image: Any) -> str:
    if isinstance(image, torch.Tensor):
        return f"a tensor of shape {tuple(image.shape)}"
    mode = getattr(image, "mode", None)
    return f"an image of mode {mode} and size {image.size}" if mode else type(image).__name__


def _one_line(error: BaseException) -> str:
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _check_scale(scale: Any) -> float:
    if isinstance(scale, (bool, str)) or not isinstance(scale, (Real, np.generic)):
        raise OptionError(f"scale={scale!r} is not a number; 65535 is white in 16 bits")
    if not 0 < float(scale) < np.inf:
        raise OptionError(f"scale={scale!r} is not positive; 65535 is white in 16 bits")
    return float(scale)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the channel axis of an image of bytes: -1, 0, or None if there is none."""
    return next((axis for axis in (-1, 0) if shape[axis] in (1, 3)), None)


def _check_pixels(images: npt.NDArray[Any], name: str, scale: float | None) -> None:
    shape, dtype = images.shape, images.dtype
    if scale is None and dtype != np.uint8 and dtype.kind != "f":
        raise StimuliError(
            f"stimuli {name!r}: images have type {dtype}; uint8 pixels or float network inputs "
            f"are needed, or scale= with the value of white, such as 65535"
        )
    if dtype == np.uint8 or scale is not None:
        if len(shape) != 3 and (len(shape) != 4 or _channel_axis(shape[1:]) is None):
            raise StimuliError(
                f"stimuli {name!r}: images of bytes or with a scale have shape {shape}; (n, y, x), "
                f"(n, y, x, channel) or (n, channel, y, x) with 1 or 3 channels is needed"
            )
    elif len(shape) < 2:
        raise StimuliError(
            f"stimuli {name!r}: float inputs have shape {shape}; (n, feature), (n, channel, time), "
            f"(n, channel, y, x) or another shape with two or more axes is needed"
        )
    if 0 in shape:
        raise StimuliError(f"stimuli {name!r}: images have shape {shape}, which holds no pixels")
    if dtype.kind == "f":
        # The extremes show NaN and infinity without a copy of the images.
        axes = tuple(range(1, len(shape)))
        bad = ~np.isfinite(images.min(axis=axes)) | ~np.isfinite(images.max(axis=axes))
        if bad.any():
            raise StimuliError(
                f"stimuli {name!r}: {bad.sum()} of {len(images)} stimuli hold NaN or infinite "
                f"values, the first is stimulus {bad.argmax()}"
            )
    if scale is not None:
        check_scaled(images, scale, f"stimuli {name!r}")


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


def _as_input(source: Any, scale: float | None) -> Any:
    """Convert floats to a float32 tensor, bytes to a PIL image and the others with their scale."""
    dtype = str(getattr(source, "dtype", ""))
    if not dtype:
        return source
    if scale is None and "float" in dtype:
        values = source if isinstance(source, torch.Tensor) else np.asarray(source)
        return torch.as_tensor(values).detach().to(torch.float32, copy=True)
    from PIL import Image

    pixels = np.asarray(source)
    if scale is None and pixels.dtype != np.uint8:
        raise StimuliError(
            f"an image has type {pixels.dtype}; uint8 or float is needed, or scale= with the value "
            "of white"
        )
    if pixels.ndim == 3:
        axis = _channel_axis(pixels.shape)
        if axis is None:
            raise StimuliError(f"an image has shape {pixels.shape}; 1 or 3 channels are needed")
        pixels = np.moveaxis(pixels, axis, -1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 and scale is None else pixels
    if scale is not None:
        return scaled_image(pixels, scale)
    return Image.fromarray(np.ascontiguousarray(pixels))
