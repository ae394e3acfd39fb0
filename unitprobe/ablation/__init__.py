"""Silence units and measure what the network loses."""

from unitprobe.ablation.interface import ablate

__all__ = ["ablate"]
