"""Schedules: the weight of the regularizer over the epochs of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unitprobe.errors import OptionError


@dataclass(frozen=True)
class AlphaSchedule:
    """The weight of the regularizer in each epoch; call it with the epoch, counted from 0.

    Attributes
    ----------
    parts : tuple of (float, float, int)
        First value, value after the last epoch, and number of epochs of each part, in order. The
        last value stays after the last part.
    """

    parts: tuple[tuple[float, float, int], ...]

    def __call__(self, epoch: int) -> float:
        """Return the weight in an epoch, 0 or later."""
        for first, last, epochs in self.parts:
            if epoch < epochs:
                return first + (last - first) * epoch / epochs
            epoch -= epochs
        return self.parts[-1][1]

    @property
    def is_constant(self) -> bool:
        """Whether every epoch has the same weight."""
        return len({value for first, last, _ in self.parts for value in (first, last)}) == 1


def alpha_schedule(text: str | float) -> AlphaSchedule:
    """Read a schedule for the weight of the regularizer.

    Parameters
    ----------
    text : str or float
        A number, for every epoch; or parts separated by spaces: ``"0*5 -20*85"`` is 0 for five
        epochs and then -20. ``"0..-1*5 -1"`` goes from 0 towards -1 in five equal steps, and is
        -1 from the sixth epoch on. The last part needs no number of epochs; its last value stays.

    Returns
    -------
    AlphaSchedule
        A function of the epoch, counted from 0.

    Raises
    ------
    OptionError
        The text is not a schedule, or a value is not a finite number.

    Examples
    --------
    >>> warm_up = alpha_schedule("0*2 0..-1*4 -1")
    >>> [warm_up(epoch) for epoch in range(8)]
    [0.0, 0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]
    """
    words = str(text).split()
    if not words:
        raise OptionError('the schedule for alpha is empty; give a number, or "0*5 -20*85"')
    parts = [_part(word, str(text), is_last=False) for word in words[:-1]]
    return AlphaSchedule((*parts, _part(words[-1], str(text), is_last=True)))


def _part(word: str, text: str, *, is_last: bool) -> tuple[float, float, int]:
    values, star, epochs = word.partition("*")
    first, _, last = values.partition("..")
    try:
        ends = float(first), float(last or first)
        count = int(epochs) if star or not is_last else 1
    except ValueError:
        raise OptionError(
            f"alpha {text!r}: {word!r} is not VALUE*EPOCHS or FIRST..LAST*EPOCHS; "
            'give a number, or a schedule such as "0*5 -20*85"'
        ) from None
    if not all(map(math.isfinite, ends)):
        raise OptionError(f"alpha {text!r}: {word!r} is not a finite number; -1 is usual")
    if count < 1:
        raise OptionError(f"alpha {text!r}: {word!r} lasts {count} epochs; give 1 or more")
    return (*ends, count)
