"""Read the indices of units that a user gives."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

import numpy as np
from torch import Tensor

from unitprobe.errors import OptionError


def unit_indices(given: object, count: int, where: str) -> list[int]:
    """Return indices of units as a list of integers.

    Parameters
    ----------
    given : int, sequence of int, or mask of bool (unit,)
        The indices; a mask means those that are True.
    count : int
        How many units there are.
    where : str
        What has these units, for the message of an error.

    Raises
    ------
    OptionError
        They are not integers or booleans, a mask has another length, or an index is below 0 or
        above the last unit.

    Examples
    --------
    >>> unit_indices([2, 0], 3, "layer 'relu'"), unit_indices([True, False, True], 3, "a layer")
    ([2, 0], [0, 2])
    """
    shown = " ".join(reprlib.repr(given).split())
    values = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | np.ndarray):
        values = list(values)
        booleans = [isinstance(value, bool | np.bool_) for value in values]
        if any(booleans) and not all(booleans):
            raise _not_indices(shown, count, where)
    try:
        array = np.asarray(values)
    except ValueError:  # lists of several lengths
        raise _not_indices(shown, count, where) from None
    if array.ndim == 1 and not len(array):
        return []
    if array.ndim == 1 and array.dtype == bool:
        if len(array) != count:
            raise OptionError(
                f"the mask of {len(array)} booleans does not fit {where}, which has {count} units"
            )
        return [int(unit) for unit in np.flatnonzero(array)]
    if array.ndim > 1 or array.dtype.kind not in "iu":
        raise _not_indices(shown, count, where)
    units = [int(unit) for unit in np.atleast_1d(array)]
    wrong = [unit for unit in units if not 0 <= unit < count]
    if wrong:
        raise OptionError(f"unit {wrong[0]} is not in {where}, which has units 0 to {count - 1}")
    return units


def _not_indices(shown: str, count: int, where: str) -> OptionError:
    return OptionError(
        f"units {shown} of {where} are not indices; give integers such as [0, 1], or a mask of "
        f"{count} booleans"
    )
