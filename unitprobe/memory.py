"""Keep the memory of one batch's activations, or of one ablation's, for those of the next.

Activations are as large as they are short-lived, and the C library hands large memory back to the
system as soon as it is free. The system clears every page before it lends it again, which took a
third of the time of a ResNet-18 on images of 224 pixels.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Let the process keep what it frees until the end, where it is given back.

    Notes
    -----
    Only glibc can be told, by ``mallopt``, for the whole process. It does not say what it was told
    before: afterwards its thresholds are those that it comes to by itself where large tensors are
    freed. Whoever has set them in the environment (``MALLOC_...``, ``GLIBC_TUNABLES``) is left
    alone. Contexts may lie within each other, or in several threads: the last to end gives it back.

    Examples
    --------
    >>> with keeping_freed_memory():
    ...     pass
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
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
