import pytest

from unitprobe.errors import OptionError
from unitprobe.regularizer import alpha_schedule


def values(text, epochs):
    schedule = alpha_schedule(text)
    return [schedule(epoch) for epoch in range(epochs)]


def test_a_number_is_the_weight_of_every_epoch():
    assert values("-1", 3) == values(-1.0, 3) == [-1, -1, -1]
    assert alpha_schedule("-1").is_constant


def test_parts_follow_one_another_and_the_last_value_stays():
    assert values("0*2 -20*3", 7) == [0, 0, -20, -20, -20, -20, -20]
    assert not alpha_schedule("0*2 -20*3").is_constant


def test_a_ramp_reaches_its_end_in_the_epoch_after_it():
    assert values("0..-1*4 -1", 6) == [0, -0.25, -0.5, -0.75, -1, -1]
    assert values("1..0*2", 4) == [1, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("nan", "not a finite number"),
        ("0*5 inf", "not a finite number"),
        ("0*0 1", "lasts 0 epochs"),
        ("0 1", "'0' is not VALUE"),
        ("0*five", "'0\\*five' is not VALUE"),
        ("strong", "'strong' is not VALUE"),
    ],
)
def test_an_invalid_schedule_is_named(text, message):
    with pytest.raises(OptionError, match=message):
        alpha_schedule(text)
