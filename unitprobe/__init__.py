"""Tells what the single units of a network do, and whether it matters.

Every name below is loaded where it is first used, so that ``import unitprobe`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# For editors and type checkers; `_WHERE` says the same to the interpreter, and a test that
# both agree.
if TYPE_CHECKING:
    from unitprobe import errors, inference, metrics, plots, protocols
    from unitprobe.ablation import Noise, Value, ablate, attribute
    from unitprobe.analysis import analyze, compare, layer_table, tidy, unit_table
    from unitprobe.layers import Layer, list_layers, weight_norms
    from unitprobe.models import Network, load_model
    from unitprobe.options import set_options
    from unitprobe.probe import Probe
    from unitprobe.recording import record
    from unitprobe.regularizer import SelectivityRegularizer, alpha_schedule
    from unitprobe.report import write_report
    from unitprobe.stimuli import Stimuli, load_stimuli
    from unitprobe.store import open_store, save_tree, verify_store
    from unitprobe.store import recording_status as status

_WHERE = {
    "Layer": "layers.Layer",
    "Network": "models.Network",
    "Noise": "ablation.Noise",
    "Probe": "probe.Probe",
    "SelectivityRegularizer": "regularizer.SelectivityRegularizer",
    "Stimuli": "stimuli.Stimuli",
    "Value": "ablation.Value",
    "ablate": "ablation.ablate",
    "alpha_schedule": "regularizer.alpha_schedule",
    "analyze": "analysis.analyze",
    "attribute": "ablation.attribute",
    "compare": "analysis.compare",
    "layer_table": "analysis.layer_table",
    "list_layers": "layers.list_layers",
    "load_model": "models.load_model",
    "load_stimuli": "stimuli.load_stimuli",
    "open_store": "store.open_store",
    "record": "recording.record",
    "save_tree": "store.save_tree",
    "set_options": "options.set_options",
    "status": "store.recording_status",
    "tidy": "analysis.tidy",
    "unit_table": "analysis.unit_table",
    "verify_store": "store.verify_store",
    "weight_norms": "layers.weight_norms",
    "write_report": "report.write_report",
}

__all__ = [
    "Layer",
    "Network",
    "Noise",
    "Probe",
    "SelectivityRegularizer",
    "Stimuli",
    "Value",
    "__version__",
    "ablate",
    "alpha_schedule",
    "analyze",
    "attribute",
    "compare",
    "errors",
    "inference",
    "layer_table",
    "list_layers",
    "load_model",
    "load_stimuli",
    "metrics",
    "open_store",
    "plots",
    "protocols",
    "record",
    "save_tree",
    "set_options",
    "status",
    "tidy",
    "unit_table",
    "verify_store",
    "weight_norms",
    "write_report",
]

if not TYPE_CHECKING:  # or type checkers would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name in _WHERE:
            module, _, inside = _WHERE[name].partition(".")
            found = getattr(import_module(f"unitprobe.{module}"), inside)
            globals()[name] = found
            return found
        if name in __all__:
            return import_module(f"unitprobe.{name}")
        raise AttributeError(f"module 'unitprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
