"""Schedules: fractions of a peak over training."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpsbn.functional.schedules import SCHEDULES, Schedule

TYPES = sorted(SCHEDULES)
HIGH = 0.5 * (1 + math.cos(math.pi / 6))
ends = st.floats(0.01, 1.0)


@st.composite
def schedules(draw, types=TYPES):
    end = draw(ends)
    warmup = draw(st.floats(0, 0.99)) * end
    return Schedule(draw(st.sampled_from(types)), warmup, end)


@pytest.mark.parametrize(
    'kind, course',
    [
        ('one_cycle', [0, 0.5, 1, HIGH, 0.75, 0.5, 0.25, 1 - HIGH, 0, 0, 0]),
        ('warmup', [0, 0.5, 1, 1, 1, 1, 1, 1, 0, 0, 0]),
        ('cosine', [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)] + [0, 0, 0]),
        ('constant', [1] * 8 + [0] * 3),
    ],
)
def test_course_by_hand(kind, course):
    schedule = Schedule(kind, warmup=0.2, end=0.8)
    assert [schedule(step, 10) for step in range(11)] == pytest.approx(course, abs=1e-12)


@pytest.mark.parametrize('kind', ['one_cycle', 'warmup'])
def test_without_a_warmup_the_first_step_has_the_peak(kind):
    assert Schedule(kind, warmup=0.0, end=1.0)(0, 10) == 1


@given(schedules(), st.integers(1, 10**6), st.data())
def test_values_stay_in_0_1_and_are_0_from_the_end_on(schedule, total, data):
    step = data.draw(st.integers(0, 2 * total))
    value = schedule(step, total)
    assert 0 <= value <= 1
    if step / total >= schedule.end:
        assert value == 0


@pytest.mark.parametrize(
    'kind, warmup, end, message',
    [
        ('onecycle', 0.1, 1.0, r"one of \['constant', 'cosine', .*'\], got 'onecycle'"),
        (None, 0.1, 1.0, 'type must be one of .* got None'),
        ('cosine', 0.0, 0.0, r'end must be in \(0, 1\], got 0.0'),
        ('cosine', 0.0, 1.01, r'end must be in \(0, 1\], got 1.01'),
        ('cosine', 0.0, math.nan, r'end must be in \(0, 1\], got nan'),
        ('one_cycle', -0.1, 1.0, r'warmup must be >= 0 and below end=1.0, got -0.1'),
        ('one_cycle', 0.5, 0.5, r'warmup must be >= 0 and below end=0.5, got 0.5'),
        ('one_cycle', math.nan, 1.0, r'warmup must be >= 0 .* got nan'),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(kind, warmup, end, message):
    with pytest.raises(ValueError, match=message):
        Schedule(kind, warmup, end)
