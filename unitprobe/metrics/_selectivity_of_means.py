"""Selectivity from the class means of many resamples, in one pass over them.

`unitprobe.metrics.selectivity_index` says the same in whole-array operations, a dozen passes over
twenty million means, which would cost a third of a null.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unitprobe.compiled import compile_loop
from unitprobe.metrics.selectivity import Weighting, selectivity_index
from unitprobe.typing import FloatArray


def selectivity_of_means(
    means: FloatArray, counts: NDArray[np.int64], weighting: Weighting
) -> FloatArray:
    """Return `unitprobe.metrics.selectivity_index`, to rounding, and equal to it without numba.

    Parameters
    ----------
    means : array
        (resample, class_name, unit), finite for classes with stimuli.
    counts : array
        (class_name,), the number of stimuli of each class.
    weighting : {"class", "stimulus"}
        As `unitprobe.metrics.class_selectivity`.

    Returns
    -------
    array
        (resample, unit), as `unitprobe.metrics.selectivity_index`.

    Examples
    --------
    >>> import numpy as np
    >>> selectivity_of_means(np.array([[[3.0, 0.0], [1.0, 0.0]]]), np.array([5, 5]), "class")
    array([[0.5, nan]])
    """
    loop = compile_loop(_selectivity)
    if loop is None:
        index: FloatArray = selectivity_index(means, counts, weighting=weighting)
        return index
    present = np.flatnonzero(counts)
    weights = counts[present] if weighting == "stimulus" else np.ones(len(present))
    index = np.empty((means.shape[0], means.shape[2]))
    loop(means, present, weights.astype(np.float64), index)
    return index


def _selectivity(
    means: FloatArray, present: NDArray[np.intp], weights: FloatArray, index: FloatArray
) -> None:
    for resample in range(means.shape[0]):
        for unit in range(means.shape[2]):
            best = 0
            for i in range(1, present.size):
                highest = means[resample, present[best], unit]
                if means[resample, present[i], unit] > highest:
                    best = i
            rest = 0.0
            weight = 0.0
            for i in range(present.size):
                if i != best:
                    rest += weights[i] * means[resample, present[i], unit]
                    weight += weights[i]
            rest /= weight
            highest = means[resample, present[best], unit]
            whole = highest + rest
            index[resample, unit] = (highest - rest) / whole if whole != 0 else np.nan
