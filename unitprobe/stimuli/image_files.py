"""Image files that are read one by one."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unitprobe.errors import ImageError, StimuliError

#: Of those that Pillow reads, the suffixes of pictures; the others are of documents or of data.
_PICTURES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "ppm", "pgm", "pbm", "pnm", "bmp", "dib"),
        *("tif", "tiff", "webp", "gif", "avif", "avifs", "heic", "heif", "hif", "jp2", "j2k"),
        *("jpf", "jpx", "jxl", "tga", "pcx", "qoi", "sgi", "ico"),
    )
)
_PIECES, _PIECE = 16, 4096


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the pictures that Pillow reads here."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions()
    return frozenset(s for s in _PICTURES if known.get(s) in Image.OPEN)


def files_of_paths(paths: Sequence[Any], name: str) -> tuple[ImageFiles, list[str]]:
    """Return image files, and their ids: the paths below the folder that all have in common.

    Raises
    ------
    StimuliError
        There are files that do not exist, or a path is repeated.
    """
    # Not resolved: a link keeps its own name as id.
    absolute = [Path.cwd() / Path(path).expanduser() for path in paths]
    missing = [path for path in absolute if not path.is_file()]
    if missing:
        raise StimuliError(
            f"stimuli {name!r}: {len(missing)} of {len(absolute)} image files do not exist, the "
            f"first is {missing[0]}"
        )
    root = os.path.commonpath([path.parent for path in absolute])
    relative = [Path(os.path.relpath(path, root)).as_posix() for path in absolute]
    return ImageFiles(Path(root), relative), relative


def check_scaled(pixels: npt.NDArray[Any], scale: float, where: str) -> None:
    """Refuse pixels for which a scale is wrong: bytes, negative ones, and those above it.

    Raises
    ------
    StimuliError
        The scale is wrong.
    """
    if pixels.dtype.kind not in "iuf" or pixels.dtype == np.uint8:
        raise StimuliError(
            f"{where}: scale={scale:g} has no effect on pixels of type {pixels.dtype}; it is for "
            "integers of 16 bits or more and for floats"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= scale):
        raise StimuliError(
            f"{where}: pixels are from {low:g} to {high:g}, but scale={scale:g} says 0 to {scale:g}"
        )


def scaled_image(pixels: npt.NDArray[Any], scale: float) -> torch.Tensor:
    """Return pixels (y, x) or (y, x, channel) as a float32 tensor (channel, y, x) in [0, 1].

    Examples
    --------
    >>> scaled_image(np.array([[0, 4095]], dtype=np.uint16), scale=4095)
    tensor([[[0., 1.]]])
    """
    check_scaled(pixels, scale, "an image")
    values = torch.from_numpy(pixels.astype(np.float64) / scale).float()
    return values[None] if values.ndim == 2 else values.movedim(-1, 0).contiguous()


class ImageFiles:
    """A sequence of images, each read from its file when it is accessed.

    Parameters
    ----------
    root : Path
        The folder of all files.
    paths : list of str
        The files, below `root`.
    scale : float, optional
        The value of white in files of more than 8 bits, which become tensors. Other files become
        RGB images.
    """

    def __init__(self, root: Path, paths: list[str], scale: float | None = None) -> None:
        self.root = root
        self.paths = paths
        self.scale = scale

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        path = self.root / self.paths[index]
        try:
            with Image.open(path) as image:
                deep = image.mode.startswith(("I", "F"))
                pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
                if pages > 1:
                    raise ValueError(f"it holds {pages} pages; save each page as a file of its own")
                if deep and self.scale is None:
                    # PIL would clip such pixels to 255, which gives a white image.
                    raise ValueError(
                        f"pixels of mode {image.mode}, not 8 bits; give scale= (--scale) with the "
                        "value of white, such as 65535"
                    )
                if self.scale is None:
                    return image.convert("RGB")
                if not deep:
                    raise ValueError(
                        f"scale={self.scale:g} is for 16 bits or floats, but its pixels are of 8 "
                        f"bits (mode {image.mode})"
                    )
                # An array, of which the scale is taken when it becomes an input.
                return np.asarray(image)
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
