"""``python -m unitprobe`` is the command ``unitprobe``."""

from unitprobe.cli import main

main()
