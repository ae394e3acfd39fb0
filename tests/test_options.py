"""Options are set for a block, or from then on."""

import pytest

import unitprobe as up
from unitprobe.options import get_option


def test_a_block_puts_the_option_back():
    with up.set_options(keep_freed_memory=False):
        assert not get_option("keep_freed_memory")
        with up.set_options(keep_freed_memory=True):
            assert get_option("keep_freed_memory")
        assert not get_option("keep_freed_memory")
    assert get_option("keep_freed_memory")


def test_without_a_block_it_stays():
    try:
        up.set_options(keep_freed_memory=False)
        assert not get_option("keep_freed_memory")
    finally:
        up.set_options(keep_freed_memory=True)


@pytest.mark.parametrize("wrong", ["yes", None, 2])
def test_other_values_are_refused(wrong):
    with pytest.raises(up.errors.OptionError, match="keep_freed_memory"):
        up.set_options(keep_freed_memory=wrong)
    assert get_option("keep_freed_memory")
