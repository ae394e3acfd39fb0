"""Is it real? Label-shuffle nulls, bootstrap intervals and control of false discoveries."""

from unitprobe.inference.estimates import (
    IntervalMethod,
    NullSummary,
    bootstrap_interval,
    class_selectivity_bootstrap,
    class_selectivity_null,
    false_discovery_rate,
    summarize_null,
)
from unitprobe.inference.resampling import bootstrapped_class_means, shuffled_class_means

__all__ = [
    "IntervalMethod",
    "NullSummary",
    "bootstrap_interval",
    "bootstrapped_class_means",
    "class_selectivity_bootstrap",
    "class_selectivity_null",
    "false_discovery_rate",
    "shuffled_class_means",
    "summarize_null",
]
