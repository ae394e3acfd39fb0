"""Put files in place whole, and say in one line why one could not be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unitprobe.errors import StorageError, StoreExistsError


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the path of an output that may be written.

    Raises
    ------
    StoreExistsError
        It exists and `overwrite` is false, or it is a directory.
    StorageError
        Its directory is not there or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise StoreExistsError(
            f"{target} is a directory; name a file, such as {target / 'store.h5'}"
        )
    if target.exists() and not overwrite:
        raise StoreExistsError(
            f"{target} exists; choose another path or replace it with overwrite=True (--overwrite)"
        )
    folder = target.parent
    if not folder.is_dir():
        raise StorageError(f"the directory {folder} of {target.name} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise StorageError(f"the directory {folder} cannot be written; choose another path")
    return target


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write below into a `StorageError` that names `path` and the reason."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{path} could not be written: {error}; make room and run the same again, "
            "what was recorded before is kept"
        ) from error


def reserve(path: Path, size: int) -> None:
    """Make sure that a file of `size` bytes fits at `path`, which is gone afterwards.

    The blocks are really allocated, where the system can do that, so that quotas and limits count
    too. HDF5 crashes where the
    disk fills up beneath it; this fails cleanly before.

    Raises
    ------
    OSError
        It does not fit.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, size))
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{reason}, {size / 1e6:.1f} MB are needed") from error
    finally:
        path.unlink(missing_ok=True)


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a finished file over its target and make the rename last."""
    partial.replace(path)
    if os.name != "posix":
        return  # elsewhere a directory cannot be flushed
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
