"""Sizes of files, in the words of people."""

from __future__ import annotations

import re

from unitprobe.errors import OptionError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(size: int | str, option: str = "max_size") -> int:
    """Return a size in bytes: a number of them, or such as ``"10GB"``, ``"500 MB"``, ``"1.5GiB"``.

    Raises
    ------
    OptionError
        It is not a size, or not positive; `option` is named in the message.

    Examples
    --------
    >>> parse_size("10GB"), parse_size("2 KiB"), parse_size(5)
    (10000000000, 2048, 5)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise OptionError(f"{option}={size!r} is not a size; give bytes, or '10GB', or '1.5GiB'")
    units = _BINARY if found[3] else _UNITS
    count = int(float(found[1]) * units[found[2].upper()])
    if count < 1:
        raise OptionError(f"{option}={size!r} is not positive")
    return count


def format_size(count: float) -> str:
    """Return a number of bytes to be read by people.

    Examples
    --------
    >>> format_size(1_234_567), format_size(999)
    ('1.2 MB', '999 B')
    """
    for unit in ("T", "G", "M", "k"):
        scale = _UNITS[unit.upper()]
        if count >= scale:
            return f"{count / scale:.1f} {unit}B"
    return f"{count:.0f} B"


def format_seconds(seconds: float) -> str:
    """Return a duration to be read by people.

    Examples
    --------
    >>> format_seconds(0.2), format_seconds(75), format_seconds(8000)
    ('1 s', '1 min 15 s', '2 h 13 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
