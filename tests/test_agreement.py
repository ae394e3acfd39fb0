"""What docs/agreement.md states of each metric and its reference holds."""

import agreement
import pytest


def stated(row):
    """Return the largest difference that the page states for a row, and the number of values."""
    name, *rest = row.metric.split(" ")
    start = f"| `{name}`{''.join(f' {word}' for word in rest)} | {row.reference} |"
    (line,) = [ln for ln in agreement.PAGE.read_text().splitlines() if ln.startswith(start)]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return float(cells[2]), int(cells[4])


@pytest.mark.parametrize("row", agreement.ROWS, ids=lambda row: f"{row.metric}-{row.reference}")
def test_the_difference_is_below_what_the_page_states(row):
    if not agreement.is_installed(row):
        pytest.skip(f"{row.needs} is not installed")
    largest, count = stated(row)
    difference, (low, high), compared = agreement.compare(row)
    assert difference <= largest
    assert compared == count
    assert low < high
    assert largest <= 1e-8
