"""A folder of images for each class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

from unitprobe.errors import StimuliError, UnitprobeWarning
from unitprobe.stimuli.image_files import ImageFiles, image_suffixes
from unitprobe.stimuli.labelled_images import Stimuli
from unitprobe.stimuli.labels import natural_order
from unitprobe.stimuli.splits import SPLITS, Options, choose_split, split_of

#: What operating systems write into folders.
_OF_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})


def load_folder(spec: str, location: str, options: Options) -> Stimuli:
    """Return the images of ``imagefolder:DIR``; see `load_stimuli`."""
    root = Path(location).expanduser()
    if not root.is_dir():
        raise StimuliError(f"{spec!r}: no folder {root}")
    divisions = _divisions(root, spec)
    if divisions:
        held = tuple(split for split in SPLITS if split in divisions)
        root = divisions[choose_split(options.split, held, spec)]
    folders = _class_folders(root)
    if not folders:
        raise StimuliError(
            f"{spec!r}: {root} holds no folders, so its images have no labels; put the images of "
            f"each class in a folder named after it, such as {root / 'CLASS' / 'image.jpg'}"
        )
    paths: list[str] = []
    labels: list[str] = []
    left_out: Counter[str] = Counter()
    for folder in folders:
        files = [path.relative_to(root).as_posix() for path in _files_below(folder)]
        found = sorted(path for path in files if _suffix(path) in image_suffixes())
        others = Counter(_suffix(path) or "no suffix" for path in files if path not in set(found))
        if not found:
            what = f", only {_listed(others)}, which Pillow does not read here" if others else ""
            raise StimuliError(f"{spec!r}: class folder {folder} holds no image{what}")
        left_out += others
        paths += found
        labels += [folder.name] * len(found)
    check_text(spec, paths)
    if left_out:
        warnings.warn(
            f"{spec!r}: {left_out.total()} files are left out; Pillow does not read them as "
            f"pictures here: {_listed(left_out)}",
            UnitprobeWarning,
            stacklevel=3,
        )
    names = natural_order([folder.name for folder in folders])
    if len(names) == 1 and len(_class_folders(folders[0])) > 1:
        raise StimuliError(
            f"{spec!r}: {root} holds only the folder {names[0]!r}, which holds folders; if these "
            f"are the classes, give imagefolder:{folders[0]}"
        )
    return Stimuli(ImageFiles(root, paths), labels, names, paths, name=spec, scale=options.scale)


def check_text(spec: str, paths: list[str]) -> None:
    """Refuse names that are not text, because they become ids in files.

    Raises
    ------
    StimuliError
        A name is not UTF-8.
    """
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise StimuliError(
                f"{spec!r}: the name of {path!r} is not UTF-8; rename the file or its folder"
            ) from None


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _listed(suffixes: Counter[str]) -> str:
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(6))


def _class_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def _files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and its folders, without hidden ones; links are followed."""
    found, visited = [], set[str]()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if name[0] != "."]
        names = [name for name in files if name[0] != "." and name.lower() not in _OF_SYSTEM]
        found += [Path(here, name) for name in names]
    return found


def _holds_images(folder: Path) -> bool:
    return any(_suffix(path.name) in image_suffixes() for path in folder.iterdir())


def _divisions(root: Path, spec: str) -> dict[str, Path]:
    """Return the folder of each split; empty if the folders of `root` are classes."""
    folders = _class_folders(root)
    named = [(split, folder) for folder in folders if (split := split_of(folder.name))]
    divided = [f for _, f in named if _class_folders(f) and not _holds_images(f)]
    others = [f.name for f in folders if split_of(f.name) is None and any(_pictures(f))]
    if not divided:
        if len(named) > 1 and not others:
            names = " and ".join(repr(folder.name) for _, folder in named)
            raise StimuliError(
                f"{spec!r}: {root} holds {names}, names of splits, but they hold no class "
                f"folders; give {named[0][1] / 'CLASS' / 'image.jpg'}"
            )
        return {}
    if others:
        raise StimuliError(
            f"{spec!r}: {root} holds {divided[0].name!r}, which is the name of a split, beside "
            f"{others[0]!r}, which is not; give the folder that holds the classes"
        )
    found: dict[str, Path] = {}
    for split, folder in named:
        if split in found:
            raise StimuliError(
                f"{spec!r}: {found[split].name!r} and {folder.name!r} are both split {split!r}; "
                f"give one of them, such as imagefolder:{folder}"
            )
        found[split] = folder
    return found


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files_below(folder) if _suffix(path.name) in image_suffixes()]
