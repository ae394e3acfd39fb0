"""Load the weights of a network from a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unitprobe.errors import WeightsError
from unitprobe.models.network import one_line

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def load_weights(module: nn.Module, path: Path, name: str) -> None:
    """Load a state dict that must fit the module exactly.

    Raises
    ------
    WeightsError
        The file is missing, damaged, not a state dict, or does not fit the module.
    """
    state = _read_weights(path)
    own = module.state_dict()
    for prefix in ("module.", "_orig_mod.", "model."):  # DataParallel, torch.compile, Lightning
        if all(key.startswith(prefix) for key in state) and not any(
            key.startswith(prefix) for key in own
        ):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        missing = [key for key in own if key not in state]
        unexpected = [key for key in state if key not in own]
        shapes = [
            f"{key} is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the "
            f"network"
            for key in own
            if key in state and own[key].shape != state[key].shape
        ]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        counts = [f"{len(keys)} {kind} ({keys[0]})" for kind, keys in kinds.items() if keys]
        hint = "" if missing or unexpected else "; if only the head differs, give num_classes"
        raise WeightsError(
            f"weights file {path} does not fit network {name!r}: "
            f"{', '.join(counts) or one_line(error)}{hint}"
        ) from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix.lower() not in _SUFFIXES and not path.name.lower().endswith(".pth.tar"):
        raise WeightsError(
            f"weights file {path} is not a .safetensors, .pt, .pth, .pth.tar, .ckpt or .bin file"
        )
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            # timm keeps its arguments beside the weights; a Namespace only holds values.
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises the same error for damaged files and for code; only code names a global.
        if "unsupported global" in str(error).lower():
            problem = "holds Python objects, which are never executed; save only the state_dict()"
        else:
            problem = f"is damaged or not a weights file: {one_line(error)}"
        raise WeightsError(f"weights file {path} {problem}") from None
    for wrapper in ("state_dict", "model_state_dict", "model", "net", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        what = "an empty dict" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise WeightsError(f"weights file {path} holds {what}, not a state dict")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise WeightsError(f"weights file {path} is not a state dict: its {key!r} is a {kind}")
    return state
