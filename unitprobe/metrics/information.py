"""Mutual information: how many bits the response of one unit gives about the class."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from unitprobe.errors import OptionError, ResponseError
from unitprobe.metrics._arrays import as_array, as_labels, as_responses, unit_blocks
from unitprobe.metrics._ranks import RankedResponses, ranked_blocks
from unitprobe.metrics.classes import require_two_classes
from unitprobe.typing import Array

#: The number of bins, unless another is given.
BINS = 10


def mutual_information(
    responses: Array, labels: Array, *, bins: int = BINS, corrected: bool = True
) -> Array:
    """Mutual information between the class and the binned response of each unit.

    Parameters
    ----------
    responses, labels
        See `unitprobe.metrics`. Responses of any sign.
    bins : int
        The number of bins, at least 2; see `bin_responses`.
    corrected : bool
        Whether to subtract the bias as estimated by Miller and Madow.

    Returns
    -------
    array
        (unit,), bits. Without the correction 0 (the response says nothing) to
        log2(min(bins, classes)); with it, a little below either end. 0 for a unit that responds
        alike to every stimulus; never NaN.

    Raises
    ------
    ResponseError, LabelError
        See `unitprobe.metrics`.
    OptionError
        `bins` is below 2.

    Notes
    -----
    I = H(class) + H(bin) - H(class, bin), with H = -sum p log2 p of the observed shares (Shannon
    1948). Its bias is upward, about (bins - 1)(C - 1) / (2 N ln 2) bits for N stimuli. The
    correction adds (m - 1) / (2 N ln 2) to each H, with m the number of bins, classes or cells
    that hold a stimulus: Miller, "Note on the bias of information estimates" (1955); Panzeri,
    Senatore, Montemurro & Petersen, "Correcting for the sampling bias problem in spike train
    information measures" (2007). It removes too little where most cells hold none or one: what is
    left is the mean over shuffled labels.

    Ten bins are a compromise. Fewer lose information: no more than log2(bins), 3.3 bits here, can
    be found. More raise the bias, in proportion.

    Examples
    --------
    A unit that responds to one of two classes, and a dead one:

    >>> import numpy as np
    >>> responses = np.zeros((100, 2))
    >>> responses[:50, 0] = 1.0
    >>> mutual_information(responses, np.arange(100) // 50, corrected=False)
    array([1., 0.])
    """
    require_two_classes(labels, "mutual_information")
    _check_bins(bins)
    responses = as_responses(responses)
    xp = array_namespace(responses)
    information = [
        mutual_information_from_bins(_bin(ranked, bins), labels, corrected=corrected)
        for ranked in ranked_blocks(responses)
    ]
    return xp.concat(information)


def bin_responses(responses: Array, bins: int = BINS) -> Array:
    """Put the responses of each unit into bins of equal numbers of stimuli.

    Parameters
    ----------
    responses : array
        (stimulus, unit), real and finite.
    bins : int
        The number of bins, at least 2.

    Returns
    -------
    array
        (stimulus, unit), integers 0..bins-1, ascending with the response. Equal responses share
        the bin that holds the middle of their ranks, so bins are of equal size only without ties,
        and some are empty beside a mass of zeros.

    Raises
    ------
    ResponseError
        The responses are not a (stimulus, unit) matrix of finite numbers.
    OptionError
        `bins` is below 2.

    Notes
    -----
    floor(bins (m - 1/2) / N), with m the ascending rank, ties at their mean, of N stimuli. The bins
    of the negated responses are the same in reverse, save where a rank lies on an edge.

    Examples
    --------
    >>> import numpy as np
    >>> bin_responses(np.array([[0.0], [9.0], [0.0], [0.0], [1.0], [5.0]]), bins=3).T
    array([[0, 2, 0, 0, 1, 2]], dtype=int32)
    """
    _check_bins(bins)
    responses = as_responses(responses)
    xp = array_namespace(responses)
    return xp.concat([_bin(ranked, bins) for ranked in ranked_blocks(responses)], axis=1)


def mutual_information_from_bins(binned: Array, labels: Array, *, corrected: bool = True) -> Array:
    """`mutual_information` from the bin of each response, which does not depend on the labels.

    Parameters
    ----------
    binned : array
        (stimulus, unit), integers from 0, such as `bin_responses` gives.
    labels, corrected
        As `mutual_information`.

    Returns
    -------
    array
        (unit,), as `mutual_information`.

    Raises
    ------
    ResponseError
        The bins are not a (stimulus, unit) matrix of integers from 0.
    LabelError
        The labels are not integers 0..C-1, one for each stimulus.

    Examples
    --------
    >>> import numpy as np
    >>> binned, labels = np.array([[0], [0], [1], [1]]), np.array([0, 0, 1, 2])
    >>> mutual_information_from_bins(binned, labels, corrected=False)
    array([1.])
    """
    binned = as_array(binned)
    xp = array_namespace(binned)
    if binned.ndim != 2 or not xp.isdtype(binned.dtype, "integral") or 0 in binned.shape:
        raise ResponseError(
            f"bins must be a (stimulus, unit) matrix of integers, got shape {tuple(binned.shape)} "
            f"of {binned.dtype}"
        )
    if int(xp.min(binned)) < 0:
        raise ResponseError(f"bins must count from 0, but the lowest is {int(xp.min(binned))}")
    labels = as_labels(labels, responses=binned)
    # Whichever classes and bins are empty, those that are left have low numbers.
    labels = xp.unique_inverse(labels).inverse_indices
    stimuli, units = binned.shape
    parts = [_information(binned[:, some], labels) for some in unit_blocks(units, stimuli)]
    information = xp.concat([bits for bits, _ in parts])
    occupied = xp.concat([excess for _, excess in parts])
    bias = xp.astype(occupied, information.dtype) / (2.0 * stimuli * math.log(2.0))
    return information + bias if corrected else information


def _check_bins(bins: int) -> None:
    if bins < 2:
        raise OptionError(f"bins={bins} is too few; information needs at least 2")


def _bin(ranked: RankedResponses, bins: int) -> Array:
    stimuli = ranked.ordered.shape[1]
    xp = array_namespace(ranked.first_rank)
    # Twice the number of stimuli below the middle of the tie, in integers: exact at the edges.
    doubled = 2 * stimuli + 1 - ranked.first_rank - ranked.last_rank
    wide = xp.astype(doubled, xp.int64)
    return xp.astype((bins * wide) // (2 * stimuli), xp.int32).T


def _information(binned: Array, labels: Array) -> tuple[Array, Array]:
    """Return the plug-in information in bits, and what the occupied cells add to it.

    The latter is the number of occupied bins and classes, less that of cells and less 1.
    """
    xp = array_namespace(binned)
    stimuli, units = binned.shape
    classes = int(xp.max(labels)) + 1
    bins = int(xp.max(binned)) + 1
    cell = labels[:, None] * bins + binned
    first = xp.arange(units, device=device(binned)) * (classes * bins)
    flat = xp.reshape(cell + first[None, :], (-1,))
    counts = xp.bincount(flat, minlength=units * classes * bins)
    counts = xp.reshape(counts, (units, classes, bins))
    by_class, by_bin = xp.sum(counts, axis=2), xp.sum(counts, axis=1)

    # n log2 n of every count n that there can be, in integers: their sums are exact, so equal
    # tables give equal information whatever the order of their cells, and ties stay ties.
    n = xp.astype(xp.arange(stimuli + 1, device=device(binned)), xp.float64)
    n_log_n = n * xp.log2(xp.where(n == 0, 1.0, n))
    unit_of_integers = 2.0 ** (60 - math.ceil(math.log2(2 + stimuli * math.log2(stimuli))))
    n_log_n = xp.astype(xp.round(n_log_n * unit_of_integers), xp.int64)
    cells, class_, bin_ = (
        xp.sum(xp.reshape(n_log_n[c], (units, -1)), axis=1) for c in (counts, by_class, by_bin)
    )
    bits = cells - class_ - bin_ + n_log_n[stimuli]
    bits = xp.astype(bits, xp.float64) / (unit_of_integers * stimuli)
    occupied = [
        xp.sum(xp.reshape(xp.astype(c > 0, xp.int64), (units, -1)), axis=1)
        for c in (by_class, by_bin, counts)
    ]
    return bits, occupied[0] + occupied[1] - occupied[2] - 1
