"""Errors and warnings of the regularizer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from unitprobe.errors import LabelError, OptionError, UnitprobeWarning
from unitprobe.layers import Layer
from unitprobe.layers.operations import NEVER_NEGATIVE
from unitprobe.regularizer.measures import RegularizedMeasure


def check_arguments(
    measure: str,
    weights: Mapping[str, float] | None,
    accumulation: int,
    class_count: int | None,
) -> None:
    """Raise `OptionError` for arguments that `SelectivityRegularizer` does not allow."""
    if measure not in get_args(RegularizedMeasure):
        known = ", ".join(get_args(RegularizedMeasure))
        raise OptionError(f"measure={measure!r} is not known; choose one of {known}")
    for name, weight in (weights or {}).items():
        if not (math.isfinite(weight) and weight >= 0):
            raise OptionError(f"weights: {name!r} has {weight}; give 0 or more")
    if accumulation < 1:
        raise OptionError(f"accumulation={accumulation} is not positive; 1 is usual")
    if class_count is not None and class_count < 2:
        raise OptionError(f"class_count={class_count}: selectivity needs at least two classes")


def check_labels(labels: Tensor, stimuli: int, class_count: int | None) -> int:
    """Return the number of classes, or raise `LabelError`."""
    if labels.shape != (stimuli,):
        raise LabelError(
            f"labels have shape {tuple(labels.shape)}, the batch has {stimuli} stimuli; "
            f"give shape ({stimuli},)"
        )
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise LabelError(f"labels must be integers 0..C-1, got {labels.dtype}")
    if class_count is not None and (labels.device.type != "cpu" or torch.compiler.is_compiling()):
        torch._assert_async((labels >= 0).all() & (labels < class_count).all())
        return class_count
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0:
        raise LabelError(f"labels must be integers 0..C-1, but the lowest is {lowest}")
    if class_count is not None and highest >= class_count:
        raise LabelError(f"label {highest} is not one of the classes 0..{class_count - 1}")
    return class_count or highest + 1


def warn_if_signed(layers: Sequence[Layer]) -> None:
    """Warn about nonlinearities with an unbounded selectivity."""
    signed = [layer for layer in layers if layer.kind not in NEVER_NEGATIVE]
    if signed:
        warnings.warn(
            f"{len(signed)} of {len(layers)} regularized layers can have negative responses, the "
            f"first {signed[0].name!r} ({signed[0].kind}): their selectivity is unbounded and the "
            "term can diverge; choose other layers, or measure='d_prime'",
            UnitprobeWarning,
            stacklevel=3,
        )


def warn_if_detached(module: nn.Module, responses: dict[str, Tensor]) -> None:
    """Warn about responses without a gradient."""
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    if trained and not any(response.requires_grad for response in responses.values()):
        warnings.warn(
            "the selectivity of this batch has no gradient: the network ran without gradients, or "
            "in a checkpoint with use_reentrant=True instead of use_reentrant=False",
            UnitprobeWarning,
            stacklevel=3,
        )
