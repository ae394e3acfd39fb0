"""A training step that is captured once as a CUDA graph and replayed for every batch.

A step of a small network is some hundred kernels of a few microseconds each, which Python cannot
start as quickly as a GPU runs them. A graph starts all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Steps before the capture, in which cuDNN tries its kernels and cuBLAS takes its memory.
_WARM_UP = 3


class CapturedStep:
    """A step on one batch as a CUDA graph.

    Parameters
    ----------
    step : callable
        Takes images and labels and changes the network and the optimizer in place. It must not
        wait for the device, nor copy from or to the processor.
    state : callable
        Returns every tensor that `step` changes and that outlives it. Those that the first step
        creates must be zero before it, as the momentum of `torch.optim.SGD` without dampening is.
    images, labels : Tensor
        A batch, for its shapes and types.

    Raises
    ------
    RuntimeError
        The step cannot be captured. The state is as it was before.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], None],
        state: Callable[[], list[Tensor]],
        images: Tensor,
        labels: Tensor,
    ) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        self._graph = torch.cuda.CUDAGraph()
        device = images.device
        before = [tensor.detach().clone() for tensor in state()]
        random = torch.cuda.get_rng_state(device)
        searching = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            self._capture(step, device)
        finally:
            torch.backends.cudnn.benchmark = searching
            after = state()
            with torch.no_grad():
                for tensor, value in zip(after, before, strict=False):
                    tensor.copy_(value)
                for created in after[len(before) :]:
                    created.zero_()
            torch.cuda.set_rng_state(random, device)

    def _capture(self, step: Callable[[Tensor, Tensor], None], device: torch.device) -> None:
        current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                step(self._images, self._labels)
        current.wait_stream(aside)
        # Threads of others, such as those that load data, may go on using the device.
        with torch.cuda.graph(self._graph, stream=aside, capture_error_mode="thread_local"):
            step(self._images, self._labels)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Do the step on a batch of the same shape; returns before the device has done it."""
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
