"""Tells what the single units of an image network do, and whether it matters."""

from unitprobe import errors, inference, metrics
from unitprobe.ablation import Noise, Value, ablate, attribute
from unitprobe.analysis import analyze, layer_table, unit_table
from unitprobe.layers import Layer, list_layers, weight_norms
from unitprobe.models import Network, load_model
from unitprobe.options import set_options
from unitprobe.probe import Probe
from unitprobe.recording import record
from unitprobe.regularizer import SelectivityRegularizer, alpha_schedule
from unitprobe.stimuli import Stimuli, load_stimuli
from unitprobe.store import open_store, save_tree, verify_store

__all__ = [
    "Layer",
    "Network",
    "Noise",
    "Probe",
    "SelectivityRegularizer",
    "Stimuli",
    "Value",
    "ablate",
    "alpha_schedule",
    "analyze",
    "attribute",
    "errors",
    "inference",
    "layer_table",
    "list_layers",
    "load_model",
    "load_stimuli",
    "metrics",
    "open_store",
    "record",
    "save_tree",
    "set_options",
    "unit_table",
    "verify_store",
    "weight_norms",
]
