"""Silence units and measure what the network loses."""

from unitprobe.ablation.ablate import ablate

__all__ = ["ablate"]
