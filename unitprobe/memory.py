"""Keep the memory of one batch's activations for those of the next.

The C library returns large freed memory to the system at once, and the system clears every page
before it hands it out again. Activations are large and short-lived, so this takes a good part of
a forward pass; ``docs/performance.md`` has how much.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from unitprobe.options import get_option

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MOST = 2**31 - 1
# Where its own thresholds end in a process that frees large tensors, and its count of mappings.
_OWN = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

_lock = threading.Lock()
#: The C library, once for each context that is open.
_open: list[ctypes.CDLL] = []


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let the process keep freed memory inside the context; give it back at the end.

    Does nothing after ``unitprobe.set_options(keep_freed_memory=False)``, where the C library is
    not glibc, or where ``MALLOC_...`` or ``GLIBC_TUNABLES`` is set in the environment.

    Notes
    -----
    It calls ``mallopt``, which applies to the whole process. glibc does not tell its settings:
    afterwards the thresholds are those that it reaches by itself where large tensors are freed.
    Contexts may be nested or in several threads: the last one that ends gives the memory back.

    Examples
    --------
    >>> with keeping_freed_memory():
    ...     pass
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    wanted = get_option("keep_freed_memory")
    if chosen or not wanted or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    with _lock:
        _open.append(library)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        with _lock:
            _open.pop()
            if not _open:
                for option, value in _OWN.items():
                    library.mallopt(option, value)
                library.malloc_trim(ctypes.c_size_t(0))
