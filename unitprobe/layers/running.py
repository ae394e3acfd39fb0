"""Run a network as it is written, in evaluation mode, and leave it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a network in evaluation mode, as written, and restore its training flags.

    Modules compiled by ``torch.compile`` run uncompiled, and those that ``DataParallel`` spreads
    over devices run on one. PyTorch's fused transformer path is off, because it does not compute
    the activations in between.
    """
    children = list(module.modules())
    training = [child for child in children if child.training]
    parallel = [child for child in children if isinstance(child, nn.DataParallel)]
    devices = [child.device_ids for child in parallel]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    if training:  # checking is faster than setting all flags again for each batch
        try:
            module.eval()
        except NotImplementedError:  # an exported program, whose graph keeps its mode
            for child in training:
                child.training = False
    torch.backends.mha.set_fastpath_enabled(False)
    for wrapper in parallel:
        wrapper.device_ids = []
    try:
        with _uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for wrapper, before in zip(parallel, devices, strict=True):
            wrapper.device_ids = before
        for child in training:
            child.training = True


def _uncompiled() -> AbstractContextManager[None]:
    # Loading the compiler takes a second. If it is not loaded, nothing is compiled.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def as_input(module: nn.Module, stimuli: Tensor) -> Tensor:
    """Return stimuli on the device and, if they are floats, in the precision of a network."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and stimuli.is_floating_point():
            return stimuli.to(parameter.device, parameter.dtype, non_blocking=True)
        break
    return stimuli.to(device_of(module), non_blocking=True)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer, the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
