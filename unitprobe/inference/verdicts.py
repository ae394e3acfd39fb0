"""Verdicts: a signed prediction, stated before the data, held against an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from unitprobe.errors import OptionError

#: The side of the threshold on which a prediction expects the quantity.
Direction: TypeAlias = Literal["greater", "less"]
#: What an interval says about a prediction.
Verdict: TypeAlias = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Prediction:
    """A claim that data can refute: a quantity lies above, or below, a threshold.

    It is worth something only if it was written down before the data were seen.

    Parameters
    ----------
    name : str
        What the quantity is, such as ``"accuracy gained by alpha = -1"``.
    direction : {"greater", "less"}
        The side of the threshold on which the quantity is expected.
    threshold : float
        In the unit of the quantity. What would be too small to matter belongs into it: a
        threshold of 0 is passed by an effect of any size.
    description : str
        Where the claim comes from, in a sentence.

    Raises
    ------
    OptionError
        The direction is unknown, or the threshold is not finite.

    Examples
    --------
    >>> Prediction("accuracy gained, in points", "greater", 2.0).threshold
    2.0
    """

    name: str
    direction: Direction
    threshold: float
    description: str = ""

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise OptionError(
                f"prediction {self.name!r}: direction={self.direction!r} must be 'greater' or "
                f"'less'"
            )
        if not math.isfinite(self.threshold):
            raise OptionError(
                f"prediction {self.name!r}: threshold={self.threshold} must be a finite number"
            )


def verdict(prediction: Prediction, estimate: float, low: float, high: float) -> Verdict:
    """Hold an estimate and its interval against a prediction.

    Parameters
    ----------
    prediction : Prediction
        What was expected.
    estimate : float
        The measured quantity. NaN if unknown.
    low, high : float
        Its confidence interval. NaN without one, as for a single network.

    Returns
    -------
    {"supported", "refuted", "inconclusive"}
        "supported" where the interval and the estimate lie wholly beyond the threshold in the
        predicted direction, "refuted" where they lie wholly on the other side, else
        "inconclusive": the threshold is inside or on the edge, or a number is NaN.

    Raises
    ------
    OptionError
        `low` is above `high`.

    Notes
    -----
    With a 95% interval, a quantity that equals the threshold is called supported in 2.5% of
    experiments and refuted in 2.5%. Several predictions tested at once need a level to match,
    such as 1 - 0.05/m for m of them.

    Examples
    --------
    >>> prediction = Prediction("accuracy gained, in points", "greater", 2.0)
    >>> verdict(prediction, 2.9, 2.4, 3.4)
    'supported'
    >>> verdict(prediction, 0.4, -0.1, 0.9)
    'refuted'
    >>> verdict(prediction, 2.3, 1.8, 2.8)
    'inconclusive'
    """
    if low > high:
        raise OptionError(f"the interval of {prediction.name!r} runs backwards: {low} to {high}")
    # A NaN makes every comparison false.
    bounds = (estimate, low, high)
    above = all(bound > prediction.threshold for bound in bounds)
    below = all(bound < prediction.threshold for bound in bounds)
    if not above and not below:
        return "inconclusive"
    return "supported" if above == (prediction.direction == "greater") else "refuted"
