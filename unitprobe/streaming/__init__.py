"""From a network to a table in one pass, without a recording in between."""

from unitprobe.streaming.layer_statistics import ONE_PASS_METRICS
from unitprobe.streaming.network import analyze_network

__all__ = ["ONE_PASS_METRICS", "analyze_network"]
