"""How many steps a run has where that is decided while it trains, and where its schedule stands."""

import bisect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.optim.config import OptimConfig
from fledge.optim.schedule import SCHEDULES, WARMUPS, lr_multiplier
from fledge.training.pace import Pace, is_worth_changing, steps_that_fit


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    """A run of up to 300 planned steps, whose length was changed up to six times, each time before its end."""
    pace, step = Pace(draw(st.integers(1, 300))), 0
    for _ in range(draw(st.integers(0, 6))):
        if (first := step + 1) >= pace.last_step:
            break
        step = draw(st.integers(first, pace.last_step - 1))
        pace.decisions[step] = step + draw(st.integers(1, 300))
    return pace


@given(paces())
def test_progress_rises_evenly_to_one_at_the_last_step(pace: Pace) -> None:
    found = [pace.progress(step) for step in range(pace.last_step + 1)]
    assert found[0] == 0
    assert found[-1] == pytest.approx(1)
    assert all(before < after for before, after in itertools.pairwise(found))
    for first, last in itertools.pairwise(sorted({0, *pace.decisions, pace.last_step})):  # straight between decisions
        slope = (found[last] - found[first]) / (last - first)
        assert found[first:last] == pytest.approx([found[first] + slope * step for step in range(last - first)])


@given(paces(), st.data())
def test_decision_changes_nothing_before_its_step(pace: Pace, data: st.DataObject) -> None:
    until = data.draw(st.integers(0, pace.last_step))
    earlier = Pace(pace.planned, {step: steps for step, steps in pace.decisions.items() if step < until})
    assert [pace.position(step) for step in range(until + 1)] == [earlier.position(step) for step in range(until + 1)]


@given(st.integers(1, 10**9), st.integers(0, 10**9), st.dictionaries(st.integers(1, 10**9), st.none()))
def test_unchanged_run_has_the_steps_themselves(planned: int, step: int, decided: dict[int, None]) -> None:
    pace = Pace(planned, dict.fromkeys(decided, planned))
    assert pace.position(step) == step
    assert isinstance(pace.position(step), int)


def test_rest_of_the_schedule_is_spread_over_the_rest_of_the_steps() -> None:
    pace = Pace(100, {40: 70})
    assert [pace.progress(step) for step in (0, 40, 55, 70)] == pytest.approx([0, 0.4, 0.7, 1])
    pace.decisions[55] = 115
    assert [pace.progress(step) for step in (40, 55, 85, 115)] == pytest.approx([0.4, 0.7, 0.85, 1])
    assert [pace.position(step) for step in (40, 55, 85)] == pytest.approx([40, 70, 85])


@given(paces(), st.sampled_from([*SCHEDULES]), st.sampled_from([*WARMUPS]), st.booleans(), st.integers(0, 40))
def test_learning_rate_never_jumps_and_ends_where_planned(
    pace: Pace, schedule: str, warmup: str, lag: bool, warmup_steps: int
) -> None:
    epoch = 1.0 if schedule == "epoch_cosine" else None  # a step: longer ones jump by themselves
    optim = OptimConfig(
        lr=1.0, min_lr=0.1, schedule=schedule, warmup=warmup, lag=lag, warmup_steps=warmup_steps, steps_per_epoch=epoch
    )  # type: ignore[arg-type]
    planned = [lr_multiplier(optim, step, pace.planned) for step in range(pace.planned + 1)]
    found = [lr_multiplier(optim, pace.position(step), pace.planned) for step in range(pace.last_step + 1)]
    assert all(0 <= value <= 1 for value in found)
    assert found[0] == planned[0]
    assert found[-1] == pytest.approx(planned[-1])
    for step, value in enumerate(found):
        low = int(pace.position(step))
        near = planned[max(0, low - 1) : low + 3]  # the schedule between the planned steps beside it
        assert min(near) - 1e-9 <= value <= max(near) + 1e-9


@given(st.integers(1, 10**6), st.floats(0, 1e7), st.floats(1e-6, 1e4), st.data())
def test_steps_fit_and_one_more_would_not(step: int, seconds: float, step_seconds: float, data: st.DataObject) -> None:
    regular = data.draw(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=2))

    def needed(steps: int) -> float:
        between = (number for every, cost in regular if every for number in [(steps - 1) // every - step // every])
        costs = (cost for every, cost in regular if every)
        return (steps - step) * step_seconds + sum(a * b for a, b in zip(between, costs, strict=True))

    found = steps_that_fit(step, seconds, step_seconds, regular)
    assert found > step
    assert found == step + 1 or needed(found) <= seconds
    assert found == 2**31 or needed(found + 1) > seconds


def test_at_least_one_more_step_is_made() -> None:
    assert steps_that_fit(5, -10.0, 1.0) == 6
    assert steps_that_fit(5, 0.5, 1.0) == 6
    assert steps_that_fit(5, 3.2, 1.0) == 8
    assert steps_that_fit(5, 3.2, 1.0, [(7, 1.0)]) == 7  # the evaluation after the last step is not one between them
    assert steps_that_fit(5, 1e30, 1e-30) == 2**31


@given(st.integers(9, 10**9))
def test_decisions_are_dense_at_both_ends(planned: int) -> None:
    pace, due = Pace(planned), []
    while (after := max(pace.decisions, default=0)) < planned - 1:
        steps = range(after + 1, planned)
        due.append(steps[bisect.bisect_left(steps, True, key=pace.is_due)])
        pace.decisions[due[-1]] = planned
    assert due[:3] == [1, 2, 4]
    assert due[-2:] == [planned - 2, planned - 1]
    assert len(due) < 100
    assert not any(pace.is_due(step) for step in (*due, planned, planned + 1))


def test_process_that_goes_on_decides_soon() -> None:
    pace = Pace(1000, {1: 1000, 2: 1000, 400: 900}, start=500)
    assert [step for step in (500, 501, 502, 503) if pace.is_due(step)] == [501, 502, 503]
    pace.decisions |= {501: 900, 502: 900}
    assert not pace.is_due(503)
    assert pace.is_due(504)
    pace.start = 450  # after a rollback: what was decided for later stays
    assert not pace.is_due(502)
    assert pace.is_due(554)


def test_small_differences_change_nothing_but_every_step_counts_at_the_end() -> None:
    assert not is_worth_changing(100, 1100, 1105)
    assert is_worth_changing(100, 1100, 1111)
    assert is_worth_changing(1095, 1100, 1101)
    assert is_worth_changing(1099, 1100, 1101)


def test_decisions_made_since_stay_when_earlier_ones_are_replayed() -> None:
    pace = Pace(100, {8: 90})
    pace.replay({4: 120, 8: 50})
    assert pace.decisions == {4: 120, 8: 90}
    assert pace.last_step == 90
