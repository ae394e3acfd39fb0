"""Discover, name and select layers: one address for every activation."""

from unitprobe.layers.calls import Call, CallWatcher
from unitprobe.layers.discover import (
    as_input,
    device_of,
    evaluating,
    example_input,
    list_layers,
    list_layers_of_call,
)
from unitprobe.layers.layer import NONLINEARITIES, Layer
from unitprobe.layers.select import Selection, repeated_blocks, select_layers

__all__ = [
    "NONLINEARITIES",
    "Call",
    "CallWatcher",
    "Layer",
    "Selection",
    "as_input",
    "device_of",
    "evaluating",
    "example_input",
    "list_layers",
    "list_layers_of_call",
    "repeated_blocks",
    "select_layers",
]
