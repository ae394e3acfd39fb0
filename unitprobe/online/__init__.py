"""The statistics of `unitprobe.metrics` in one pass over the stimuli, without keeping responses.

Every accumulator takes responses as they come and merges with others of its kind. A method with the
name of a metric returns its exact value on all responses; where the metric takes ``reduce=``, that
of every class.
"""

from unitprobe.online.accumulator import Accumulator
from unitprobe.online.activity import ActivityCounts
from unitprobe.online.covariance import Covariance, LinearCKA
from unitprobe.online.distributed import (
    gather_across_ranks,
    merge_across_ranks,
    rank_and_world,
    share_of_rank,
)
from unitprobe.online.moments import ClassMoments, ResponseMoments
from unitprobe.online.per_stimulus import PopulationSparseness, TopStimuli
from unitprobe.online.resampled import ClassMembership, ResampledClassSums, Resamples
from unitprobe.online.top_classes import TopClasses, TopRun

__all__ = [
    "Accumulator",
    "ActivityCounts",
    "ClassMembership",
    "ClassMoments",
    "Covariance",
    "LinearCKA",
    "PopulationSparseness",
    "ResampledClassSums",
    "Resamples",
    "ResponseMoments",
    "TopClasses",
    "TopRun",
    "TopStimuli",
    "gather_across_ranks",
    "merge_across_ranks",
    "rank_and_world",
    "share_of_rank",
]
