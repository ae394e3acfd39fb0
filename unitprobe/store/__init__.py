"""The file of a recording: its schema, its shards while it grows, and how it is opened."""

from unitprobe.store.files import check_output, writing
from unitprobe.store.open import content_of, open_store, save_tree
from unitprobe.store.schema import (
    SCHEMA_VERSION,
    SHARD_STIMULI,
    LayerArray,
    Recording,
    check_dtype,
    check_layer_names,
    compression_filter,
)
from unitprobe.store.shards import Range, Shards
from unitprobe.store.sizes import format_seconds, format_size, parse_size
from unitprobe.store.status import RecordingStatus, recording_status
from unitprobe.store.verify import verify_store

__all__ = [
    "SCHEMA_VERSION",
    "SHARD_STIMULI",
    "LayerArray",
    "Range",
    "Recording",
    "RecordingStatus",
    "Shards",
    "check_dtype",
    "check_layer_names",
    "check_output",
    "compression_filter",
    "content_of",
    "format_seconds",
    "format_size",
    "open_store",
    "parse_size",
    "recording_status",
    "save_tree",
    "verify_store",
    "writing",
]
