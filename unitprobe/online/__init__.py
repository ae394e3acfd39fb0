"""The statistics of `unitprobe.metrics` in one pass over the stimuli, without keeping responses.

Every accumulator takes responses as they come, merges with others of its kind, and gives what the
function of the same name gives on all responses at once.
"""

from unitprobe.online.accumulator import Accumulator
from unitprobe.online.activity import ActivityCounts
from unitprobe.online.covariance import Covariance, LinearCKA
from unitprobe.online.distributed import merge_across_ranks, rank_and_world, share_of_rank
from unitprobe.online.histogram import Bounded, ResponseHistogram
from unitprobe.online.moments import ClassMoments, ResponseMoments
from unitprobe.online.resampled import Bags, ResampledClassSums, Resamples
from unitprobe.online.stimuli import PopulationSparseness, TopStimuli

__all__ = [
    "Accumulator",
    "ActivityCounts",
    "Bags",
    "Bounded",
    "ClassMoments",
    "Covariance",
    "LinearCKA",
    "PopulationSparseness",
    "ResampledClassSums",
    "Resamples",
    "ResponseHistogram",
    "ResponseMoments",
    "TopStimuli",
    "merge_across_ranks",
    "rank_and_world",
    "share_of_rank",
]
