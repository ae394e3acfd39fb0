"""A table of the paths of images and their labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unitprobe.errors import LabelError, OptionError, StimuliError
from unitprobe.stimuli.folders import check_text
from unitprobe.stimuli.image_files import ImageFiles
from unitprobe.stimuli.labelled_images import Stimuli
from unitprobe.stimuli.splits import SPLITS, Options, choose_split, split_of

if TYPE_CHECKING:
    import pandas as pd

_PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
_LABELS = ("label", "class", "target", "category", "class_name")


def load_table(spec: str, location: str, options: Options) -> Stimuli:
    """Return the images of ``table:FILE``; see `load_stimuli`."""
    file = Path(location).expanduser()
    if not file.is_file():
        raise StimuliError(f"{spec!r}: no file {file}")
    table = _read(spec, file)
    table.columns = [str(column).strip().lower() for column in table.columns]
    path_column = _column(spec, table, _PATHS, "the path of each image")
    label_column = _column(spec, table, _LABELS, "its label")
    if "split" in table:
        table = _of_split(spec, table, options.split)
    _check_filled(spec, table, path_column, StimuliError)
    _check_filled(spec, table, label_column, LabelError)
    listed = [Path(str(path).strip()) for path in table[path_column]]
    paths = [path.as_posix() for path in listed]
    check_text(spec, paths)
    missing = [path for path in listed if not (file.parent / path).is_file()]
    if missing:
        raise StimuliError(
            f"{spec!r}: {len(missing)} of {len(paths)} images do not exist, the first is "
            f"{file.parent / missing[0]}; paths are relative to the folder of the table"
        )
    ids = table["id"].astype(str).tolist() if "id" in table else paths
    labels, stated = _labels(spec, table, label_column)
    names = stated if options.class_names is None else options.class_names
    return Stimuli(
        ImageFiles(file.parent, paths), labels, names, ids, name=spec, scale=options.scale
    )


def _read(spec: str, file: Path) -> pd.DataFrame:
    import pandas as pd

    suffix = file.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            return pd.read_parquet(file)
        if suffix not in (".csv", ".tsv", ".txt"):
            raise StimuliError(f"{spec!r}: {file} is not a .csv, .tsv or .parquet file")
        with file.open(encoding="utf-8-sig") as lines:
            header = lines.readline()
        separator = max("\t;,", key=header.count)
        # As text, so that "01" stays what it is and "NA" or "None" may be a class.
        return pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except ImportError as error:
        raise OptionError(f"{spec!r} needs pyarrow to read; pip install pyarrow") from error
    except (StimuliError, OptionError):
        raise
    except Exception as error:  # the readers raise errors of many kinds
        problem = " ".join(str(error).split())[:200]
        raise StimuliError(f"{spec!r}: {file} cannot be read: {problem}") from error


def _column(spec: str, table: pd.DataFrame, names: tuple[str, ...], what: str) -> str:
    found = [name for name in names if name in table]
    if not found:
        raise StimuliError(
            f"{spec!r}: no column holds {what}; it is named {' or '.join(names)}, the table has "
            f"{', '.join(table.columns)}"
        )
    if len(table.columns) != len(set(table.columns)):
        raise StimuliError(f"{spec!r}: two columns have one name among {', '.join(table.columns)}")
    return found[0]


def _of_split(spec: str, table: pd.DataFrame, wanted: str) -> pd.DataFrame:
    splits = [split_of(str(value)) for value in table["split"]]
    unknown = [str(v) for v, split in zip(table["split"], splits, strict=True) if split is None]
    if unknown:
        raise StimuliError(f"{spec!r}: the split {unknown[0]!r} is not one of {', '.join(SPLITS)}")
    if wanted == "all":
        return table
    held = tuple(split for split in SPLITS if split in splits)
    chosen = choose_split(wanted, held, spec)
    return table[np.array([split == chosen for split in splits])]


def _check_filled(
    spec: str, table: pd.DataFrame, column: str, kind: type[StimuliError] | type[LabelError]
) -> None:
    blank = (table[column].isna() | (table[column].astype(str).str.strip() == "")).to_numpy()
    if blank.any():
        raise kind(
            f"{spec!r}: {blank.sum()} of {len(table)} rows have no {column!r}, the first is row "
            f"{blank.argmax() + 1}; leave them out"
        )


def _labels(
    spec: str, table: pd.DataFrame, column: str
) -> tuple[list[str] | np.ndarray[tuple[int], np.dtype[np.generic]], list[str] | None]:
    """Return labels, integers where all are, and their names where a column has them."""
    values = table[column]
    labels = values.tolist()
    if isinstance(labels[0] if labels else None, str):
        labels = [label.strip() for label in labels]
        try:
            # "01" is a name: as a number it would be another one.
            if all(label == str(int(label)) for label in labels):
                labels = [int(label) for label in labels]
        except ValueError:
            numbers = [label.removesuffix(".0") for label in labels]
            if all(number.isdecimal() for number in numbers):
                labels = [int(number) for number in numbers]
    if column == "class_name" or "class_name" not in table:
        return labels, None
    names = [str(name).strip() for name in table["class_name"]]
    pairs = set(zip(labels, names, strict=True))
    if len(pairs) != len(set(labels)) or len(pairs) != len(set(names)):
        raise LabelError(f"{spec!r}: {column!r} and 'class_name' do not name the same classes")
    return names, [name for _, name in sorted(pairs)]
