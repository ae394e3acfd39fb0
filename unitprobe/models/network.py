"""A module with its preprocessing and the names of its outputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unitprobe.errors import ModelError


@dataclass
class Network:
    """A module with its preprocessing and the names of its outputs.

    Attributes
    ----------
    module : nn.Module
        The network itself, unmodified.
    transform : callable, optional
        Turns a PIL image into the tensor (channel, y, x) that the network expects.
    input_size : (int, int, int), optional
        Channels, height and width of one input.
    class_names : list of str, optional
        Name of each output.
    name : str
        The name that it was loaded by; the name of the module's class by default.

    Examples
    --------
    >>> Network(torch.nn.Linear(4, 2)).name
    'Linear'
    """

    module: nn.Module
    transform: Callable[[Any], Any] | None = None
    input_size: tuple[int, int, int] | None = None
    class_names: list[str] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or type(self.module).__name__

    @property
    def fingerprint(self) -> str:
        """Hash of the structure, weights and buffers; computed each time, since they may change."""
        digest = hashlib.blake2b(_without_addresses(repr(self.module)).encode(), digest_size=32)
        state = {**dict(self.module.named_buffers()), **self.module.state_dict()}
        for name, value in sorted(state.items()):
            if not isinstance(value, torch.Tensor):
                digest.update(f"{name} {_without_addresses(repr(value))}".encode())
                continue
            if value.is_meta or torch.nn.parameter.is_lazy(value):
                raise ModelError(f"network {self.name!r} has no values yet in its weight {name!r}")
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            # numpy has neither bfloat16 nor 8-bit floats: hash the bytes.
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def preprocessing(self) -> str:
        """The transform as text: its repr, or ``"none"``."""
        return describe_transform(self.transform)


def describe_transform(transform: object | None) -> str:
    """Return a transform as one line of text that is the same in every process.

    Examples
    --------
    >>> describe_transform(None)
    'none'
    """
    return "none" if transform is None else " ".join(_without_addresses(repr(transform)).split())


def as_network(model: Network | nn.Module) -> Network:
    """Return a network as it is, or a bare module as a network without preprocessing.

    The input size is that of a timm module's configuration, or the module's ``input_size``.

    Raises
    ------
    ModelError
        `model` is neither, or is compiled by ``torch.jit``.

    Examples
    --------
    >>> module = torch.nn.Linear(4, 2)
    >>> as_network(module).module is module
    True
    """
    module = model.module if isinstance(model, Network) else model
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "the layers of a network compiled by torch.jit cannot be seen; "
            "give the nn.Module that it was compiled from"
        )
    if isinstance(model, Network):
        return model
    if isinstance(model, nn.Module):
        return Network(model, input_size=stated_input_size(model))
    raise ModelError(f"a torch.nn.Module or a Network is needed, not a {type(model).__name__}")


def stated_input_size(module: nn.Module) -> tuple[int, int, int] | None:
    """Return the input size that a module states, first of all in timm's configuration."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    stated = config.get("input_size") if isinstance(config, dict) else None
    if stated is None:
        stated = getattr(module, "input_size", None)
    else:
        # The configuration describes the weights; in_chans= and img_size= may change the size.
        size = getattr(getattr(module, "patch_embed", None), "img_size", None) or stated[1:]
        stated = (_input_channels(module) or stated[0], *size)
    if not isinstance(stated, (tuple, list)) or len(stated) != 3:
        return None
    return int(stated[0]), int(stated[1]), int(stated[2])


def _input_channels(module: nn.Module) -> int | None:
    """Return the input channels of the first convolution, None without one."""
    stated = getattr(module, "in_chans", None)
    if isinstance(stated, int):
        return stated
    return next((weight.shape[1] for weight in module.parameters() if weight.ndim == 4), None)


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def one_line(error: BaseException) -> str:
    """Return the kind and text of an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
