"""Write files whole or not at all, and say in one line why one could not be written."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from unitprobe.errors import StorageError, StoreError, StoreExistsError, UnitprobeError
from unitprobe.store.checksum_footer import check_footer

if sys.platform != "win32":
    import fcntl


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
    try:
        is_folder, is_file = target.is_dir(), target.exists()
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{target} cannot be looked for: {reason}") from error
    if is_folder:
        raise StoreExistsError(
            f"{target} is a directory; name a file, such as {target / 'store.h5'}"
        )
    if is_file and not overwrite:
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
def writing(path: Path, participle: str = "") -> Iterator[None]:
    """Turn a failure to write below into a `StorageError` that names `path` and the reason.

    `participle` says what is kept of unfinished work, if there is any: "recorded", "ablated".
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, UnitprobeError):
            raise
        kept = f", what was {participle} before is kept" if participle else ""
        raise StorageError(
            f"{path} could not be written: {error}; free disk space and run the same again{kept}"
        ) from error


def reserve(path: Path, size: int) -> None:
    """Make sure that a file of `size` bytes fits at `path`, which is gone afterwards.

    The blocks are allocated where the system can do that, so that quotas and limits count too.
    HDF5 crashes when the disk fills up while it writes; this fails with a clear error before.

    Raises
    ------
    OSError
        It does not fit.
    """
    try:
        path.touch()
        allocate(path, size)
    finally:
        path.unlink(missing_ok=True)


def allocate(path: Path, size: int) -> None:
    """Allocate `size` bytes of disk space for a file; its contents are kept.

    Raises
    ------
    OSError
        It does not fit.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, size))
        elif shutil.disk_usage(path.parent).free < size - path.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{reason}, {size / 1e6:.1f} MB are needed") from error


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


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to look at it, and turn what goes wrong into a `StoreError`.

    Raises
    ------
    StoreError
        It is not an HDF5 file, or damaged.
    """
    try:
        if path.is_dir() or not h5py.is_hdf5(path):
            raise StoreError(f"{path} is not an HDF5 file; give a file that unitprobe wrote")
        _refuse_locked(path)
        check_footer(path)
        with h5py.File(path, "r") as file:
            yield file
    except UnitprobeError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOLCK:
            raise StorageError(
                f"the file system of {path} has no locks; set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
        raise StoreError(f"{path} is damaged: {first_line(error)}; record it again") from error


def _refuse_locked(path: Path) -> None:
    """Refuse a file that another program holds open for writing: HDF5 locks it with `flock`.

    Raises
    ------
    StorageError
        Another program holds it.
    """
    if sys.platform == "win32":
        return
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"{path} is open in another program that writes to it; close it there first"
            ) from error
        except OSError:
            return  # the file system has no locks; HDF5 itself decides whether it needs them


def first_line(error: BaseException) -> str:
    """Return what an error says in one line."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
