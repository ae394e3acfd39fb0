"""From labels of any kind to indices of classes that have stimuli."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unitprobe.errors import LabelError
from unitprobe.typing import IntArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]
#: What names classes: the names in order, a text file with one on each line, or an object with
#: `class_names`, such as a `Network`.
ClassNames: TypeAlias = Sequence[str] | str | os.PathLike[str] | Any


@dataclass(frozen=True)
class Labels:
    """The classes of some stimuli, without classes that have none.

    Attributes
    ----------
    index : ndarray of int64, (stimulus,), optional
        Position of each stimulus's class in `class_names`. None if `indicators` are given.
    class_names : list of str
        Names of the classes that have stimuli, in order.
    known_names : list of str
        Names of all classes, also of those without stimuli, in the same order.
    indicators : ndarray of bool, (stimulus, class_name), optional
        Whether each stimulus has each label, if a stimulus may have any number of them.
    """

    index: IntArray | None
    class_names: list[str]
    known_names: list[str] = field(default_factory=list)
    indicators: BoolArray | None = None


def natural_order(names: Sequence[str]) -> list[str]:
    """Return names sorted as text, or by value if all are numbers.

    Examples
    --------
    >>> natural_order(["10", "9", "-1"]), natural_order(["b10", "b9"])
    (['-1', '9', '10'], ['b10', 'b9'])
    """
    try:
        values = [float(name) for name in names]
    except ValueError:
        return sorted(names)
    if not all(np.isfinite(values)):
        return sorted(names)
    return [name for _, name in sorted(zip(values, names, strict=True))]


def encode_labels(
    labels: Any, count: int, name: str, class_names: ClassNames | None = None
) -> Labels:
    """Return the classes of stimuli from labels of any kind.

    Parameters
    ----------
    labels : array_like
        (stimulus,) integers, whole floats, booleans or text; (stimulus, class_name) one-hot rows;
        or (stimulus, class_name) indicators of any number of labels for each stimulus.
    count : int
        Number of stimuli.
    name : str
        Name of the stimuli, for errors.
    class_names : sequence of str, path or Network, optional
        Names of the classes. Integers are their positions, counted from 0, or from 1 if every
        label from 1 to the number of names occurs. Text is one of the names.

    Raises
    ------
    LabelError
        Labels are missing, of the wrong shape or type, or not among the classes.

    Examples
    --------
    >>> encode_labels(["cat", "ant", "cat"], 3, "animals").class_names
    ['ant', 'cat']
    >>> encode_labels([3, 17, 3], 3, "animals").index
    array([0, 1, 0])
    """
    where = f"stimuli {name!r}"
    values = _as_array(labels, where)
    names = None if class_names is None else read_class_names(class_names, where)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or len(values) != count:
        raise LabelError(
            f"{where}: labels have shape {values.shape}; one for each of the {count} stimuli is "
            f"needed, or one-hot rows ({count}, classes)"
        )
    found = (
        _encode_rows(values, names, where)
        if values.ndim == 2
        else _encode_values(values, names, where)
    )
    _check_names(found.class_names, where)
    return found


def read_class_names(source: ClassNames, where: str) -> list[str]:
    """Return class names from a list, a text file with one on each line, or a network.

    Raises
    ------
    LabelError
        There are none, or the file cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise LabelError(
                f"{where}: class names file {path} cannot be read: {problem}"
            ) from error
        source = [line.strip() for line in text.rstrip().splitlines()]
        if "" in source:
            raise LabelError(f"{where}: line {source.index('') + 1} of {path} is blank")
    elif hasattr(source, "class_names"):
        network, source = source, source.class_names
        if source is None:
            called = getattr(network, "name", type(network).__name__)
            raise LabelError(f"{where}: network {called!r} has no class names; give a list of them")
    try:
        names = [each.item() if isinstance(each, np.generic) else each for each in source]
    except TypeError:
        raise LabelError(
            f"{where}: class_names is a {type(source).__name__}; give a list of names, a text file "
            "or a network"
        ) from None
    return [str(each) for each in names]


def _as_array(labels: Any, where: str) -> npt.NDArray[Any]:
    """Return labels as an array of int64, bool, float64 or text."""
    if labels is None:
        raise LabelError(f"{where} have no labels; give one for each stimulus")
    if getattr(labels, "is_sparse", False):
        labels = labels.to_dense()
    if hasattr(labels, "toarray"):  # sparse arrays of scipy
        labels = labels.toarray()
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu()
        labels = (labels.double() if labels.is_floating_point() else labels).numpy()
    try:
        values = np.asarray(labels)
    except ValueError:
        values = None
    if values is None or values.dtype == object or (values.dtype.kind in "US" and _mixed(labels)):
        values = _from_objects(labels, where)
    if values.size == 0 and values.dtype.kind == "f":
        values = values.astype(np.int64)
    kind = values.dtype.kind
    if kind == "S":
        values = np.char.decode(values, "utf-8")
    elif kind == "T":
        values = values.astype(np.str_)
    elif kind not in "iubfU":
        raise LabelError(
            f"{where}: labels have type {values.dtype}; integers or text are needed, or one-hot "
            "rows"
        )
    if kind == "f":
        missing = np.argwhere(np.isnan(values))
        if len(missing):
            raise LabelError(
                f"{where}: {len(missing)} labels are missing (NaN), the first is of stimulus "
                f"{missing[0][0]}; leave these stimuli out"
            )
        parts = np.argwhere(~np.isfinite(values) | (values != np.rint(values)))
        if len(parts):
            raise LabelError(
                f"{where}: label {values[tuple(parts[0])]} of stimulus {parts[0][0]} is not a "
                "whole number; a label is a class, not a measured value"
            )
        if np.abs(values).max(initial=0) > 2**53:
            raise LabelError(
                f"{where}: labels reach {np.abs(values).max():.3g}, more than a class can be"
            )
    if kind in "iuf":
        if kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max:
            raise LabelError(f"{where}: labels reach {values.max()}, more than an int64 holds")
        values = values.astype(np.int64)
    return values


def _mixed(labels: Any) -> bool:
    """Tell whether NumPy made text of a list in which not all is text."""
    return not hasattr(labels, "dtype") and not all(
        isinstance(each, (str, bytes, np.str_, np.bytes_, list, tuple)) for each in labels
    )


def _from_objects(labels: Any, where: str) -> npt.NDArray[Any]:
    """Return an array of one type from Python objects."""
    try:
        listed = [each.item() if hasattr(each, "item") else each for each in labels]
    except (TypeError, ValueError, RuntimeError):
        listed = list(labels)
    for number, each in enumerate(listed):
        # NaN is the one value that differs from itself; pandas' NA has no truth value.
        if each is None or type(each).__name__ in ("NAType", "NaTType") or _is_nan(each):
            raise LabelError(
                f"{where}: the label of stimulus {number} is missing ({each}); leave it out"
            )
    if all(isinstance(each, (list, tuple, set, frozenset)) for each in listed) and listed:
        raise LabelError(
            f"{where}: labels are lists of different lengths; give several labels of each stimulus "
            "as a matrix of 0 and 1, (stimulus, class)"
        )
    kinds = {str if isinstance(each, str) else type(each) for each in listed}
    if len(kinds) > 1 and not kinds <= {int, float}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise LabelError(f"{where}: labels are a mixture of {names}; give one type")
    values = np.asarray(listed)
    if values.dtype == object:
        raise LabelError(
            f"{where}: labels have type {type(listed[0]).__name__}; integers or text are needed"
        )
    return values


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and value != value


def _encode_values(values: npt.NDArray[Any], names: list[str] | None, where: str) -> Labels:
    if values.dtype.kind in "Ub":
        text = values.astype(np.str_)
        blank = np.flatnonzero(np.char.strip(text) == "")
        if len(blank):
            raise LabelError(f"{where}: the label of stimulus {blank[0]} is blank; leave it out")
        return _encode_text(text, names, where)
    unique, index = np.unique(values, return_inverse=True)
    _check_negative(values, unique, where)
    if names is None:
        listed = [str(value) for value in unique.tolist()]
        return Labels(index.astype(np.int64), listed, listed)
    count = len(names)
    if unique[-1] == count and unique[0] == 1 and len(unique) == count:
        unique = unique - 1  # numbered from 1: the last would have no name otherwise
    if unique[0] < 0 or unique[-1] >= count:
        counted = "; labels count from 0, or every label from 1 to the number of names occurs"
        raise LabelError(f"{where}: label {unique[-1]} has no name among {count} classes{counted}")
    return Labels(index.astype(np.int64), [names[value] for value in unique.tolist()], names)


def _check_negative(values: IntArray, unique: IntArray, where: str) -> None:
    # -1 and 1 are a usual pair; otherwise -1 usually stands for a missing label.
    if unique[0] < 0 and unique.tolist() != [-1, 1]:
        negative = int((values < 0).sum())
        raise LabelError(
            f"{where}: label {unique[0]} of stimulus {values.argmin()} is negative, {negative} in "
            "all; leave unlabelled stimuli out, or give classes that are negative numbers as text"
        )


def _encode_text(text: npt.NDArray[np.str_], names: list[str] | None, where: str) -> Labels:
    unique, index = np.unique(text, return_inverse=True)
    present = unique.tolist()
    ordered = natural_order(present) if names is None else names
    if names is not None:
        unknown = [each for each in present if each not in set(names)]
        if unknown:
            raise LabelError(
                f"{where}: label {unknown[0]!r} is not among the {len(names)} class names, and "
                f"{len(unknown) - 1} other labels are not either"
            )
    kept = [each for each in ordered if each in set(present)]
    place = {each: position for position, each in enumerate(kept)}
    _check_names(kept, where)
    positions = np.array([place[each] for each in present], dtype=np.int64)
    return Labels(positions[index], kept, list(ordered))


def _encode_rows(values: npt.NDArray[Any], names: list[str] | None, where: str) -> Labels:
    if values.dtype.kind == "U" or not np.isin(values, (0, 1)).all():
        found = "text" if values.dtype.kind == "U" else f"{values[~np.isin(values, (0, 1))][0]}"
        raise LabelError(
            f"{where}: labels have shape {values.shape}, so 0 and 1 are needed, but one is {found}"
        )
    rows = values.astype(bool)
    count = rows.shape[1]
    known = [str(column) for column in range(count)] if names is None else names
    if len(known) != count:
        raise LabelError(f"{where}: {len(known)} class names for {count} columns of labels")
    present = np.flatnonzero(rows.any(axis=0))
    kept = [known[column] for column in present.tolist()]
    if not len(present):
        raise LabelError(f"{where}: all {rows.size} labels are 0; none of the stimuli has a class")
    if (rows.sum(axis=1) == 1).all():
        return Labels(rows[:, present].argmax(axis=1).astype(np.int64), kept, known)
    return Labels(None, kept, known, indicators=rows[:, present])


def _check_names(names: Sequence[str], where: str) -> None:
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise LabelError(f"{where}: more than one class is named {twice!r}; names must differ")
    if len(names) < 2:
        raise LabelError(f"{where} have only one class, {names[0]!r}; two or more are needed")
