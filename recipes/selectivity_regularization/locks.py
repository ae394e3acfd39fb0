"""A lock file beside the folder of each run, for any number of processes and machines."""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from unitprobe.errors import StoreError
from unitprobe.store import writing

#: A lock that was not refreshed for so long is taken over. An epoch must be shorter.
STALE_SECONDS = 30 * 60


class LockedError(StoreError):
    """Another process trains the run."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    token: str

    @property
    def is_dead(self) -> bool:
        """Whether it is a process of this machine that is gone."""
        if self.host != platform.node():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


class Lock:
    """A lock that is held, from `locked`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._holder = holder

    def refresh(self) -> None:
        """Record that the run is still being trained.

        Raises
        ------
        LockedError
            Another process took the run over, because this one did not refresh its lock in time.
        """
        if holder_of(self._path) != self._holder:
            raise LockedError(
                f"{self._path} was taken over by another process, which resumes this run; "
                "give a longer --stale-minutes if an epoch takes so long"
            )
        os.utime(self._path)

    def release(self) -> None:
        """Delete the lock, unless another process took the run over."""
        if holder_of(self._path) == self._holder:
            self._path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, stale_seconds: float = STALE_SECONDS) -> Iterator[Lock]:
    """Hold the lock of a run while the body trains it.

    Parameters
    ----------
    folder : Path
        Of the run. The lock is a file beside it.
    stale_seconds : float
        A lock that was not refreshed for so long, or that is held by a process of this machine
        which is gone, is taken over.

    Raises
    ------
    LockedError
        Another process holds it.
    """
    path = lock_path(folder)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and _is_free(path, stale_seconds):
            _remove_stale(path, stale_seconds)
        lock = _create(path)
    if lock is None:
        raise LockedError(f"{folder} is being trained {describe_holder(folder)}")
    try:
        yield lock
    finally:
        lock.release()


def lock_path(folder: Path) -> Path:
    """Return where the lock of a run is."""
    return folder.with_name(f"{folder.name}.lock")


def is_free(folder: Path, stale_seconds: float = STALE_SECONDS) -> bool:
    """Tell whether no living process holds the lock of a run."""
    return _is_free(lock_path(folder), stale_seconds)


def holder_of(path: Path) -> Holder | None:
    """Return who holds a lock; None if no process does, or its file is not written yet."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def describe_holder(folder: Path) -> str:
    """Return in words who holds the lock of a run."""
    path = lock_path(folder)
    holder = holder_of(path)
    try:
        minutes = max(0.0, time.time() - path.stat().st_mtime) / 60
    except FileNotFoundError:
        return "by a process that ended just now"
    who = "a process" if holder is None else f"process {holder.pid} on {holder.host}"
    return f"by {who}, last heard of {minutes:.0f} min ago"


def _create(path: Path) -> Lock | None:
    holder = Holder(platform.node(), os.getpid(), uuid.uuid4().hex)
    try:
        # Exclusive creation is atomic on shared file systems as well.
        with path.open("x") as file:
            json.dump(asdict(holder), file)
    except FileExistsError:
        return None
    return Lock(path, holder)


def _is_free(path: Path, stale_seconds: float) -> bool:
    holder = holder_of(path)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    return age > stale_seconds or (holder is not None and holder.is_dead)


def _remove_stale(path: Path, stale_seconds: float) -> None:
    """Remove a stale lock, but not one that another process created just now."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _is_free(aside, stale_seconds) or path.exists():
        aside.unlink()
    else:
        aside.rename(path)
