"""The preprocessing that unitprobe itself adds before a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConvertMode:
    """Convert a PIL image to grey (``"L"``) or colour (``"RGB"``); return other input as it is.

    Examples
    --------
    >>> from PIL import Image
    >>> ConvertMode("RGB")(Image.new("L", (8, 8))).mode
    'RGB'
    """

    mode: str

    def __call__(self, image: Any) -> Any:
        """Return the image, converted to this mode."""
        return image.convert(self.mode) if hasattr(image, "convert") else image


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

    return transforms.Compose([*convert_mode(channels), transforms.ToTensor()])  # type: ignore[no-any-return,unused-ignore]


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
