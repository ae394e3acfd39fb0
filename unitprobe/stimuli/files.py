"""Image files, each read when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unitprobe.errors import ImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")


class ImageFiles:
    """Image files as a sequence of RGB images, each read when it is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        path = self.root / self.paths[index]
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    # PIL would clip such pixels to 255: a white image.
                    raise ValueError(f"pixels of mode {image.mode}, not 8 bits")
                return image.convert("RGB")
        except Exception as error:  # PIL's decoders raise errors of many kinds
            problem = " ".join(str(error).split())
            raise ImageError(f"image {path} cannot be read: {problem}") from error

    def describe(self, index: int) -> str:
        """Return what stands for the contents of one image."""
        path = self.root / self.paths[index]
        try:
            return f"{self.paths[index]} {path.stat().st_size}"
        except OSError as error:
            raise ImageError(f"image {path} cannot be read: {error.strerror}") from error
