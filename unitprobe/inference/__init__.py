"""Is it real? Label-shuffle nulls, bootstrap intervals and control of false discoveries."""

from unitprobe.inference.correlation import RankCorrelation, rank_correlation
from unitprobe.inference.dimension_null import gaussian_dimension_null
from unitprobe.inference.estimates import (
    IntervalMethod,
    NullSummary,
    bootstrap_interval,
    class_selectivity_bootstrap,
    class_selectivity_null,
    false_discovery_rate,
    summarize_null,
)
from unitprobe.inference.extremes import redraw_extremes
from unitprobe.inference.intervals import class_measure_interval, class_measures_redrawn
from unitprobe.inference.networks import (
    NetworkEstimate,
    difference_over_networks,
    mean_over_networks,
)
from unitprobe.inference.nulls import class_measures_bootstrap, class_measures_null
from unitprobe.inference.reliability import (
    SplitHalfReliability,
    TuningReliability,
    UnitMeasure,
    split_half_reliability,
    tuning_reliability,
)
from unitprobe.inference.resampling import bootstrapped_class_means, shuffled_class_means
from unitprobe.inference.rotation import RotationNull, rotation_null
from unitprobe.inference.units import (
    BaselineComparison,
    UnitEstimate,
    compare_to_baseline,
    mean_over_units,
)
from unitprobe.inference.upper_bound import SelectivityUpperBound, selectivity_upper_bound
from unitprobe.inference.verdicts import Direction, Prediction, Verdict, verdict, verdict_of_all

__all__ = [
    "BaselineComparison",
    "Direction",
    "IntervalMethod",
    "NetworkEstimate",
    "NullSummary",
    "Prediction",
    "RankCorrelation",
    "RotationNull",
    "SelectivityUpperBound",
    "SplitHalfReliability",
    "TuningReliability",
    "UnitEstimate",
    "UnitMeasure",
    "Verdict",
    "bootstrap_interval",
    "bootstrapped_class_means",
    "class_measure_interval",
    "class_measures_bootstrap",
    "class_measures_null",
    "class_measures_redrawn",
    "class_selectivity_bootstrap",
    "class_selectivity_null",
    "compare_to_baseline",
    "difference_over_networks",
    "false_discovery_rate",
    "gaussian_dimension_null",
    "mean_over_networks",
    "mean_over_units",
    "rank_correlation",
    "redraw_extremes",
    "rotation_null",
    "selectivity_upper_bound",
    "shuffled_class_means",
    "split_half_reliability",
    "summarize_null",
    "tuning_reliability",
    "verdict",
    "verdict_of_all",
]
