"""The file of a recording: its schema, its shards while it grows, and how it is opened."""

from unitprobe.store.files import check_output
from unitprobe.store.merge import merge_shards
from unitprobe.store.open import content_of, open_store, save_tree
from unitprobe.store.schema import DTYPES, SCHEMA_VERSION, LayerArray, Recording, check_dtype
from unitprobe.store.shards import Shards

__all__ = [
    "DTYPES",
    "SCHEMA_VERSION",
    "LayerArray",
    "Recording",
    "Shards",
    "check_dtype",
    "check_output",
    "content_of",
    "merge_shards",
    "open_store",
    "save_tree",
]
