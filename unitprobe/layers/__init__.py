"""Discover, name and select layers: one address for every activation."""

from unitprobe.layers.blocks import repeated_blocks
from unitprobe.layers.calls import Call, CallWatcher
from unitprobe.layers.discover import FoundLayers, example_input, find_layers, list_layers
from unitprobe.layers.indices import unit_indices
from unitprobe.layers.layer import Layer, StimulusAxis
from unitprobe.layers.operations import NONLINEARITIES
from unitprobe.layers.outputs import tensor_at, tensors_in, with_tensor_at
from unitprobe.layers.running import as_input, device_of, evaluating
from unitprobe.layers.select import Selection, select_layers
from unitprobe.layers.structure import inside
from unitprobe.layers.unit_weights import weight_norms

__all__ = [
    "NONLINEARITIES",
    "Call",
    "CallWatcher",
    "FoundLayers",
    "Layer",
    "Selection",
    "StimulusAxis",
    "as_input",
    "device_of",
    "evaluating",
    "example_input",
    "find_layers",
    "inside",
    "list_layers",
    "repeated_blocks",
    "select_layers",
    "tensor_at",
    "tensors_in",
    "unit_indices",
    "weight_norms",
    "with_tensor_at",
]
