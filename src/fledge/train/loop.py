"""Many steps, and those who want to hear of them.

The loop knows nothing of evaluation, samples, checkpoints or screens: they are hooks, called after the steps
they asked for, in the order they were given.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fledge.train.guard import StopSignals, refuse_nonfinite
from fledge.train.step import Stepper, StepResult


@dataclass(frozen=True)
class Hook:
    call: Callable[[StepResult], None]
    due: Callable[[int], bool]


def every(n: int, call: Callable[[StepResult], None], *, last: int | None = None) -> Hook:
    """After each n-th step, and after step `last`; never where n is 0."""
    return Hook(call, lambda step: bool(n) and (step % n == 0 or step == last))


def fit(stepper: Stepper, start: int, stop: int, hooks: Iterable[Hook], signals: StopSignals) -> StepResult | None:
    """Updates start + 1 … stop. Returns the last one made: `stop`, unless a signal asked for an earlier end."""
    hooks = list(hooks)
    result = None
    for step in range(start, stop):
        result = stepper(step)
        refuse_nonfinite(result)
        for hook in hooks:
            if hook.due(result.step):
                hook.call(result)
        if signals.received is not None:
            break
    return result
