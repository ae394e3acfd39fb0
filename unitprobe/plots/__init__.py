"""Pictures of an analysis: each function takes a tree and returns a matplotlib `Figure`.

Figures do not touch pyplot's state and need no display. Save one with
``figure.savefig(path)``; a notebook shows it as it is. Layers stand in the order in which they
run, and every figure says what number of stimuli and units it rests on.
"""

from unitprobe.plots.by_layer import (
    plot_dimensionality_by_layer,
    plot_network_comparison,
    plot_selectivity_by_layer,
    plot_sparseness_by_layer,
)
from unitprobe.plots.by_unit import (
    plot_selectivity_against_ablation,
    plot_tuning,
    rank_correlation,
    selectivity_and_damage,
)
from unitprobe.plots.drawing import printable
from unitprobe.plots.of_protocols import plot_bau, plot_morcos, plot_ranadive, plot_zhou
from unitprobe.plots.values import has, layer_values, require, unit_counts, unit_values

__all__ = [
    "has",
    "layer_values",
    "plot_bau",
    "plot_dimensionality_by_layer",
    "plot_morcos",
    "plot_network_comparison",
    "plot_ranadive",
    "plot_selectivity_against_ablation",
    "plot_selectivity_by_layer",
    "plot_sparseness_by_layer",
    "plot_tuning",
    "plot_zhou",
    "printable",
    "rank_correlation",
    "require",
    "selectivity_and_damage",
    "unit_counts",
    "unit_values",
]
