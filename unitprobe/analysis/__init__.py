"""From responses to a table: every statistic of every unit, labelled."""

from unitprobe.analysis.baseline import compare
from unitprobe.analysis.driver import analyze
from unitprobe.analysis.result_tables import (
    SELECTIVE_Q,
    add_false_discovery_rates,
    layer_table,
    open_result,
    selective_share,
    summarize_layers,
    tidy,
    unit_table,
)
from unitprobe.analysis.sources import read_responses

__all__ = [
    "SELECTIVE_Q",
    "add_false_discovery_rates",
    "analyze",
    "compare",
    "layer_table",
    "open_result",
    "read_responses",
    "selective_share",
    "summarize_layers",
    "tidy",
    "unit_table",
]
