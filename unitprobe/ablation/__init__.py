"""Silence units and measure what the network loses."""

from unitprobe.ablation.sweep import ablate

__all__ = ["ablate"]
