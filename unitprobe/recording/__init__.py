"""Drive stimuli through a network and keep what its units do in a store."""

from unitprobe.recording.recorder import record

__all__ = ["record"]
