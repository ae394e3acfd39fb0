"""Verdicts: a signed prediction, stated before the data, held against an interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
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


def verdict(
    prediction: Prediction,
    estimate: float,
    low: float,
    high: float,
    *,
    refuting: tuple[float, float] | None = None,
) -> Verdict:
    """Hold an estimate and its interval against a prediction.

    Parameters
    ----------
    prediction : Prediction
        What was expected.
    estimate : float
        The measured quantity. NaN if unknown.
    low, high : float
        Its confidence interval. NaN without one, as for a single network.
    refuting : (float, float), optional
        The interval that decides about "refuted", if another one. A claim that consists of m
        predictions is false if one of them is. So that a true claim is refuted in at most 5% of
        experiments, give the interval of level 1 - 0.05/m; see `verdict_of_all`.

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
    experiments and refuted in 2.5%.

    Examples
    --------
    >>> prediction = Prediction("accuracy gained, in points", "greater", 2.0)
    >>> verdict(prediction, 2.9, 2.4, 3.4)
    'supported'
    >>> verdict(prediction, 0.4, -0.1, 0.9)
    'refuted'
    >>> verdict(prediction, 2.3, 1.8, 2.8)
    'inconclusive'
    >>> verdict(prediction, 1.5, 1.1, 1.9, refuting=(0.9, 2.1))
    'inconclusive'
    """
    wide = (low, high) if refuting is None else refuting
    for lower, upper in ((low, high), wide):
        if lower > upper:
            raise OptionError(
                f"the interval of {prediction.name!r} runs backwards: {lower} to {upper}"
            )
    # A NaN makes every comparison false.
    above, below = (
        [
            all(side * bound > side * prediction.threshold for bound in (estimate, *ends))
            for ends in ((low, high), wide)
        ]
        for side in (1, -1)
    )
    as_predicted, against = (above, below) if prediction.direction == "greater" else (below, above)
    if as_predicted[0]:
        return "supported"
    return "refuted" if against[1] else "inconclusive"


def verdict_of_all(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim that holds only if all its predictions hold.

    Parameters
    ----------
    verdicts : iterable of {"supported", "refuted", "inconclusive"}
        On each prediction. With m predictions, "supported" may come from intervals of the full
        level, and "refuted" must come from intervals of level 1 - (1 - level)/m (Bonferroni);
        otherwise a true claim of many predictions is refuted too often. See `verdict`.

    Returns
    -------
    {"supported", "refuted", "inconclusive"}
        "refuted" if one is, "supported" if all are and there is one, else "inconclusive".

    Notes
    -----
    "Supported" needs no correction: it requires every prediction to be supported, which is an
    intersection-union test (Berger 1982).

    Examples
    --------
    >>> verdict_of_all(["supported", "supported"]), verdict_of_all(["supported", "inconclusive"])
    ('supported', 'inconclusive')
    """
    found = set(verdicts)
    if "refuted" in found:
        return "refuted"
    return "supported" if found == {"supported"} else "inconclusive"
