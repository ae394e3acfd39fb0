import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitprobe.store import LayerArray
from unitprobe.store.schema import check_dtype


@given(
    units=st.integers(1, 5000),
    side=st.integers(1, 128),
    stimuli=st.integers(1, 10**6),
    pooled=st.booleans(),
)
def test_chunks_fit_the_array_and_stay_small(units, side, stimuli, pooled):
    if pooled:
        array = LayerArray("a", "response", ("stimulus", "unit"), (units,))
    else:
        array = LayerArray("a", "activation", ("stimulus", "unit", "y", "x"), (units, side, side))
    chunks = array.chunks(stimuli, 4)
    shape = (stimuli, *array.shape)
    assert all(0 < chunk <= size for chunk, size in zip(chunks, shape, strict=True))
    assert math.prod(chunks) * 4 <= max(512 * 2**10, side * side * 4)


def test_chunks_of_responses_are_tall():
    array = LayerArray("a", "response", ("stimulus", "unit"), (2048,))
    assert array.chunks(50_000, 4) == (1021, 128)


@given(stimuli=st.integers(1, 10**6), units=st.integers(1, 5000))
def test_chunks_waste_little(stimuli, units):
    array = LayerArray("a", "response", ("stimulus", "unit"), (units,))
    rows, columns = array.chunks(stimuli, 4)
    stored = -(-stimuli // rows) * rows * -(-units // columns) * columns
    assert stored <= 1.3 * stimuli * units or stored - stimuli * units < 10_000


def test_units_are_found_wherever_they_stand():
    assert LayerArray("a", "activation", ("stimulus", "token", "unit"), (197, 64)).units == 64
    assert LayerArray("a", "activation", ("stimulus", "unit", "y", "x"), (64, 7, 7)).units == 64


def test_an_unknown_type_of_number_is_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        check_dtype("bfloat16")
