"""The file of a recording: its schema, its shards while it grows, and how it is opened."""

from unitprobe.store.files import check_output, writing
from unitprobe.store.merge import merge_shards
from unitprobe.store.open import content_of, open_store, save_tree
from unitprobe.store.schema import (
    SCHEMA_VERSION,
    LayerArray,
    Recording,
    check_dtype,
    check_layer_names,
    compression_filter,
)
from unitprobe.store.shards import Shards

__all__ = [
    "SCHEMA_VERSION",
    "LayerArray",
    "Recording",
    "Shards",
    "check_dtype",
    "check_layer_names",
    "check_output",
    "compression_filter",
    "content_of",
    "merge_shards",
    "open_store",
    "save_tree",
    "writing",
]
