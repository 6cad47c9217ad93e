"""What is an accident, what is not, and what is remembered of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.train.guard import ENOUGH, PATIENCE, USUAL, Derailed, Guard
from fledge.train.step import StepResult


class Watched:
    """A guard, and what it reported."""

    def __init__(self, leap: float = 2.0) -> None:
        self.said: list[int] = []
        self.guard = Guard(leap, lambda result, _: self.said.append(result.step))

    def see(self, *losses: float, norm: float = 1.0) -> None:
        for loss in losses:
            self.step = getattr(self, "step", 0) + 1
            self.guard.look(StepResult(self.step, loss, 0.1, norm, 8, 0.1))


@given(losses=st.lists(st.floats(1.0, 2.9), max_size=80))
def test_ordinary_losses_are_no_accident(losses: list[float]) -> None:
    watched = Watched()
    watched.see(*losses)
    assert watched.said == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_no_number_is_reported_and_the_third_in_a_row_is_too_many(loss: float, norm: float) -> None:
    watched = Watched()
    watched.see(*[loss] * (PATIENCE - 1), norm=norm)
    with pytest.raises(Derailed):
        watched.see(loss, norm=norm)
    assert watched.said == [1, 2, 3]


def test_a_good_step_between_begins_the_count_anew() -> None:
    watched = Watched()
    for _ in range(5):
        watched.see(math.nan, math.nan, 1.0)
    assert len(watched.said) == 10


def test_a_leap_is_an_accident_once_it_is_known_what_is_usual() -> None:
    early = Watched()
    early.see(*[1.0] * (ENOUGH - 1), 9.0)
    assert early.said == []
    late = Watched()
    late.see(*[1.0] * ENOUGH, 2.9)
    with pytest.raises(Derailed, match=r"leapt from 1\.00 to 3\.50 at step 12"):
        late.see(3.5)
    assert late.said == [ENOUGH + 2]


def test_without_a_limit_no_leap_is_one() -> None:
    watched = Watched(leap=0.0)
    watched.see(*[1.0] * ENOUGH, 1e9)
    assert watched.said == []


@given(losses=st.lists(st.floats(0, 3) | st.just(math.nan), max_size=2 * USUAL), cut=st.integers(0, 100))
def test_one_that_remembers_decides_as_one_that_was_never_interrupted(losses: list[float], cut: int) -> None:
    def decides(guard: Guard, losses: list[float], first: int) -> list[int]:
        derailed = []
        for step, loss in enumerate(losses, first):
            try:
                guard.look(StepResult(step, loss, 0.1, 1.0, 8, 0.1))
            except Derailed:
                derailed.append(step)
        return derailed

    whole, before, after = (Guard(0.5, lambda *_: None) for _ in range(3))
    cut = min(cut, len(losses))
    found = decides(before, losses[:cut], 0)
    after.remember(before.memory())
    assert decides(whole, losses, 0) == found + decides(after, losses[cut:], cut)
