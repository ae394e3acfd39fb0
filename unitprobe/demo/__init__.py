"""Three small networks, trained on the spot and compared: the command ``unitprobe demo``."""

from unitprobe.demo.run import run_demo

__all__ = ["run_demo"]
