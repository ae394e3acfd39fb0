"""Loops over arrays, compiled where numba is installed, and run on every thread.

Some work has no quick form in whole-array operations: sums in an order that is drawn, or a choice
made for every number. Such a loop is written as a plain function of arrays and scalars that fills
its outputs, and `compile_loop` makes machine code of it. numba is an optional extra
(``unitprobe[fast]``), so whoever has a loop also has a way without it that gives the same
numbers within a stated rounding.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from unitprobe.errors import UnitprobeWarning

Parameters = ParamSpec("Parameters")
Part = TypeVar("Part")

_lock = threading.Lock()
#: Of each pool that is open, how many threads torch may use without it.
_open: list[int] = []
_this_thread = threading.local()


@functools.cache
def compile_loop(function: Callable[Parameters, None]) -> Callable[Parameters, None] | None:
    """Compile a loop over arrays, if numba is there to do it.

    Parameters
    ----------
    function : callable
        A function of a module, of arrays and scalars, that calls nothing but arithmetic.

    Returns
    -------
    callable or None
        The same function in machine code, on one thread and without Python's lock, so that
        `run_in_threads` runs several. None without numba, or where ``NUMBA_DISABLE_JIT`` is set.

    Warns
    -----
    UnitprobeWarning
        Once, where numba is installed but cannot be imported.

    Notes
    -----
    It is compiled when it is first called, and the machine code kept beside the module or in the
    user's cache where it can write. Arithmetic is that of the source, but for a product
    and a sum that may become one operation with one rounding; division by 0 gives inf or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from unitprobe.compiled import compile_loop
    >>> def double(values):
    ...     for i in range(values.size):
    ...         values[i] *= 2
    >>> values = np.arange(4.0)
    >>> (compile_loop(double) or double)(values)
    >>> values
    array([0., 2., 4., 6.])
    """
    if not compiles():
        return None
    numba = _import_numba()
    compiler = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath={"contract"})
    unkept: Callable[Parameters, None] = compiler()(function)
    try:
        kept: Callable[Parameters, None] = compiler(cache=True)(function)
    except RuntimeError:
        return unkept  # no folder could be written to

    @functools.wraps(function)
    def loop(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            kept(*args, **kwargs)
        except OSError:  # the loop itself opens nothing: its machine code could not be kept
            unkept(*args, **kwargs)

    return loop


def compiles() -> bool:
    """Tell whether loops are compiled here: numba works, and is not switched off."""
    numba = _import_numba()
    return numba is not None and not numba.config.DISABLE_JIT


@functools.cache
def _import_numba() -> Any:
    """Return numba, or None where it is not installed or does not work here."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba
    except Exception as error:  # numba refuses a NumPy that is newer than it knows
        warnings.warn(
            f"numba is installed but cannot be imported ({error}): slower ways are taken",
            UnitprobeWarning,
            stacklevel=3,
        )
        return None
    return numba


def run_in_threads(task: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Run a task on each part, on as many threads as torch may use.

    Parameters
    ----------
    task : callable
        Does one part, mostly without Python's lock: in a compiled loop, in NumPy or in torch.
    parts : iterable
        What it is called with, each independent of the others.

    Notes
    -----
    Meanwhile each operation of torch has one thread: small ones, done by all threads together,
    take longer to meet than to compute wherever something else runs on the machine.

    Examples
    --------
    >>> squares = {}
    >>> run_in_threads(lambda part: squares.update({part: part**2}), range(3))
    >>> sorted(squares.items())
    [(0, 0), (1, 1), (2, 4)]
    """
    with single_threads() as pool:
        for _ in pool.map(task, parts):
            pass


@contextmanager
def single_threads(count: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads in each of which an operation of torch has one thread.

    Afterwards torch may use as many as before, also where several threads have such a pool at a
    time. A pool within a thread of another has one thread.

    Parameters
    ----------
    count : int, optional
        How many; as many as torch may use if None.

    Examples
    --------
    >>> import torch
    >>> with single_threads(2) as pool:
    ...     list(pool.map(lambda part: part * torch.get_num_threads(), range(3)))
    [0, 1, 2]
    """
    import torch

    own = torch.get_num_threads()
    with _lock:
        # Each thread has a number of its own; a new one has that which was set last anywhere, so
        # beside a pool it may be 1 by mistake.
        threads = _open[0] if _open and own == 1 and not _is_single() else own
        _open.append(threads)
    try:
        with ThreadPoolExecutor(count or threads, initializer=_become_single) as pool:
            yield pool
    finally:
        with _lock:
            _open.remove(threads)
            torch.set_num_threads(threads)


def _become_single() -> None:
    import torch

    _this_thread.is_single = True
    torch.set_num_threads(1)


def _is_single() -> bool:
    return getattr(_this_thread, "is_single", False)
