"""The training loop: step after step, with hooks between them.

The loop knows nothing of evaluation, samples, checkpoints or terminals: those are hooks, called after the steps at
which they are due, in the order given.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fledge.core.signals import StopRequested, StopSignals
from fledge.training.divergence import DivergenceMonitor
from fledge.training.step import StepResult


@dataclass(frozen=True)
class Hook:
    call: Callable[[StepResult], None]
    is_due: Callable[[int], bool]


def every(n: int, call: Callable[[StepResult], None], *, is_last: Callable[[int], bool] = lambda _: False) -> Hook:
    """After each n-th step and after the last; never if n is 0."""
    return Hook(call, lambda step: bool(n) and (step % n == 0 or is_last(step)))


@dataclass(frozen=True)
class RunEnd:
    """Where the loop ended. `pending_hooks`: a signal came before all hooks of the last step had run."""

    last: StepResult | None
    pending_hooks: bool = False


def train_loop(
    train_step: Callable[[int], StepResult],
    start: int,
    hooks: Sequence[Hook],
    signals: StopSignals,
    monitor: DivergenceMonitor,
    is_last: Callable[[int], bool],
) -> RunEnd:
    """Updates start + 1, start + 2, … until a step is the last, a signal requests a stop, or the monitor raises.

    Which step is the last may change while the loop runs.
    """
    result = None
    for step in itertools.count(start):
        result = train_step(step)
        monitor.check(result)
        try:
            call_hooks(hooks, result)
        except StopRequested:
            return RunEnd(result, pending_hooks=True)
        if is_last(result.step) or signals.requested():
            break
    return RunEnd(result)


def call_hooks(hooks: Sequence[Hook], result: StepResult) -> None:
    for hook in hooks:
        if hook.is_due(result.step):
            hook.call(result)
