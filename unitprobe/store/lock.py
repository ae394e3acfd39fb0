"""Let one run at a time work in a folder: a lock that ends with the process that holds it.

On Linux and macOS it is a lock of `flock`, and one run holds it in all its processes. On Windows it
is a lock of `msvcrt`, and only the first process holds it. Where the file system has no locks,
nothing is locked and a warning says so.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
import warnings
from pathlib import Path

from unitprobe.errors import StoreExistsError, UnitprobeWarning

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: A process that looks whether a lock is held (`is_held`) holds it for a moment. So a refusal is
#: final only after some tries, with so many seconds between them.
_PAUSE = 0.05
_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


class FolderLock:
    """The lock of the folder of unfinished work, a file in it.

    Parameters
    ----------
    path : Path
        The file. It stays when the lock is released; only a lock on it counts.
    participle : str
        What is done in the folder: "recorded", "ablated".
    tries : int
        How often to try before the lock counts as held by another process.
    """

    def __init__(self, path: Path, participle: str, *, tries: int = 10) -> None:
        self._path = path
        self._participle = participle
        self._tries = tries
        self._handle = -1
        #: Whether this process took the lock alone, as the first of its run.
        self.owned = False

    def acquire(self, *, shared: bool = False) -> None:
        """Take the lock, alone or together with the other processes of the same run.

        Raises
        ------
        StoreExistsError
            Another process holds it.
        """
        for attempt in range(self._tries):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _try_lock(self._handle, shared=shared):
                holder = os.read(self._handle, 200).decode(errors="replace").strip()
                self.release()
                if attempt == self._tries - 1:
                    raise StoreExistsError(
                        f"{self._path.parent} is being {self._participle} by another process"
                        f"{f' ({holder})' if holder else ''}; wait for it, or choose another path"
                    )
            elif self._is_same_file():
                self.owned = not shared
                if not shared:
                    os.ftruncate(self._handle, 0)
                    holder = f"process {os.getpid()} on {socket.gethostname()}"
                    os.write(self._handle, holder.encode())
                return
            else:
                self.release()  # the run that held it has finished and removed its folder
            time.sleep(_PAUSE)

    def share(self) -> None:
        """Let the other processes of this run take the lock too."""
        if sys.platform != "win32":
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle, self.owned = -1, False

    def _is_same_file(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except OSError:
            return False


def holder_of(path: Path) -> str:
    """Return in words which process took the lock last: ``"process 12 on host"``, or nothing."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def is_held(path: Path) -> bool:
    """Tell whether a process holds the lock now."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(handle, shared=False, quiet=True)
    finally:
        os.close(handle)


def _try_lock(handle: int, *, shared: bool, quiet: bool = False) -> bool:
    """Take the lock of an open file; False if another process has it."""
    try:
        if sys.platform != "win32":
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif not shared:
            os.lseek(handle, 2**20, os.SEEK_SET)  # the text before it can still be read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if not quiet:
            warnings.warn(
                f"the file system has no locks ({error.strerror}): make sure that no other process "
                "works on the same path",
                UnitprobeWarning,
                stacklevel=2,
            )
    return True
