"""Pool activations over positions into responses, and raise errors for values that are not finite.

`metrics` never gets a position axis: all pooling happens here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unitprobe.errors import LayerError, OptionError, ResponseError, UnitprobeWarning
from unitprobe.layers import Layer
from unitprobe.means import mean_over_positions, position_axes

#: How positions are pooled. ``"none"`` keeps them.
Pool = Literal["mean", "max", "center", "cls", "none"]


def check_pool(pool: str, layers: list[Layer]) -> None:
    """Raise an error for an unknown pooling, or one that a layer cannot have.

    Raises
    ------
    OptionError
        The pooling is unknown.
    LayerError
        ``"cls"`` for a layer without tokens, or ``"center"`` for one with tokens.
    """
    known = get_args(Pool)
    if pool not in known:
        raise OptionError(f"pool={pool!r} is not known; choose one of {', '.join(known)}")
    for layer in layers:
        tokens = layer.position_dims == ("token",)
        if pool == "cls" and layer.position_dims and not tokens:
            raise LayerError(
                f"pool='cls' takes the first token, but layer {layer.name!r} has positions "
                f"{layer.position_dims}; choose 'mean', 'max', 'center' or other layers"
            )
        if pool == "center" and "token" in layer.position_dims:
            raise LayerError(
                f"pool='center' takes the middle of a map, but layer {layer.name!r} has tokens; "
                "choose 'mean', 'max' or 'cls'"
            )


def pool_activation(
    activation: Tensor,
    unit_axis: int,
    pool: str,
    into: Tensor | None = None,
    *,
    rectify: bool = False,
) -> Tensor:
    """Pool an activation over its positions.

    Parameters
    ----------
    activation : Tensor
        (stimulus, unit, y, x), (stimulus, token, unit), ... as the network computes it. Half
        precision is pooled in single precision.
    unit_axis : int
        The axis of the units.
    pool : str
        ``"mean"`` or ``"max"`` over all positions (of tokens: the class token included);
        ``"center"``, the middle position of a map, the later of two; ``"cls"``, the first token;
        ``"none"``, no pooling.
    into : Tensor, optional
        Where the result goes if it has the shape of the result.
    rectify : bool
        Set negative values to 0 first.

    Returns
    -------
    Tensor
        (stimulus, unit); with ``"none"`` a copy, (stimulus, unit, y, x) for maps and
        (stimulus, token, unit) for tokens. `into`, if it was used. Never a view: a later in-place
        operation of the network does not reach it.

    Examples
    --------
    >>> import torch
    >>> pool_activation(torch.tensor([[[[1.0, 3.0]]]]), unit_axis=1, pool="mean")
    tensor([[2.]])
    """
    unit = unit_axis % activation.ndim
    positions = position_axes(activation.ndim, unit)
    if rectify:
        activation = activation.relu()
    if pool == "mean":
        pooled = mean_over_positions(activation, unit)
    elif pool == "none":
        pooled = activation.movedim(unit, 1) if len(positions) > 1 else activation
    elif not positions:
        pooled = activation
    elif pool == "cls":
        pooled = activation[:, 0]
    else:
        pooled = _REDUCTIONS[pool](activation, positions)
    if into is not None and into.shape == pooled.shape:
        return into.copy_(pooled)
    reduced = pool == "mean" or (positions and pool == "max")
    return pooled if reduced else pooled.clone()


def _center(activation: Tensor, positions: list[int]) -> Tensor:
    for axis in reversed(positions):
        activation = activation.select(axis, activation.shape[axis] // 2)
    return activation


_REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "max": lambda activation, positions: activation.amax(positions),
    "center": _center,
}


#: Share of a layer's largest response up to which two responses may differ by rounding, also in
#: half precision: how a processor multiplies may depend on the size of the batch.
_ROUNDING = 5e-2
#: The same share of the largest response of all layers. If positions cancel out in the mean, as in
#: a map minus its local average, a layer's responses are only rounding errors.
_NOTHING = 1e-4


def warn_if_mixed(network: str, alone: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> None:
    """Warn if a stimulus has other responses beside another stimulus than alone.

    Parameters
    ----------
    network : str
        Its name.
    alone, beside : mapping of str to Tensor
        Responses of each layer, (stimulus, unit) or (stimulus, unit, y, x): to one stimulus, and to
        the same one and another after it.

    Warns
    -----
    UnitprobeWarning
        The responses differ by more than rounding: the network mixes the stimuli of a batch (by
        the mean of a batch, say), or is random. In both cases the responses to a stimulus depend
        on more than this stimulus.
    """
    found = {name: _difference(alone[name][0], beside[name][0]) for name in alone}
    largest = max((scale for _, scale in found.values()), default=0.0)
    mixed = [
        name
        for name, (difference, scale) in found.items()
        if difference > max(_ROUNDING * scale, _NOTHING * largest)
    ]
    if mixed:
        warnings.warn(
            f"{network}: layer {mixed[0]!r} ({len(mixed)} of {len(alone)} layers) responds "
            "differently to a stimulus shown with another than to it alone: the network mixes the "
            "stimuli of a batch, or draws random numbers, so responses depend on batch_size and on "
            "the order of the stimuli",
            UnitprobeWarning,
            stacklevel=2,
        )


def _difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the largest difference of two responses, and the largest of them."""
    if one.shape != other.shape:
        return np.inf, 0.0
    # `check_finite` raises an error for values that are not finite.
    one, other = torch.nan_to_num(one.float()), torch.nan_to_num(other.float())
    scale = torch.maximum(one.abs().amax(), other.abs().amax())
    return float((one - other).abs().amax()), float(scale)


def check_finite(
    values: npt.NDArray[Any], layer: str, ids: npt.NDArray[np.str_] | None = None
) -> None:
    """Raise an error for NaN and infinite responses.

    Raises
    ------
    ResponseError
        With the layer, their number, and the first stimulus and unit.
    """
    bad = ~np.isfinite(values)
    count = int(bad.sum())
    if not count:
        return
    index = tuple(int(axis[0]) for axis in np.nonzero(bad))
    stimulus = index[0] if ids is None else repr(str(ids[index[0]]))
    hint = "; float16 holds up to 65504, use dtype='float32'" if values.dtype == np.float16 else ""
    raise ResponseError(
        f"layer {layer!r} has {count:,} NaN or infinite responses among {values.size:,}, "
        f"the first at stimulus {stimulus}, position {index[1:]}{hint}"
    )
