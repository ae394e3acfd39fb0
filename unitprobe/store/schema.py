"""What stands in a store: the arrays of a layer, their dimensions, chunks and attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from unitprobe.errors import LayerError, OptionError

SCHEMA_VERSION = 1
#: Names that stand at the root of a unitprobe file, so that no layer can have them.
ROOT_NAMES = frozenset(
    {"accuracy", "class_accuracy", "class_name", "label", "layer", "loss", "stimulus", "units"}
)
DTYPES = ("float32", "float64", "float16")

_SHARD_BYTES = 64 * 2**20
#: Stimuli in one shard, unless another number is chosen.
SHARD_STIMULI = 1024
_CHUNK_STIMULI = 1024
_CHUNK_BYTES = 512 * 2**10
_CHUNK_UNITS = 128


@dataclass(frozen=True)
class LayerArray:
    """The array that a layer has in a store.

    Attributes
    ----------
    layer : str
        Name of the layer, which is the name of its group.
    variable : {"response", "activation"}
        Name of the array: pooled, or with positions.
    dims : tuple of str
        Names of its dimensions, ``"stimulus"`` first.
    shape : tuple of int
        Sizes of `dims` without the stimuli.
    attributes : mapping
        Attributes of the group.
    """

    layer: str
    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Number of units."""
        return self.shape[self.dims.index("unit") - 1]

    def chunks(self, stimuli: int, itemsize: int) -> tuple[int, ...]:
        """Chunk shape: tall, so that one unit over all stimuli is read at once.

        Responses have chunks of up to 1024 stimuli x 128 units; activations keep all positions of
        some units together, at about the same number of bytes.
        """
        positions = math.prod(self.shape) // self.units
        units = _even(self.units, max(1, _CHUNK_UNITS // positions))
        rows = _even(stimuli, min(_CHUNK_STIMULI, _CHUNK_BYTES // (units * positions * itemsize)))
        return (
            rows,
            *(
                units if dim == "unit" else size
                for dim, size in zip(self.dims[1:], self.shape, strict=True)
            ),
        )


@dataclass(frozen=True)
class Recording:
    """Everything about a recording except the numbers.

    Attributes
    ----------
    ids, labels : arrays (stimulus,)
        Name and class index of every stimulus.
    class_names : sequence of str
        Name of every class.
    arrays : sequence of LayerArray
        What is recorded.
    dtype : str
        Type of the numbers in the file.
    contents : mapping of str to str
        What the numbers depend on; two recordings with the same contents are the same recording.
    provenance : mapping
        Further attributes of the file.
    compression : {None, "zstd"}
        How the finished file is compressed. The numbers do not depend on it.
    batch_size : int
        Stimuli in one forward pass; a shard holds at least as many.
    max_shard_stimuli : int
        Stimuli in one shard; fewer where their activations are large.
    """

    ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    class_names: Sequence[str]
    arrays: Sequence[LayerArray]
    dtype: str
    contents: Mapping[str, str]
    provenance: Mapping[str, Any]
    compression: str | None = None
    batch_size: int = 1
    max_shard_stimuli: int = SHARD_STIMULI

    @property
    def bytes_per_stimulus(self) -> int:
        """Size of one stimulus in the file."""
        return sum(math.prod(array.shape) for array in self.arrays) * np.dtype(self.dtype).itemsize

    @property
    def shard_stimuli(self) -> int:
        """Stimuli in one shard: as many as allowed, or fewer where their activations are large."""
        fitting = _SHARD_BYTES // max(1, self.bytes_per_stimulus)
        return max(self.batch_size, min(self.max_shard_stimuli, fitting))

    @property
    def shards(self) -> list[tuple[int, int]]:
        """First stimulus of every shard and the one after its last."""
        count, rows = len(self.ids), self.shard_stimuli
        return [(start, min(start + rows, count)) for start in range(0, count, rows)]

    @property
    def file_bytes(self) -> int:
        """Size of the finished file, from above: whole chunks, names and overhead."""
        itemsize = np.dtype(self.dtype).itemsize
        size = 2**16 + len(self.ids) * (40 + self.ids.dtype.itemsize)
        for array in self.arrays:
            chunks = array.chunks(len(self.ids), itemsize)
            shape = (len(self.ids), *array.shape)
            counts = [-(-n // chunk) for n, chunk in zip(shape, chunks, strict=True)]
            size += math.prod(counts) * (math.prod(chunks) * itemsize + 128) + 2**13
        return size


def _even(count: int, limit: int) -> int:
    """Return the size of the fewest equal parts of `count` that are at most `limit` each.

    HDF5 stores whole chunks: one more stimulus than a chunk holds would cost a second one.
    """
    parts = -(-count // max(1, limit))
    return -(-count // parts)


def compression_filter(compression: str | None) -> Mapping[str, Any]:
    """Return what h5py needs to compress, and make sure that this process can read it back.

    Raises
    ------
    OptionError
        The compression is not known, or hdf5plugin is not installed.
    """
    if compression is None:
        return {}
    if compression != "zstd":
        raise OptionError(f"compression={compression!r} is not known; choose 'zstd' or None")
    try:
        import hdf5plugin
    except ImportError:
        raise OptionError(
            "compression='zstd' needs hdf5plugin: python -m pip install 'unitprobe[zstd]'"
        ) from None
    filters: Mapping[str, Any] = hdf5plugin.Zstd(clevel=1)
    return filters


def check_layer_names(names: Iterable[str]) -> None:
    """Refuse layers whose name is that of something else in the file.

    Raises
    ------
    LayerError
        One has such a name.
    """
    for name in names:
        if name in ROOT_NAMES:
            raise LayerError(
                f"a layer named {name!r} cannot stand in a file, where {name!r} is something else; "
                "leave it out of layers=, or rename the module"
            )


def check_dtype(dtype: str) -> str:
    """Return `dtype` if a store can hold it.

    Raises
    ------
    OptionError
        It cannot.
    """
    if dtype not in DTYPES:
        raise OptionError(f"dtype={dtype!r} cannot be stored; choose one of {', '.join(DTYPES)}")
    return dtype
