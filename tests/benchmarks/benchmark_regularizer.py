"""What the regularizer costs beside a plain training step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import networks
import torch
from timing import Row, alternate
from torch import Tensor, nn
from torch.nn import functional

import unitprobe as up


def run(quick: bool) -> list[Row]:
    """Return the cost of one step with the regularizer over that of a plain one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repeats = 5 if quick else 25
    rows = []
    for precision in (torch.float32, torch.bfloat16):
        what = f"training step, ResNet-20, batch 128, {str(precision).removeprefix('torch.')}"
        network = networks.ResNet20()
        rows.append(_row(f"{what}, {device.type}", network, 32, precision, device, repeats))
    if device.type == "cuda":
        import timm

        for compiled in (False, True):
            network = timm.create_model("resnet18", num_classes=200)
            what = f"training step, ResNet-18, 64 px, batch 256, bfloat16, compiled={compiled}"
            row = _row(what, network, 64, torch.bfloat16, device, repeats, 256, compiled)
            rows.append(row)
    return rows


def _row(
    what: str,
    network: nn.Module,
    pixels: int,
    precision: torch.dtype,
    device: torch.device,
    repeats: int,
    batch: int = 128,
    compiled: bool = False,
) -> Row:
    network = network.to(device, memory_format=torch.channels_last).train()
    classes = 10 if pixels == 32 else 200
    images = torch.randn(batch, 3, pixels, pixels, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % classes
    plain = _step(network, images, labels, precision, compiled, lambda _: 0.0)
    twin = copy.deepcopy(network)
    regularizer = up.SelectivityRegularizer(
        twin, alpha=-1.0, class_count=classes, example=images[:2]
    ).attach()
    ours = _step(twin, images, labels, precision, compiled, regularizer)
    return alternate(what, ours, plain, repeats=repeats, calls=1 if device.type == "cpu" else 10)


def _step(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    precision: torch.dtype,
    compiled: bool,
    term: Callable[[Tensor], Tensor | float],
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    forward = torch.compile(network) if compiled else network
    half = precision == torch.bfloat16

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits = forward(images)
        (functional.cross_entropy(logits.float(), labels) + term(labels)).backward()
        optimizer.step()

    return step
