"""What is recorded: the arrays of the file, and everything that their numbers depend on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from unitprobe.errors import OptionError
from unitprobe.layers import Layer, device_of
from unitprobe.models import Network, describe_transform
from unitprobe.stimuli import Stimuli
from unitprobe.store import LayerArray, Recording

AUTOCAST = ("bfloat16", "float16")


def check_autocast(autocast: str | None) -> None:
    """Refuse a type that autocast cannot have.

    Raises
    ------
    OptionError
        It cannot.
    """
    if autocast is not None and autocast not in AUTOCAST:
        raise OptionError(
            f"autocast={autocast!r} is not known; choose one of {', '.join(AUTOCAST)}, or None"
        )


def describe_recording(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[Layer],
    responses: Mapping[str, Tensor],
    *,
    pool: str,
    rectify: bool,
    dtype: str,
    compression: str | None,
    autocast: str | None,
    batch_size: int,
    max_shard_stimuli: int,
) -> Recording:
    """Return what is recorded, given the responses to one stimulus."""
    arrays = [_layer_array(layer, responses[layer.name], pool) for layer in layers]
    contents = {
        "weights_fingerprint": network.fingerprint,
        "preprocessing": describe_transform(stimuli.transform),
        "layers": "; ".join(f"{array.layer} {array.shape}" for array in arrays),
        "pool": pool,
        "rectify": "before pooling" if rectify else "no",
        "dtype": dtype,
        "autocast": autocast or "none",
        "stimuli_fingerprint": stimuli.fingerprint,
    }
    provenance = {
        "network": network.name,
        "stimuli": stimuli.name,
        "absent_classes": len(stimuli.absent_classes),
        "compute_dtype": autocast or _compute_dtype(network),
        "unitprobe_version": version("unitprobe"),
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
    }
    return Recording(
        ids=stimuli.ids,
        labels=stimuli.labels,
        class_names=stimuli.class_names,
        arrays=arrays,
        dtype=dtype,
        contents=contents,
        provenance=provenance,
        compression=compression,
        batch_size=batch_size,
        max_shard_stimuli=max_shard_stimuli,
    )


def _compute_dtype(network: Network) -> str:
    parameters = network.module.parameters()
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    exact = ", ".join(dtypes) or "float32"
    device = device_of(network.module)
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return exact
    # PyTorch's own default for convolutions, not for products of matrices.
    precisions = {
        "convolutions": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matrix products": torch.backends.cuda.matmul.fp32_precision,
    }
    rounded = [what for what, precision in precisions.items() if precision == "tf32"]
    if "float32" not in dtypes or not rounded:
        return exact
    return f"{exact}, in {' and '.join(rounded)} rounded to TensorFloat-32"


def _layer_array(layer: Layer, response: Tensor, pool: str) -> LayerArray:
    if pool == "none" and layer.position_dims == ("token",):
        dims: tuple[str, ...] = ("stimulus", "token", "unit")
    elif pool == "none":
        dims = ("stimulus", "unit", *layer.position_dims)
    else:
        dims = ("stimulus", "unit")
    attributes = {
        "kind": layer.kind,
        "unit_axis": layer.unit_axis,
        "activation_shape": np.asarray(response.shape[1:] if pool == "none" else layer.shape[1:]),
    }
    return LayerArray(
        layer=layer.name,
        variable="response" if len(dims) == 2 else "activation",
        dims=dims,
        shape=tuple(response.shape[1:]),
        attributes=attributes,
    )
