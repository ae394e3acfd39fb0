"""A residual network small enough to train on a laptop within seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from unitprobe.models import Network, plain_transform


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output (stimulus, unit, y, x)."""
        inner = relu(self.bn1(self.conv1(images)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(images))


class DigitNet(nn.Module):
    """A residual network for 8 x 8 grey images: two stages of two blocks, nine ReLUs."""

    input_size = (1, 8, 8)

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (stimulus, output)."""
        features = self.layer2(self.layer1(relu(self.bn1(self.conv1(images)))))
        return self.fc(features.mean((2, 3)))  # type: ignore[no-any-return]


def make_network(name: str, seed: int) -> Network:
    """Return an untrained `DigitNet` with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = DigitNet()
    return Network(
        module=module.eval(),
        transform=plain_transform(1),
        input_size=DigitNet.input_size,
        class_names=[str(digit) for digit in range(10)],
        name=name,
    )
