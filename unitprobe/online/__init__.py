"""The statistics of `unitprobe.metrics` in one pass over the stimuli, without keeping responses.

Every accumulator takes responses as they come, merges with others of its kind, and gives what the
function of the same name gives on all responses at once.
"""

from unitprobe.online.accumulator import Accumulator
from unitprobe.online.activity import ActivityCounts
from unitprobe.online.bounded import Bounded
from unitprobe.online.covariance import Covariance, LinearCKA
from unitprobe.online.distributed import merge_across_ranks, rank_and_world, share_of_rank
from unitprobe.online.histogram import ResponseHistogram
from unitprobe.online.kept import KeptResponses
from unitprobe.online.moments import ClassMoments, ResponseMoments
from unitprobe.online.resampled import Bags, ResampledClassSums, Resamples
from unitprobe.online.stimuli import PopulationSparseness, TopStimuli
from unitprobe.online.top_classes import TopClasses, TopRun

__all__ = [
    "Accumulator",
    "ActivityCounts",
    "Bags",
    "Bounded",
    "ClassMoments",
    "Covariance",
    "KeptResponses",
    "LinearCKA",
    "PopulationSparseness",
    "ResampledClassSums",
    "Resamples",
    "ResponseHistogram",
    "ResponseMoments",
    "TopClasses",
    "TopRun",
    "TopStimuli",
    "merge_across_ranks",
    "rank_and_world",
    "share_of_rank",
]
