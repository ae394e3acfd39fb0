"""The parts of a set of stimuli, and the options that every source takes."""

from __future__ import annotations

from dataclasses import dataclass

from unitprobe.errors import StimuliError
from unitprobe.stimuli.labels import ClassNames

SPLITS = ("train", "val", "test")
_SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Options:
    """What the caller of `load_stimuli` asks for.

    Attributes
    ----------
    split : str
        Which part.
    class_names : sequence of str, path or Network, optional
        Names of the classes.
    scale : float, optional
        The value of white in images of more than 8 bits.
    """

    split: str
    class_names: ClassNames | None = None
    scale: float | None = None


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, None for any other name.

    Examples
    --------
    >>> split_of("Training"), split_of("cat")
    ('train', None)
    """
    return _SYNONYMS.get(name.strip().lower())


def choose_split(wanted: str, held: tuple[str, ...], spec: str) -> str:
    """Return the split to read, which is "val" for "test" where there is no "test".

    Raises
    ------
    StimuliError
        There is no such split.
    """
    if wanted == "test" and "test" not in held and "val" in held:
        return "val"
    check_split(wanted, held, spec)
    return wanted


def check_split(split: str, known: tuple[str, ...], spec: str) -> None:
    """Refuse a split that a source lacks.

    Raises
    ------
    StimuliError
        There is no such split.
    """
    if split not in known:
        raise StimuliError(f"{spec!r} has no split {split!r}; it has {', '.join(known)}")
