"""The preprocessing that unitprobe itself adds before a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ConvertMode:
    """Convert a PIL image or a tensor (channel, y, x) to grey (``"L"``) or colour (``"RGB"``).

    Examples
    --------
    >>> from PIL import Image
    >>> ConvertMode("RGB")(Image.new("L", (8, 8))).mode
    'RGB'
    """

    mode: str

    def __call__(self, image: Any) -> Any:
        """Return the image, converted to this mode."""
        if hasattr(image, "convert"):
            return image.convert(self.mode)
        if not isinstance(image, torch.Tensor) or image.ndim != 3:
            return image
        if self.mode == "RGB" and image.shape[0] == 1:
            return image.expand(3, -1, -1).contiguous()
        if self.mode == "L" and image.shape[0] == 3:
            weights = image.new_tensor([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow
            return (weights[:, None, None] * image).sum(0, keepdim=True)
        return image


class ToTensor:
    """Convert a PIL image to a float32 tensor in [0, 1]; return a tensor as it is.

    Examples
    --------
    >>> ToTensor()(torch.ones(1, 2, 2)).sum()
    tensor(4.)
    """

    def __call__(self, image: Any) -> Any:
        """Return the tensor (channel, y, x)."""
        from torchvision.transforms.functional import to_tensor

        return image if isinstance(image, torch.Tensor) else to_tensor(image)

    def __repr__(self) -> str:
        return "ToTensor()"  # as torchvision's, because it is part of the key of a recording


def plain_transform(channels: int | None = None) -> Callable[[Any], Any]:
    """Return the default preprocessing: pixels in [0, 1], no resizing.

    Parameters
    ----------
    channels : int, optional
        Channels of the network's input. With 1 images are first converted to grey, with 3 to RGB,
        with any other number not at all.

    Examples
    --------
    >>> from PIL import Image
    >>> plain_transform(3)(Image.new("L", (8, 6))).shape
    torch.Size([3, 6, 8])
    """
    from torchvision import transforms

    return transforms.Compose([*convert_mode(channels), ToTensor()])  # type: ignore[no-any-return,unused-ignore]


def convert_mode(channels: int | None) -> list[ConvertMode]:
    """Return the step that gives an image this number of channels; empty if there is none."""
    modes = {1: "L", 3: "RGB"}
    return [ConvertMode(modes[channels])] if channels in modes else []


def timm_transform(module: Any) -> Callable[[Any], Any] | None:
    """Return the preprocessing that a timm module's configuration states; None for other modules.

    Examples
    --------
    >>> timm_transform(object()) is None
    True
    """
    if type(module).__module__.partition(".")[0] != "timm" or not getattr(
        module, "pretrained_cfg", None
    ):
        return None
    from timm.data import create_transform, resolve_model_data_config
    from torchvision import transforms

    data = resolve_model_data_config(module)
    steps = create_transform(**data, is_training=False).transforms
    return transforms.Compose([*convert_mode(data["input_size"][0]), *steps])  # type: ignore[no-any-return,unused-ignore]
