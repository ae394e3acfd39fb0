"""Options of the whole library, set for a block of code or from then on."""

from __future__ import annotations

from types import TracebackType

from unitprobe.errors import OptionError

_options = {"keep_freed_memory": True}


class set_options:  # noqa: N801  (named as xarray names it)
    """Set options of the library: in a ``with`` block, or from then on.

    Parameters
    ----------
    keep_freed_memory : bool, optional
        Whether recording, ablation and one-pass analysis tell the C library (glibc, ``mallopt``)
        to keep freed memory while they run. Then the memory of one batch's activations is used
        again for the next. This applies to the whole process, also to your own code in other
        threads, and raises the memory that the process holds. At the end the memory is given back.
        True by default; without effect where the C library is not glibc, or where ``MALLOC_...`` or
        ``GLIBC_TUNABLES`` is set in the environment. ``docs/performance.md`` has what it gains.

    Raises
    ------
    OptionError
        A value is not a bool, or no option is given.

    Examples
    --------
    >>> import unitprobe as up
    >>> with up.set_options(keep_freed_memory=False):
    ...     pass  # up.record(...) leaves malloc alone here
    >>> _ = up.set_options(keep_freed_memory=True)  # from now on
    """

    def __init__(self, *, keep_freed_memory: bool | None = None) -> None:
        if keep_freed_memory is None:
            raise OptionError("set_options() needs an option: keep_freed_memory=True or False")
        if keep_freed_memory not in (True, False):
            raise OptionError(f"keep_freed_memory must be True or False, not {keep_freed_memory!r}")
        self._before = dict(_options)
        _options["keep_freed_memory"] = keep_freed_memory

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _options.update(self._before)


def get_option(name: str) -> bool:
    """Return the present value of an option.

    Examples
    --------
    >>> get_option("keep_freed_memory")
    True
    """
    return _options[name]
