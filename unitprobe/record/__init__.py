"""Drive stimuli through a network and keep what its units do in a store."""

from unitprobe.record.recorder import record

__all__ = ["record"]
