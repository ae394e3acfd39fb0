"""What holds for every accumulator: how the stimuli are split and joined does not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accumulators import ACCUMULATORS, CLASSES, accumulate, compute, layer, resamples
from hypothesis import given, settings
from hypothesis import strategies as st

from unitprobe import online
from unitprobe.errors import LabelError, OptionError, ResponseError

EVERY = pytest.mark.parametrize("name", ACCUMULATORS)


def assert_same(found, expected):
    for what, values in expected.items():
        np.testing.assert_allclose(found[what], values, rtol=1e-9, atol=1e-12, err_msg=what)


def split(count, cuts):
    return np.split(np.arange(count), sorted(cuts))


@EVERY
@settings(deadline=None, max_examples=15)
@given(
    stimuli=st.integers(2, 40),
    units=st.integers(3, 6),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batches_do_not_matter(name, stimuli, units, cuts, signed, seed):
    responses, labels = layer(stimuli, units, seed, signed)
    at_once = accumulate(name, responses, labels, [np.arange(stimuli)])
    in_parts = accumulate(name, responses, labels, split(stimuli, cuts))
    assert in_parts.stimuli == stimuli
    assert_same(compute(name, in_parts), compute(name, at_once))


@EVERY
@settings(deadline=None, max_examples=15)
@given(
    stimuli=st.integers(2, 40),
    cuts=st.lists(st.integers(0, 40), min_size=2, max_size=2),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_merging_is_associative_and_commutative(name, stimuli, cuts, signed, seed):
    responses, labels = layer(stimuli, 4, seed, signed)
    expected = compute(name, accumulate(name, responses, labels, [np.arange(stimuli)]))

    def three():
        return [accumulate(name, responses, labels, [part]) for part in split(stimuli, cuts)]

    a, b, c = three()
    assert_same(compute(name, a.merge(b).merge(c)), expected)
    a, b, c = three()
    assert_same(compute(name, a.merge(b.merge(c))), expected)
    a, b, c = three()
    merged = c.merge(a).merge(b)
    assert merged.stimuli == stimuli
    assert_same(compute(name, merged), expected)


@EVERY
def test_merging_leaves_the_other_as_it_was(name):
    responses, labels = layer(30, 4, signed=True)
    parts = [accumulate(name, responses, labels, [part]) for part in split(30, [11])]
    # A window that has to move, and a sign that was not seen before.
    parts.append(accumulate(name, 100 * responses, labels, [np.arange(5)]))
    for one in parts:
        for other in parts:
            if one is not other:
                before = compute(name, other)
                make = ACCUMULATORS[name][0]
                make(labels).merge(one).merge(other)
                make(labels).merge(other).merge(one)
                np.testing.assert_equal(compute(name, other), before)


@EVERY
def test_a_torch_tensor_gives_what_an_array_gives(name):
    responses, labels = layer(30, 4)
    make, feed, _ = ACCUMULATORS[name]
    accumulator = make(labels)
    drawn = resamples(labels)
    tensor = torch.from_numpy(responses.copy()).requires_grad_()
    feed(accumulator, tensor, torch.from_numpy(labels), np.arange(30), drawn)
    expected = compute(name, accumulate(name, responses, labels, [np.arange(30)]))
    found = compute(name, accumulator)
    assert_same(found, expected)
    assert not any(torch.is_tensor(values) for values in found.values())


@EVERY
def test_responses_given_are_left_as_they_were(name):
    responses, labels = layer(30, 4, signed=True)
    before = responses.copy()
    responses.flags.writeable = False
    accumulate(name, responses, labels, split(30, [9, 20]))
    np.testing.assert_array_equal(responses, before)


@EVERY
def test_half_precision_is_accumulated_in_full(name):
    responses, labels = layer(300, 4)
    narrow = responses.astype(np.float16)
    expected = compute(name, accumulate(name, narrow.astype(float), labels, [np.arange(300)]))
    assert_same(compute(name, accumulate(name, narrow, labels, split(300, [150]))), expected)


@pytest.mark.parametrize("name", sorted(set(ACCUMULATORS) - {"TopRun"}))
def test_state_does_not_grow_with_the_stimuli(name):
    def size(stimuli):
        responses, labels = layer(stimuli, 4)
        state = vars(accumulate(name, responses, labels, np.split(np.arange(stimuli), 10)))
        return sum(v.nbytes for v in state.values() if isinstance(v, torch.Tensor))

    assert size(1000) == size(100)


@EVERY
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_responses_that_are_not_numbers_are_refused(name, bad):
    responses, labels = layer(20, 4)
    responses[3, 2] = bad
    with pytest.raises(ResponseError, match="must be finite"):
        accumulate(name, responses, labels, [np.arange(20)])


@EVERY
def test_other_units_are_refused(name):
    responses, labels = layer(20, 4)
    accumulator = accumulate(name, responses, labels, [np.arange(20)])
    with pytest.raises(ResponseError, match="units"):
        accumulator.merge(accumulate(name, responses[:, :3], labels, [np.arange(20)]))


@EVERY
def test_nothing_seen_gives_no_number(name):
    _, labels = layer(20, 4)
    empty = ACCUMULATORS[name][0](labels)
    for measure in ACCUMULATORS[name][2].values():
        with pytest.raises(ResponseError, match="no stimuli"):
            measure(empty)


def test_accumulators_of_other_settings_are_refused():
    with pytest.raises(OptionError, match=r"ClassMoments\(class_count=3\).*class_count=4"):
        online.ClassMoments(4).merge(online.ClassMoments(3))
    with pytest.raises(OptionError, match=r"ActivityCounts"):
        online.ClassMoments(4).merge(online.ActivityCounts(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda: online.ClassMoments(0),
        lambda: online.TopStimuli(0),
        lambda: online.TopClasses(2, k=0),
    ],
)
def test_settings_without_sense_are_refused(make):
    with pytest.raises(OptionError):
        make()


BY_CLASS = (
    online.ActivityCounts,
    online.ClassMoments,
    online.TopClasses,
    online.TopRun,
)


def test_a_label_without_a_class_is_refused():
    for make in BY_CLASS:
        with pytest.raises(LabelError, match="label 5 is not one of the classes"):
            make(CLASSES).update(np.ones((2, 3)), np.array([0, 5]))
