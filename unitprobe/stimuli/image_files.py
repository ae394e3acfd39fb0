"""Image files that are read one by one."""

from __future__ import annotations

import hashlib
import os
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from unitprobe.errors import ImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")
_PIECES, _PIECE = 16, 4096


class ImageFiles:
    """A sequence of RGB images, each read from its file when it is accessed."""

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
                    # PIL would clip such pixels to 255, which gives a white image.
                    raise ValueError(f"pixels of mode {image.mode}, not 8 bits")
                return image.convert("RGB")
        except Exception as error:  # PIL's decoders raise errors of many kinds
            problem = " ".join(str(error).split())
            raise ImageError(f"image {path} cannot be read: {problem}") from error

    def describe(self, index: int) -> str:
        """Return path, size and hash of one file, to detect that its contents have changed.

        The hash is of the whole file up to 64 KiB. For a larger file it is of 16 pieces of 4 KiB,
        evenly spread from the first to the last byte.
        """
        path = self.root / self.paths[index]
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                return f"{self.paths[index]} {size} {_hash_sample(file, size)}"
        except OSError as error:
            raise ImageError(f"image {path} cannot be read: {error.strerror}") from error


def _hash_sample(file: FileIO, size: int) -> str:
    digest = hashlib.sha256()
    if size <= _PIECES * _PIECE:
        digest.update(file.read())
    else:
        for number in range(_PIECES):
            file.seek((size - _PIECE) * number // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()
