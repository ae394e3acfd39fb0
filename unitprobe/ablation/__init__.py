"""Silence units and measure what the network loses."""

from unitprobe.ablation.interface import ablate, attribute
from unitprobe.ablation.settings import Mode, Noise, Value

__all__ = ["Mode", "Noise", "Value", "ablate", "attribute"]
