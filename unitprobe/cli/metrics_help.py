"""Help that lists the measures."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class MeasuresCommand(TyperCommand):
    """A command whose help ends with every measure that ``--metrics`` takes."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the name of each measure and what it is."""
        from unitprobe.metrics.registry import MEASURES

        with formatter.section("Metrics"):
            formatter.write_dl([(name, measure.long_name) for name, measure in MEASURES.items()])
