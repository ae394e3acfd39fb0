"""The folder of a report: which files belong to the report, and how they are written."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from unitprobe.errors import StoreExistsError
from unitprobe.plots import printable
from unitprobe.store.files import write_atomically, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How a page says that unitprobe wrote it. Only a folder with such a page is ever overwritten.
MARK = '<meta name="generator" content="unitprobe">'
PAGE = "index.html"

_PLOTS = "plots"


def check_folder(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the path of a folder that a report may be written to.

    Raises
    ------
    StoreExistsError
        It is a file, or has something in it and `overwrite` is false.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise StoreExistsError(f"{folder} is a file; name a folder for the report")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise StoreExistsError(
            f"the folder {folder} is not empty; choose another or replace the report in it with "
            "overwrite=True (--overwrite)"
        )
    return folder


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a report, all or none, and remove plots of an earlier one.

    Other files in the folder are left alone.

    Parameters
    ----------
    folder : Path
        It is made if it is not there.
    files : mapping of str to bytes
        Contents by path inside the folder, the page among them.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    StoreExistsError
        A file of the same name is there that no report has written.
    StorageError
        The folder cannot be written.
    """
    page = folder / PAGE
    ours = page.is_file() and MARK in page.read_text("utf-8", errors="replace")[:1000]
    foreign = [name for name in files if (folder / name).exists() and not ours]
    if foreign:
        raise StoreExistsError(
            f"{folder / foreign[0]} was not written by a report; choose another folder"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # If the disk is full, the earlier report is still complete.
        with TemporaryDirectory(dir=folder, prefix=".unitprobe-") as temporary:
            new = Path(temporary)
            (new / _PLOTS).mkdir()
            for name, contents in files.items():
                write_atomically(new / name, contents)
            (folder / _PLOTS).mkdir(exist_ok=True)
            # The page comes first: it shows that the files that follow are ours, if the writing is
            # interrupted.
            for name in sorted(files, key=lambda name: name != PAGE):
                (new / name).replace(folder / name)
    if ours:
        for name in PLOT_FILES.difference(files):
            (folder / name).unlink(missing_ok=True)
    return page


#: Every plot that some report has.
PLOT_FILES = frozenset(
    f"{_PLOTS}/{name}.svg"
    for name in (
        "selectivity",
        "tuning",
        "dimensionality",
        "sparseness",
        "ablation",
        "networks",
        "protocol",
    )
)


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    import matplotlib as mpl

    contents = io.BytesIO()
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unitprobe"}),
        warnings.catch_warnings(),
    ):
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(contents, format="svg", dpi=150, transparent=True, metadata={"Date": None})
    return contents.getvalue()


def csv(table: pd.DataFrame) -> bytes:
    """Return a table as CSV."""
    return table.to_csv(index=False, lineterminator="\n").encode("utf-8", "replace")


def render(template: str, **values: Any) -> bytes:
    """Return a page; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unitprobe.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["name"] = lambda text: printable(str(text))
    page = environment.get_template(template).render(mark=MARK, **values)
    return page.encode("utf-8", "replace")
