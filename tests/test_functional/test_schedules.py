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


@given(schedules(), st.integers(1, 10**6), st.data())
def test_values_stay_in_0_1_and_are_0_from_the_end_on(schedule, total, data):
    step = data.draw(st.integers(0, 2 * total))
    value = schedule(step, total)
    assert 0 <= value <= 1
    if step / total >= schedule.end:
        assert value == 0


@given(schedules(['one_cycle', 'warmup']))
def test_rise_begins_at_0_and_ends_at_1(schedule):
    resolution = 10**9
    assert schedule(0, resolution) == (0 if schedule.warmup else 1)
    at_warmup = math.ceil(schedule.warmup * resolution)
    if at_warmup / resolution < schedule.end - 1e-3:
        assert schedule(at_warmup, resolution) == pytest.approx(1, abs=1e-6)


@given(schedules(['one_cycle', 'cosine']))
def test_cosine_reaches_0_without_a_jump(schedule):
    resolution = 10**9
    last = math.ceil(schedule.end * resolution) - 1
    if schedule.type == 'cosine' or schedule.end - schedule.warmup > 1e-2:
        assert schedule(last, resolution) < 1e-6


@given(schedules(), st.lists(st.integers(0, 10**6), min_size=2, max_size=2).map(sorted))
def test_monotone_up_before_the_warmup_ends_and_down_after(schedule, steps):
    early, late = steps
    first, second = schedule(early, 10**6), schedule(late, 10**6)
    rises = schedule.type in ('one_cycle', 'warmup')
    if rises and late / 10**6 < schedule.warmup:
        assert first <= second
    elif not rises or early / 10**6 >= schedule.warmup:
        assert first >= second


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
