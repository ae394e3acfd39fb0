"""The compiled loop of `pooling`: means of half-precision values, converted where they are added.

torch converts them to single precision in memory first, a pass more each way than to read them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# A plain number would make the arithmetic double.
_ZERO, _HALF_WORD = np.float32(0), np.uint32(16)


def mean_over_positions(values: npt.NDArray[np.uint16], result: npt.NDArray[np.float32]) -> None:
    """Fill ``result`` with the mean of bfloat16 values over positions.

    Parameters
    ----------
    values : ndarray
        (stimulus, position, unit), the bits of bfloat16 numbers: the upper half of those of the
        same numbers in single precision.
    result : ndarray
        (stimulus, unit).
    """
    stimuli, positions, units = values.shape
    # Four at a time: a sum that waits for the one before it would leave the processor idle.
    fours = positions // 4 * 4
    for i in range(stimuli):
        sums = result[i]
        for unit in range(units):
            sums[unit] = _ZERO
        for p in range(0, fours, 4):
            for unit in range(units):
                first = np.uint32(np.uint32(values[i, p, unit]) << _HALF_WORD)
                second = np.uint32(np.uint32(values[i, p + 1, unit]) << _HALF_WORD)
                third = np.uint32(np.uint32(values[i, p + 2, unit]) << _HALF_WORD)
                fourth = np.uint32(np.uint32(values[i, p + 3, unit]) << _HALF_WORD)
                sums[unit] += (first.view(np.float32) + second.view(np.float32)) + (
                    third.view(np.float32) + fourth.view(np.float32)
                )
        for p in range(fours, positions):
            for unit in range(units):
                last = np.uint32(np.uint32(values[i, p, unit]) << _HALF_WORD)
                sums[unit] += last.view(np.float32)
        for unit in range(units):
            sums[unit] /= np.float32(positions)
