"""The tables of docs/metrics.md, from the records of the measures.

Run as ``python tests/measure_tables.py`` it writes them between their markers;
`test_measure_tables.py` checks that the page holds them.
"""

import re
from math import inf
from pathlib import Path

from unitprobe.metrics.registry import MEASURES

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def tables():
    """Return the lines of each table, by the name in its markers."""
    found = {"class": [], "tuning": [], "unit": [], "layer": []}
    for measure in MEASURES.values():
        kind = measure.kind
        if measure.labelled:
            kind = "tuning"
        elif kind == "stimulus":
            kind = "unit"
        row = [f"`{measure.name}`", measure.formula or measure.long_name, range_of(measure)]
        row += [measure.units, measure.constant] if kind == "class" else [measure.units]
        cells = (f" {cell} " if cell else " " for cell in (*row, measure.source))
        found[kind].append(f"|{'|'.join(cells)}|")
    for kind, rows in found.items():
        names = ["name", "formula", "range", "units"]
        names += ["unit that responds alike to all", "source"] if kind == "class" else ["source"]
        rows[:0] = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return {kind: "\n".join(rows) for kind, rows in found.items()}


def range_of(measure):
    """Return the range of a measure in words."""
    if measure.range_text:
        return measure.range_text
    low, high = measure.range
    if measure.range == (-inf, inf):
        return "any"
    return f"from {low:g}" if high == inf else f"{low:g} to {high:g}"


def with_tables(page):
    """Return the text of the page with every table between its markers as it must be."""
    for name, table in tables().items():
        marked = rf"(<!-- measures: {name} -->\n).*?(<!-- end -->)"
        page, count = re.subn(
            marked, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL
        )
        assert count == 1, f"{PAGE.name} has no markers for the table {name!r}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
