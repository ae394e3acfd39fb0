"""Load labelled images: embedded digits, folders, torchvision sets, arrays."""

from unitprobe.stimuli.labelled_images import Stimuli
from unitprobe.stimuli.stimulus_sources import load_stimuli

__all__ = [
    "Stimuli",
    "load_stimuli",
]
