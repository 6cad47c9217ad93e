"""When a checkpoint is due by time."""

import pytest

from fledge.checkpoint.save_timer import SaveTimer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def seconds_until_due(timer: SaveTimer, clock: Clock, step_seconds: float = 0.0) -> float:
    begun = clock.now
    while not timer.is_due(step_seconds):
        clock.now += 1
    return clock.now - begun


def test_first_save_comes_after_half_the_interval(clock: Clock) -> None:
    timer = SaveTimer(60, clock)
    assert seconds_until_due(timer, clock) == 30
    timer.restart()
    assert seconds_until_due(timer, clock) == 60


def test_save_is_due_before_a_step_that_would_end_too_late(clock: Clock) -> None:
    assert seconds_until_due(SaveTimer(60, clock), clock, step_seconds=25) == 5


def test_slow_save_makes_the_interval_longer(clock: Clock) -> None:
    timer = SaveTimer(60, clock)
    timer.restart()
    clock.now += 9
    timer.saved_in(9)
    assert seconds_until_due(timer, clock) == 300 - 9
    timer.restart()
    timer.saved_in(0.1)
    assert seconds_until_due(timer, clock) == 60


def test_zero_is_never(clock: Clock) -> None:
    timer = SaveTimer(0, clock)
    timer.restart()
    clock.now += 10**9
    assert not timer.is_due(10**9)
