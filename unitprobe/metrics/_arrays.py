"""What every metric needs of its arrays: the namespace, enough precision, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import array_api_compat
import numpy as np
import scipy.sparse
from array_api_compat import array_namespace

from unitprobe.errors import LabelError, ResponseError
from unitprobe.typing import Array

#: How many responses are sorted at a time: what one block needs then stays near 100 MiB.
BLOCK_SIZE = 2**20


def as_array(values: Array) -> Array:
    """Return `values` as an array: of its own library, or of NumPy if it is of none."""
    return values if array_api_compat.is_array_api_obj(values) else np.asarray(values)


def widen(array: Array) -> Array:
    """Return `array` in the precision that sums are taken in.

    That is float64, save for a PyTorch tensor that a gradient flows through, or that lies on a
    device without float64: this is float32, or stays float64.
    """
    xp = array_namespace(array)
    wide = xp.float64
    if array_api_compat.is_torch_array(array):
        in_training = array.requires_grad and array.dtype != xp.float64
        if in_training or array.device.type == "mps":
            wide = xp.float32
    return xp.astype(array, wide, copy=False)


def full_precision(array: Array) -> AbstractContextManager[None]:
    """Return a context in which autocast does not halve the precision of matrix products."""
    if not array_api_compat.is_torch_array(array):
        return nullcontext()
    import torch

    return torch.autocast(array.device.type, enabled=False)


def as_responses(responses: Array, name: str = "responses") -> Array:
    """Return (stimulus, unit) responses in full precision.

    Raises
    ------
    ResponseError
        They are not a non-empty matrix of finite real numbers.
    """
    responses = as_array(responses)
    xp = array_namespace(responses)
    if responses.ndim != 2:
        raise ResponseError(
            f"{name} must have two dimensions (stimulus, unit), got shape "
            f"{tuple(responses.shape)}; pool over positions first"
        )
    if 0 in responses.shape:
        raise ResponseError(
            f"{name} are empty: {responses.shape[0]} stimuli, {responses.shape[1]} units"
        )
    if not xp.isdtype(responses.dtype, ("bool", "integral", "real floating")):
        raise ResponseError(f"{name} must be real numbers, got dtype {responses.dtype}")
    responses = widen(responses)
    finite = xp.isfinite(responses)
    if not xp.all(finite):
        nan = int(xp.sum(xp.isnan(responses)))
        infinite = int(xp.sum(~finite)) - nan
        size = responses.shape[0] * responses.shape[1]
        raise ResponseError(
            f"{name} must be finite, but of {size} values {nan} are NaN and {infinite} infinite"
        )
    return responses


def as_labels(
    labels: Array, class_count: int | None = None, responses: Array | None = None
) -> Array:
    """Return the class of each stimulus as integers, beside `responses` where these are given.

    Raises
    ------
    LabelError
        They are not one integer in 0..`class_count`-1 for each stimulus.
    """
    labels = as_array(labels)
    shape = tuple(labels.shape)
    if len(shape) != 1 or shape[0] == 0:
        raise LabelError(f"labels must be one integer for each stimulus, got shape {shape}")
    if responses is not None and shape[0] != responses.shape[0]:
        raise LabelError(f"{shape[0]} labels do not fit {responses.shape[0]} stimuli")
    if not array_namespace(labels).isdtype(labels.dtype, "integral"):
        raise LabelError(f"labels must be integers 0..C-1, got dtype {labels.dtype}")
    if responses is not None:
        xp = array_namespace(responses)
        labels = xp.asarray(labels, device=array_api_compat.device(responses))
    xp = array_namespace(labels)
    labels = xp.astype(labels, xp.int64)
    lowest, highest = int(xp.min(labels)), int(xp.max(labels))
    if lowest < 0:
        raise LabelError(f"labels must be integers 0..C-1, but the lowest is {lowest}")
    if class_count is not None and highest >= class_count:
        raise LabelError(f"label {highest} is not one of the classes 0..{class_count - 1}")
    return labels


def one_hot(labels: Array, class_count: int, dtype: Any) -> Any:
    """Return the (class_name, stimulus) matrix that is 1 where the stimulus is of the class.

    It stands on the left of a matrix product only: for NumPy it is sparse, which for 1,000
    classes is hundreds of times cheaper.
    """
    if isinstance(labels, np.ndarray):
        stimulus = np.arange(labels.shape[0])
        entries = (np.ones(labels.shape[0], dtype), (labels, stimulus))
        return scipy.sparse.csr_array(entries, shape=(class_count, labels.shape[0]))
    xp = array_namespace(labels)
    classes = xp.arange(class_count, device=array_api_compat.device(labels))
    return xp.astype(labels[None, :] == classes[:, None], dtype)


def centred(responses: Array) -> Array:
    """Return responses less each unit's mean over stimuli; a constant unit is exactly 0."""
    xp = array_namespace(responses)
    # The mean of n equal numbers is not always that number; the mean of n zeros is 0.
    responses = responses - responses[:1, :]
    return responses - xp.mean(responses, axis=0, keepdims=True)


def safe_scale(responses: Array, axis: int | None = 0) -> Array | None:
    """Return powers of 2 by which responses of extreme size are multiplied before they are squared.

    Without them the squares of responses of 1e200 or 1e-200 overflow or underflow. The powers are
    1 for all others, and have length 1 along `axis`; None if no response is extreme.
    """
    xp = array_namespace(responses)
    info = xp.finfo(responses.dtype)
    size = xp.abs(responses)
    largest = xp.max(size) if axis is None else xp.max(size, axis=axis, keepdims=True)
    too_small = (largest > 0) & (largest < float(info.smallest_normal) ** 0.25)
    extreme = too_small | (largest > float(info.max) ** 0.25)
    if not xp.any(extreme):
        return None
    exponent = xp.floor(xp.log2(xp.where(extreme, largest, xp.ones_like(largest))))
    widest = 960.0 if info.bits == 64 else 120.0
    return 2.0 ** -xp.clip(exponent, min=-widest, max=widest)


def safely_scaled(responses: Array, axis: int | None = 0) -> Array:
    """Return responses times `safe_scale`, for measures that do not depend on the scale."""
    scale = safe_scale(responses, axis)
    return responses if scale is None else responses * scale


def divide(numerator: Array, denominator: Array) -> Array:
    """Return the quotient, NaN where the denominator is 0, without a warning or a NaN gradient."""
    xp = array_namespace(numerator, denominator)
    zero = denominator == 0
    return replace(numerator / replace(denominator, zero, 1.0), zero, xp.nan)


def replace(values: Array, chosen: Array, number: float) -> Array:
    """Return `values` with a number where `chosen` is true.

    ``torch.where`` copies a Python number to the device of its tensors. The processor waits for
    that copy, and a CUDA graph cannot hold it.
    """
    if array_api_compat.is_torch_array(values):
        return values.masked_fill(chosen, number)
    return array_namespace(values).where(chosen, number, values)


def unit_rows(responses: Array) -> Iterator[Array]:
    """Yield (unit, stimulus) responses of a few units at a time, each a row of memory to sort."""
    xp = array_namespace(responses)
    stimuli, count = responses.shape
    for units in unit_blocks(count, stimuli):
        flat = xp.reshape(responses[:, units].T, (-1,))
        yield xp.reshape(flat, (-1, stimuli))


def unit_blocks(units: int, stimuli: int) -> Iterator[slice]:
    """Yield slices of the units, each of at most `BLOCK_SIZE` responses, or of one unit."""
    step = max(1, BLOCK_SIZE // stimuli)
    for start in range(0, units, step):
        yield slice(start, start + step)
