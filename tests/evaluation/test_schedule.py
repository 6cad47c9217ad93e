"""When a run is evaluated, and on how many tokens."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fledge.evaluation.schedule import (
    EVALUATION_SHARE,
    FORWARD_COST,
    MAX_SAMPLE,
    MIN_SAMPLE,
    evaluates_whole_split,
    evaluation_interval,
    round_up,
    sample_size,
    scheduled_steps,
    smallest_sample,
)


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(0, 9, []), (4, 9, [4, 8, 9]), (20, 9, [9]), (3, 9, [3, 6, 9])]
)
def test_scheduled_steps_include_the_last(every: int, steps: int, expected: list[int]) -> None:
    assert list(scheduled_steps(every, steps)) == expected


@pytest.mark.parametrize(
    ("wanted", "rounded"), [(0.1, 1), (3, 3), (7.2, 8), (11, 20), (21, 25), (125, 200), (501, 1000)]
)
def test_intervals_are_round_numbers(wanted: float, rounded: int) -> None:
    assert round_up(wanted) == rounded


@given(st.integers(100, 10**7), st.integers(1024, 10**6), st.sampled_from([16, 256, 2048]))
def test_long_runs_are_evaluated_ten_to_twenty_times_at_most_at_their_share(
    steps: int, step_tokens: int, context: int
) -> None:
    interval = evaluation_interval(steps, step_tokens, context)
    evaluations = len(scheduled_steps(interval, steps))
    cost = (evaluations + 1) * sample_size(steps, step_tokens, context, interval) * FORWARD_COST
    if steps * step_tokens * EVALUATION_SHARE / FORWARD_COST > 21 * smallest_sample(context):
        assert 10 <= evaluations <= 21
        assert cost <= EVALUATION_SHARE * steps * step_tokens
    assert 1 <= interval <= steps


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_short_runs_are_evaluated_seldom(steps: int) -> None:
    assert evaluation_interval(steps, 64, 64) == steps


@given(steps=st.integers(30, 10**6), minutes=st.floats(0.01, 1000))
@example(steps=121, minutes=4.0)
def test_runs_of_few_minutes_are_evaluated_every_twenty_seconds_at_most(steps: int, minutes: float) -> None:
    usual, timed = (evaluation_interval(steps, 10**6, 128, limit) for limit in (None, minutes))
    assert timed >= usual
    assert len(scheduled_steps(timed, steps)) <= max(1, 60 * minutes / 20) + 1 or timed == usual


@given(steps=st.integers(1, 10**6), step_tokens=st.integers(1, 10**6), every=st.integers(0, 10**6))
def test_sample_size_has_limits(steps: int, step_tokens: int, every: int) -> None:
    assert MIN_SAMPLE <= sample_size(steps, step_tokens, 128, every) <= MAX_SAMPLE


def test_fewer_evaluations_get_a_larger_sample() -> None:
    assert sample_size(1000, 2048, 64, 100) > 1.8 * sample_size(1000, 2048, 64, 50)


def test_sample_has_at_least_16_windows() -> None:
    assert sample_size(20, 8192, 1024, 10) == 16 * 1024
    assert sample_size(20, 8192, 1024, 0) == 16 * 1024
    assert smallest_sample(64) == MIN_SAMPLE


def test_whole_split_is_left_out_where_it_would_cost_a_quarter_of_the_run() -> None:
    assert evaluates_whole_split(1000, 2048, 1_536_000)
    assert not evaluates_whole_split(1000, 2048, 1_537_000)
