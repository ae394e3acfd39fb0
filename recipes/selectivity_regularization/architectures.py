"""The networks of the recipe, built without pretrained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unitprobe.errors import OptionError
from unitprobe.models import load_model

#: Residual networks in the form for CIFAR, by the blocks in each of their three stages.
CIFAR_RESNETS = {"resnet8": 1, "resnet20": 3}
#: Images at least this large go through the stem that a network has for ImageNet.
_LARGE = 128
#: Images smaller than this are not shrunk by the stem at all.
_SMALL = 48


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, added to a shortcut without parameters.

    The shortcut is option A of He et al. 2016: every second position, with zeros for the units
    that it does not have.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.added = (outputs - inputs) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output (stimulus, unit, y, x)."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(images)))))
        shortcut = images
        if self.added:
            every = images[:, :, :: self.stride, :: self.stride]
            shortcut = pad(every, (0, 0, 0, 0, self.added, self.added))
        return self.relu2(inner + shortcut)  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """A residual network for small images: He et al. 2016 (arXiv:1512.03385), section 4.2.

    Three stages of 16, 32 and 64 units; 6n + 2 layers and 6n + 1 ReLUs for n blocks in a stage.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (stimulus, output)."""
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.fc(features.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *[Block(outputs, outputs, 1) for _ in range(blocks - 1)])


class CifarVGG16(nn.Module):
    """VGG16 with batch normalisation for 32 x 32 images.

    The thirteen convolutions of Simonyan & Zisserman 2015 (arXiv:1409.1556), configuration D;
    after five halvings one position is left, and one linear layer reads it.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                ]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (stimulus, output)."""
        return self.fc(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


def build_network(name: str, num_classes: int, image_size: int, seed: int = 0) -> nn.Module:
    """Return a network with random weights, in evaluation mode.

    Parameters
    ----------
    name : str
        "resnet8" and "resnet20" (CIFAR form), "vgg16_bn" (CIFAR form for images below 48 pixels),
        "resnet18" and "resnet50" (timm's, with a stem that fits the images), any other network of
        timm, or whatever `unitprobe.load_model` takes.
    num_classes : int
        Number of outputs.
    image_size : int
        Height and width of the images.
    seed : int
        Seed of the weights, which are the same on every device.

    Raises
    ------
    ModelError
        There is no such network.
    OptionError
        The images are too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build(name, num_classes, image_size)
    return module.eval()


def _build(name: str, num_classes: int, image_size: int) -> nn.Module:
    if name in CIFAR_RESNETS:
        return CifarResNet(CIFAR_RESNETS[name], num_classes)
    if name == "vgg16_bn" and image_size < _SMALL:
        if image_size < 32:
            raise OptionError(f"vgg16_bn needs images of 32 pixels, these have {image_size}")
        return CifarVGG16(num_classes)
    module = load_model(name, pretrained=False, num_classes=num_classes).module
    if name.removeprefix("timm:") in ("resnet18", "resnet50") and image_size < _LARGE:
        _fit_stem(module, image_size)
    return module


def _fit_stem(module: nn.Module, image_size: int) -> None:
    """Replace the 7 x 7 convolution of stride 2 by a 3 x 3 of stride 1; keep pooling for 64 px."""
    stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    module.conv1 = stem
    if image_size < _SMALL:
        module.maxpool = nn.Identity()
