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


@pytest.mark.parametrize("name", agreement.FROM_HISTOGRAM)
def test_one_pass_is_as_near_as_the_page_states(name):
    (line,) = [
        ln for ln in agreement.PAGE.read_text().splitlines() if ln.startswith(f"| `{name}` | 0")
    ]
    off, error, count = (float(cell) for cell in line.strip("|").split("|")[1:])
    found = agreement.compare_one_pass(name)
    assert found[0] <= off
    assert found[1] <= error
    assert found[2] == count
    assert found[3]
