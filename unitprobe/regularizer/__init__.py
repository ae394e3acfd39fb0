"""Class selectivity, or a similar measure, as a differentiable loss term."""

from unitprobe.regularizer.measures import RegularizedMeasure
from unitprobe.regularizer.schedule import AlphaSchedule, alpha_schedule
from unitprobe.regularizer.term import SelectivityRegularizer

__all__ = ["AlphaSchedule", "RegularizedMeasure", "SelectivityRegularizer", "alpha_schedule"]
