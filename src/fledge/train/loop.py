"""Many steps, and those who want to hear of them.

The loop knows nothing of evaluation, samples, checkpoints or screens: they are hooks, called after the steps
they asked for, in the order they were given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fledge.train.guard import Guard, StopAsked, StopSignals
from fledge.train.step import Stepper, StepResult


@dataclass(frozen=True)
class Hook:
    call: Callable[[StepResult], None]
    due: Callable[[int], bool]


def every(n: int, call: Callable[[StepResult], None], *, last: int | None = None) -> Hook:
    """After each n-th step, and after step `last`; never where n is 0."""
    return Hook(call, lambda step: bool(n) and (step % n == 0 or step == last))


@dataclass(frozen=True)
class End:
    """Where the loop ended. `owed`: the last step was made, but a signal came before all its hooks were through."""

    last: StepResult | None
    owed: bool = False


def fit(stepper: Stepper, start: int, stop: int, hooks: Sequence[Hook], signals: StopSignals, guard: Guard) -> End:
    """Updates start + 1 … stop, unless a signal asks for an earlier end, or the guard for another way."""
    result = None
    for step in range(start, stop):
        result = stepper(step)
        guard.look(result)
        try:
            call_hooks(hooks, result)
        except StopAsked:
            return End(result, owed=True)
        if signals.asked():
            break
    return End(result)


def call_hooks(hooks: Sequence[Hook], result: StepResult) -> None:
    for hook in hooks:
        if hook.due(result.step):
            hook.call(result)
