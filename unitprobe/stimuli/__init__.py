"""Load labelled images: embedded digits, folders, torchvision sets, arrays."""

from unitprobe.stimuli.load import load_stimuli
from unitprobe.stimuli.stimuli import Stimuli

__all__ = [
    "Stimuli",
    "load_stimuli",
]
