"""Keep long work in a folder beside its target, so that it goes on after a kill.

The folder ``PATH.partial`` holds a lock and the parts that are done. The lock ends with the process
that holds it. A part is written under a temporary name, flushed and renamed, so it is there whole
or not at all, and it begins with its checksum. What the work depends on, its contents, is compared
before it goes on, so that two different pieces of work are never joined. Files that are not of the
work are left alone.

Recordings, ablations and protocols are kept in this way.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from unitprobe.errors import ContentsMismatchError, StoreError, StoreExistsError
from unitprobe.store.files import write_atomically, writing
from unitprobe.store.lock import FolderLock

#: The file of the lock in a folder.
LOCK = "lock"


@dataclass(frozen=True)
class Work:
    """What is done in a folder, in the words of error messages.

    Attributes
    ----------
    noun : str
        Such as ``"recording"``.
    participle : str
        Such as ``"recorded"``, for "is being recorded by another process".
    files : str
        Regular expression that matches the whole name of each file that may be in the folder.
    parts : str
        The same of those from which the work can go on; all of them if empty.
    """

    noun: str
    participle: str
    files: str
    parts: str = ""


def folder_of(path: Path) -> Path:
    """Return the folder in which work on `path` is kept until it is finished.

    Examples
    --------
    >>> folder_of(Path("results/store.h5")).name
    'store.h5.partial'
    """
    return path.with_name(f"{path.name}.partial")


class PartialFolder:
    """The folder of unfinished work. As a context manager it holds the lock.

    On leaving the context the folder is deleted if it holds no part.

    Parameters
    ----------
    path : Path
        The target, where the finished result will be.
    work : Work
        What is done.
    """

    def __init__(self, path: Path, work: Work) -> None:
        self.folder = folder_of(path)
        self._work = work
        self._lock = FolderLock(self.folder / LOCK, work.participle)

    def __enter__(self) -> PartialFolder:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self, *, shared: bool = False) -> None:
        """Take the lock, alone or together with the other processes of the same run.

        Raises
        ------
        StoreExistsError
            The folder holds other files, or another process works in it.
        StorageError
            It cannot be written.
        """
        with writing(self.folder, self._work.participle):
            foreign = [name for name in self.names() if not re.fullmatch(self._work.files, name)]
        if foreign:
            raise StoreExistsError(
                f"{self.folder} is not the folder of an unfinished {self._work.noun}: it holds "
                f"{foreign[0]}; choose another path"
            )
        with writing(self.folder, self._work.participle):
            self._lock.acquire(shared=shared)

    def share(self) -> None:
        """Let the other processes of this run take the lock too."""
        self._lock.share()

    def release(self) -> None:
        """Give the lock up; may be called twice. The process that began deletes an empty folder."""
        if self._lock.owned and not self.has_parts():
            self.remove()
        self._lock.release()

    def names(self) -> list[str]:
        """Return the names of the files in the folder, without the lock."""
        if not self.folder.exists():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.name != LOCK)

    def has_parts(self) -> bool:
        """Return whether anything is kept from which the work can go on."""
        return any(
            re.fullmatch(self._work.parts or self._work.files, name) for name in self.names()
        )

    def clear(self) -> None:
        """Delete everything but the lock, to start again."""
        for name in self.names():
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove(self) -> None:
        """Delete the folder, once the result is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, name: str, contents: bytes) -> None:
        """Write a part, whole or not at all, behind its checksum."""
        checksum = hashlib.sha256(contents).hexdigest().encode()
        with writing(self.folder, self._work.participle):
            write_atomically(self.folder / name, checksum + b"\n" + contents)

    def read(self, name: str) -> bytes:
        """Return what was written as a part.

        Raises
        ------
        StoreError
            It is damaged or gone.
        """
        path = self.folder / name
        try:
            checksum, _, contents = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            checksum, contents = b"", b""
        if hashlib.sha256(contents).hexdigest().encode() != checksum:
            raise StoreError(f"{path} is damaged; start again with resume=False (--no-resume)")
        return contents

    def check_contents(self, before: Mapping[str, object], now: Mapping[str, object]) -> None:
        """Refuse to go on with work that depends on something else.

        Raises
        ------
        ContentsMismatchError
            One of the values of `now` differs from that of the same name of `before`.
        """
        self.refuse(differences(before, now))

    def refuse(self, different: list[str]) -> None:
        """Refuse to go on if anything is different; each is described in a few words.

        Raises
        ------
        ContentsMismatchError
            Something is.
        """
        if different:
            raise ContentsMismatchError(
                f"{self.folder} holds an unfinished {self._work.noun} of something else "
                f"({', '.join(different)}); choose another path, or give it up with resume=False "
                "(--no-resume)"
            )


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return what is different in words, for each name of `now`.

    Examples
    --------
    >>> differences({"pool": "mean"}, {"pool": "max"})
    ["pool 'mean' there, 'max' now"]
    """
    return [
        f"{key} {_short(before.get(key))} there, {_short(value)} now"
        for key, value in now.items()
        if before.get(key) != value
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
