"""Read inputs, labels and class names out of data sets of other libraries, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from unitprobe.errors import StimuliError
from unitprobe.stimuli.image_files import ImageFiles

_INPUT_KEYS = ("image", "img", "pixel_values", "input", "inputs", "images", "x")
_LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")


@dataclass
class DatasetItems:
    """What a data set holds.

    Attributes
    ----------
    inputs : sequence
        The stimuli, each read when it is accessed.
    labels : array_like
        Their labels.
    class_names : object
        Names of the classes, as `Stimuli` takes them; None if unknown.
    ids : list of str, optional
        Names of the stimuli.
    """

    inputs: Any
    labels: Any
    class_names: Any
    ids: list[str] | None


def is_dataset(source: Any) -> bool:
    """Tell whether this holds items of a stimulus and its label: torch's or Hugging Face's."""
    return isinstance(source, (Dataset, DataLoader)) or _is_hugging_face(source)


def _is_hugging_face(source: Any) -> bool:
    return hasattr(source, "features") and hasattr(source, "column_names")


def find_refusal(source: Any) -> str | None:
    """Return why these cannot be stimuli, None if they may be."""
    kind = type(source).__name__
    if isinstance(source, (str, bytes)):
        return f"{source!r} is text; load_stimuli takes the name of a source"
    if isinstance(source, DataLoader):
        return find_refusal(source.dataset)
    splits = list(source) if isinstance(source, Mapping) else []
    if splits and all(_is_hugging_face(each) for each in source.values()):
        listed = ", ".join(map(str, splits))
        return f"a {kind} holds several sets; choose one of its splits: {listed}"
    if isinstance(source, Mapping):
        return f"a {kind} has no order; give a list of stimuli and their labels"
    streams = isinstance(source, IterableDataset) or not hasattr(source, "__getitem__")
    if streams or not hasattr(source, "__len__"):
        return (
            f"a {kind} is a stream, which cannot be indexed; a recording reads stimuli by their "
            "index, because it must show the same ones in the same order after it resumes; give a "
            "list, an array, or a Dataset with __len__ and __getitem__"
        )
    return None


class ItemInputs:
    """The stimuli of a data set, without their labels."""

    def __init__(self, dataset: Any, key: Any) -> None:
        self.dataset = dataset
        self.key = key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index][self.key]


def dataset_items(dataset: Any, labels: Any, class_names: Any, name: str) -> DatasetItems:
    """Return the stimuli, labels, class names and ids of a data set.

    Labels are those that the data set lists, if its first, middle and last item confirm them;
    otherwise each item is read once, and none is kept.

    Raises
    ------
    StimuliError
        An item is not a stimulus and a label, or differs each time, or a loader changes them.
    """
    where = f"stimuli {name!r}"
    if isinstance(dataset, DataLoader):
        dataset = _dataset_of_loader(dataset, where)
    count = len(dataset)
    if count == 0:
        raise StimuliError(f"{where} hold no images")
    _check_indices(dataset, where)
    first = _read(dataset, 0, where)
    input_key, label_key = _keys(dataset, first, labels is None, where)
    inputs = ItemInputs(dataset, input_key)
    probes = sorted({0, count // 2, count - 1})
    for index in probes:
        once, again = (_read(dataset, index, where)[input_key] for _ in range(2))
        if not _same(once, again):
            raise StimuliError(
                f"{where}: item {index} differs each time that it is read, so its transform is "
                "random; give the data set a transform that is not"
            )
    names = class_names if class_names is not None else _class_names(dataset)
    if labels is None:
        listed = _listed_labels(dataset, label_key)
        if listed is not None and len(listed) == count:
            shown = [_read(dataset, index, where)[label_key] for index in probes]
            if not all(_same(listed[i], each) for i, each in zip(probes, shown, strict=True)):
                listed = None
        else:
            listed = None
        if listed is None:
            # Labels that differ from those the data set lists may not be in the order of `classes`.
            names = class_names if _transforms_labels(dataset) else names
            listed = [_read(dataset, i, where)[label_key] for i in range(count)]
        labels = _as_labels(listed, where)
    if class_names is None and names is not None and labels is not None:
        names = _fitting_names(names, labels)
    files = _files(dataset)
    if files is not None and input_key == 0:
        return DatasetItems(files, labels, names, list(files.paths))
    return DatasetItems(inputs, labels, names, _ids(dataset))


def _read(dataset: Any, index: int, where: str) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # a data set may raise anything
        text = " ".join(str(error).split())[:200]
        raise StimuliError(
            f"{where}: item {index} cannot be read: {type(error).__name__}: {text}"
        ) from error


def _dataset_of_loader(loader: DataLoader[Any], where: str) -> Any:
    """Return the data set of a loader that shows all of it, or of a fixed part of it."""
    dataset, sampler = loader.dataset, loader.sampler
    if loader.collate_fn is not default_collate:
        raise StimuliError(
            f"{where}: the DataLoader has a collate_fn of its own, which may change the stimuli; "
            "give its data set, with a transform that does the same for one stimulus"
        )
    if isinstance(sampler, SubsetRandomSampler):
        return Subset(dataset, sorted(int(index) for index in sampler.indices))
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(dataset)  # type: ignore[arg-type]
    )
    if not whole:
        raise StimuliError(
            f"{where}: the DataLoader has a {type(sampler).__name__}, which may leave out or "
            "repeat stimuli; give its data set, or torch.utils.data.Subset(dataset, indices)"
        )
    return dataset


def _check_indices(dataset: Any, where: str) -> None:
    """Refuse a `Subset` that repeats an item, because ids are unique."""
    if isinstance(dataset, Subset):
        indices = [int(index) for index in dataset.indices]
        if len(set(indices)) < len(indices):
            repeated = len(indices) - len(set(indices))
            raise StimuliError(f"{where}: a Subset repeats {repeated} items; give each index once")
        _check_indices(dataset.dataset, where)


def _keys(dataset: Any, item: Any, needs_label: bool, where: str) -> tuple[Any, Any]:
    """Return the keys of the stimulus and of the label in an item."""
    if isinstance(item, Mapping):
        features = getattr(dataset, "features", None) or {}
        kinds = {key: type(feature).__name__ for key, feature in features.items()}
        inputs = [key for key in _INPUT_KEYS if key in item]
        inputs = inputs or [key for key in item if kinds.get(key) == "Image"]
        labels = [key for key in _LABEL_KEYS if key in item]
        labels = labels or [key for key in item if kinds.get(key) == "ClassLabel"]
        if not inputs or (needs_label and not labels):
            raise StimuliError(
                f"{where}: an item holds {', '.join(map(str, item))}; a stimulus is expected in "
                f"{', '.join(_INPUT_KEYS)} and its label in {', '.join(_LABEL_KEYS)}; rename the "
                "columns"
            )
        return inputs[0], labels[0] if labels else None
    if isinstance(item, (tuple, list)) and (len(item) == 2 or (len(item) == 1 and not needs_label)):
        return 0, 1
    what = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else ""
    raise StimuliError(
        f"{where}: an item is a {what or type(item).__name__}, not a pair (stimulus, label); give "
        "Stimuli(images, labels), or a data set of pairs"
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (str, bytes)) or isinstance(other, (str, bytes)):
        return bool(one == other)
    try:
        a, b = np.asarray(one), np.asarray(other)
        return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))
    except (TypeError, ValueError, RuntimeError):
        return bool(one == other)


def _listed_labels(dataset: Any, key: Any) -> Any:
    """Return the labels that a data set lists, None if it lists none."""
    if isinstance(dataset, Subset):
        inner = _listed_labels(dataset.dataset, key)
        return None if inner is None else [inner[int(index)] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = []
        for part in dataset.datasets:
            found = _listed_labels(part, key)
            if found is None or len(found) != len(part):  # type: ignore[arg-type]
                return None
            parts.append(found)
        return [label for part in parts for label in part]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1] if len(dataset.tensors) > 1 else None
    if _is_hugging_face(dataset):
        # A set transform makes columns of its own, which only items have.
        return list(dataset[key]) if key in dataset.column_names else None
    # Two unrelated lists may have the same length: the caller confirms with some items.
    for attribute in ("targets", "labels", "_labels"):
        try:
            found = getattr(dataset, attribute, None)
        except Exception:  # a property of multi-label Stimuli raises; items have the labels
            continue
        if found is not None and hasattr(found, "__len__") and len(found) == len(dataset):
            change = getattr(dataset, "target_transform", None)
            return [change(label) for label in found] if callable(change) else found
    return None


def _transforms_labels(dataset: Any) -> bool:
    if isinstance(dataset, Subset):
        return _transforms_labels(dataset.dataset)
    return getattr(dataset, "target_transform", None) is not None


def _as_labels(listed: Any, where: str) -> Any:
    """Return labels as one array, also where each is a tensor."""
    if isinstance(listed, (torch.Tensor, np.ndarray)):
        return listed
    listed = list(listed)
    if isinstance(listed[0], torch.Tensor):
        shapes = {tuple(each.shape) for each in listed if isinstance(each, torch.Tensor)}
        if len(shapes) != 1:
            raise StimuliError(f"{where}: labels are tensors of different shapes")
        return torch.stack(listed)
    return listed


def _class_names(dataset: Any) -> list[str] | None:
    """Return the names of the classes of a data set, None if it has none."""
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        names = [_class_names(part) for part in dataset.datasets]
        return names[0] if all(each == names[0] for each in names) else None
    if _is_hugging_face(dataset):
        found = [f.names for f in dataset.features.values() if type(f).__name__ == "ClassLabel"]
        return list(found[0]) if len(found) == 1 else None
    if _transforms_labels(dataset):
        return None
    if hasattr(dataset, "known_class_names"):  # Stimuli, whose labels count those present
        return list(dataset.class_names)
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, (list, tuple)) or not classes:
        return None
    if all(isinstance(each, (tuple, list)) for each in classes):
        # torchvision's ImageNet: synonyms, among which only the WordNet ids are unique.
        ids = getattr(dataset, "wnids", None)
        return list(ids) if ids else [", ".join(map(str, each)) for each in classes]
    return [str(each) for each in classes]


def _fitting_names(names: Any, labels: Any) -> Any:
    """Return the names if labels can be positions in them, None if they cannot."""
    try:
        values = np.asarray(labels)
    except (ValueError, TypeError):
        return None
    if values.ndim == 2 and values.shape[1] > 1:
        return names if values.shape[1] == len(names) else None
    if values.dtype.kind in "US":
        return names if set(values.astype(str).ravel().tolist()) <= set(names) else None
    return names


def _files(dataset: Any) -> ImageFiles | None:
    """Return the files of a folder data set that shows them as they are, None for any other."""
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import default_loader

    indices: list[int] | None = None
    while isinstance(dataset, Subset):
        own = [int(index) for index in dataset.indices]
        indices = own if indices is None else [own[index] for index in indices]
        dataset = dataset.dataset
    if type(dataset) is not ImageFolder or dataset.loader is not default_loader:
        return None
    if dataset.transform is not None:
        return None
    root = Path(dataset.root)
    paths = [Path(path).relative_to(root).as_posix() for path, _ in dataset.samples]
    return ImageFiles(root, paths if indices is None else [paths[index] for index in indices])


def _ids(dataset: Any) -> list[str] | None:
    """Return the names of items: paths, or their positions in the whole data set."""
    if isinstance(dataset, Subset):
        inner = _ids(dataset.dataset) or [f"{i:05d}" for i in range(len(dataset.dataset))]  # type: ignore[arg-type]
        return [inner[int(index)] for index in dataset.indices]
    own = getattr(dataset, "ids", None)
    if hasattr(dataset, "known_class_names") and own is not None:
        return [str(each) for each in own]
    samples: Sequence[Any] | None = getattr(dataset, "samples", None)
    root = getattr(dataset, "root", None)
    if root is None or not isinstance(samples, list) or len(samples) != len(dataset):
        return None
    try:
        return [Path(path).relative_to(root).as_posix() for path, _ in samples]
    except (ValueError, TypeError):
        return None
