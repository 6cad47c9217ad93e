"""The loop calls hooks in order after the steps that they are due at, and ends early on a signal."""

import os
import signal
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from fledge.core.distributed import SINGLE_PROCESS
from fledge.core.signals import StopSignals
from fledge.training.divergence import DivergenceMonitor
from fledge.training.loop import Hook, every, train_loop
from fledge.training.step import StepResult


@dataclass
class Counting:
    """In place of a TrainStep."""

    loss: float = 1.0

    def __call__(self, step: int) -> StepResult:
        return StepResult(step + 1, self.loss + step / 1000, 0.01, 1.0, 8, 0.1)


def monitor() -> DivergenceMonitor:
    return DivergenceMonitor(2.0, lambda *_: None)


@given(start=st.integers(0, 20), length=st.integers(1, 20), n=st.integers(0, 7))
def test_hook_runs_after_each_nth_step_and_the_last(start: int, length: int, n: int) -> None:
    stop, seen = start + length, []
    train_loop(
        Counting(),
        start,
        [every(n, lambda result: seen.append(result.step), is_last=lambda step: step == stop)],
        StopSignals(SINGLE_PROCESS),
        monitor(),
        lambda step: step == stop,
    )
    assert seen == [step for step in range(start + 1, stop + 1) if n and (step % n == 0 or step == stop)]


def test_hooks_run_in_order() -> None:
    seen: list[str] = []
    hooks = [Hook(lambda _, name=name: seen.append(name), lambda _: True) for name in "abc"]
    train_loop(Counting(), 0, hooks, StopSignals(SINGLE_PROCESS), monitor(), lambda step: step == 2)
    assert seen == list("abcabc")


def test_hook_may_move_the_last_step() -> None:
    last, seen = [9], []

    def move(result: StepResult) -> None:
        seen.append(result.step)
        last[0] = {3: 5, 4: 7}.get(result.step, last[0])

    train_loop(Counting(), 0, [every(1, move)], StopSignals(SINGLE_PROCESS), monitor(), lambda step: step >= last[0])
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_signal_ends_the_loop_after_the_hooks() -> None:
    seen = []

    def stop_at_three(result: StepResult) -> None:
        seen.append(result.step)
        if result.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals(SINGLE_PROCESS) as signals:
        end = train_loop(Counting(), 0, [every(1, stop_at_three)], signals, monitor(), lambda step: step == 10)
    assert seen == [1, 2, 3]
    assert end.last is not None
    assert end.last.step == 3
    assert not end.pending_hooks
    assert signals.received == signal.SIGTERM
