"""How large the largest drop over classes is if an ablation has nothing to do with classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unitprobe.ablation.outcome import Counts, Values
from unitprobe.errors import OptionError

_BLOCK_NUMBERS = 2**22


@dataclass(frozen=True)
class MaxDropChance:
    """What chance says of the largest class accuracy drop of each target; every field (target,).

    Attributes
    ----------
    mean : array
        Mean of the null, -1 to 1.
    p : array
        Chance of at least the observed drop if classes did not matter, 1/(1 + resamples) to 1.
    """

    mean: Values
    p: Values


def max_drop_chance(
    class_count: Counts,
    intact: Counts,
    ablated: Counts,
    lost: Counts,
    gained: Counts,
    *,
    resamples: int,
    seed: int,
) -> MaxDropChance:
    """Hold the largest class accuracy drop against ablations that hit as many stimuli at random.

    Parameters
    ----------
    class_count : array (class_name,)
        Stimuli of each class.
    intact : array (class_name,)
        Those among them that the intact network classifies correctly.
    ablated : array (target, class_name)
        Those that each ablated network classifies correctly.
    lost, gained : array (target,)
        How many stimuli only the intact, and only the ablated network classifies correctly.
    resamples : int
        How often stimuli are drawn.
    seed : int
        The same seed gives the same draws.

    Returns
    -------
    MaxDropChance
        The mean and p-value of each target.

    Raises
    ------
    OptionError
        `resamples` is below 1.

    Notes
    -----
    The drop of class c is (lost_c - gained_c) / n_c, and the largest of many such numbers is above
    0 by chance alone, the more so the fewer stimuli a class has. So as many stimuli as the target
    lost are drawn without replacement from all that the intact network classifies correctly,
    and as many as it gained from all others, whatever their class: lost_c and gained_c are then
    multivariate hypergeometric. p = (1 + #{null >= observed}) / (1 + resamples), one-sided
    (Phipson & Smyth 2010). All targets share the draws: the first stimuli of the same
    random orders.

    Examples
    --------
    >>> import numpy as np
    >>> count = np.array([10, 10])
    >>> found = max_drop_chance(
    ...     count, count, np.array([[0, 10], [5, 5]]), np.array([10, 10]), np.array([0, 0]),
    ...     resamples=999, seed=1,
    ... )
    >>> found.p
    array([0.001, 1.   ])
    """
    if resamples < 1:
        raise OptionError(f"null={resamples} draws are too few; 1000 are usual, 0 leaves p out")
    classes = len(class_count)
    present = class_count > 0
    scale = 1 / class_count[present]
    # One expression for both, so that ties are exact.
    observed = ((intact - ablated)[:, present] * scale).max(axis=1)
    labels = (
        np.repeat(np.arange(classes), intact),
        np.repeat(np.arange(classes), class_count - intact),
    )
    pairs, of = np.unique(np.stack([lost, gained], axis=1), axis=0, return_inverse=True)
    of = of.reshape(-1)
    total = np.zeros(len(pairs))
    reached = np.zeros(len(observed), dtype=np.int64)
    rng = np.random.default_rng(seed)
    most = pairs.max(axis=0)
    at_once = max(1, _BLOCK_NUMBERS // max(1, int(class_count.sum())))
    for done in range(0, resamples, at_once):
        count = min(at_once, resamples - done)
        drawn = [
            rng.permuted(np.tile(some, (count, 1)), axis=1)[:, :longest]
            for some, longest in zip(labels, most, strict=True)
        ]
        for number, pair in enumerate(pairs):
            hit, healed = (
                _counts_by_class(orders[:, :size], classes)
                for orders, size in zip(drawn, pair, strict=True)
            )
            largest = ((hit - healed)[:, present] * scale).max(axis=1)
            total[number] += largest.sum()
            same = np.flatnonzero(of == number)
            reached[same] += (largest[:, None] >= observed[same]).sum(axis=0)
    return MaxDropChance(total[of] / resamples, (1 + reached) / (1 + resamples))


def _counts_by_class(labels: Counts, classes: int) -> Counts:
    """Return how often each class stands in each row, (row, class_name)."""
    rows = len(labels)
    places = labels + classes * np.arange(rows)[:, None]
    counts: Counts = np.bincount(places.ravel(), minlength=rows * classes).reshape(rows, classes)
    return counts
