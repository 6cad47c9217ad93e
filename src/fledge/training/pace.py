"""How many steps a run has, where that is decided while it trains (time_limit.py), and where the schedule stands.

A decision after step s says how many steps the run has in all. What is left of the schedule is then spread over the
steps that are left, so the learning rate never jumps:

    progress 1 |             /     planned: 100 steps
               |           /       after step 40: 70 steps, so the other 0.6 of the schedule take 30 steps
           0.4 |      . `
               | . `
               +------+------+
                     40     70
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fledge.core.config import MAX_COUNT

NEXT_DECISION = 0.3  # of the steps that are left are made until the next one
TOLERANCE = 0.01  # of the steps that are left: a smaller difference changes nothing


@dataclass
class Pace:
    """The planned number of steps, and what has been decided since: after step → steps in all."""

    planned: int
    decisions: dict[int, int] = field(default_factory=dict)
    start: int = 0  # the step after which this process began, or went on after a rollback

    @property
    def last_step(self) -> int:
        return self.decisions[max(self.decisions)] if self.decisions else self.planned

    def progress(self, step: int) -> float:
        """The part of the schedule that is done after so many steps: from 0 to 1 at the last step."""
        done, at, steps = 0.0, 0, self.planned
        for decided, total in sorted(self.decisions.items()):
            if decided >= step:
                break
            if total != steps:
                done, at, steps = done + (1 - done) * min(1.0, (decided - at) / (steps - at)), decided, total
        return min(1.0, done + (1 - done) * (step - at) / (steps - at))

    def position(self, step: int) -> float:
        """The step of the planned schedule that this one takes the place of; itself, before anything was changed."""
        changed = any(total != self.planned for decided, total in self.decisions.items() if decided < step)
        return self.progress(step) * self.planned if changed else step

    def is_due(self, step: int) -> bool:
        """Whether there is something to decide after this step: the first, second, fourth, eighth, … of this process,
        and more and more often towards the end."""
        last_step, before = self.last_step, max(self.start, *self.decisions, 0)
        interval = max(1, min(before - self.start, math.ceil(NEXT_DECISION * (last_step - before))))
        return before + interval <= step < last_step

    def replay(self, decisions: Mapping[int, int]) -> None:
        """Decisions that were made before the run was stopped or killed; those made since stay."""
        self.decisions = {**decisions, **self.decisions}


def steps_that_fit(step: int, seconds: float, step_seconds: float, regular: Sequence[tuple[int, float]] = ()) -> int:
    """How many steps a run can have in all, if `seconds` are left for those after `step`; at least one more.

    regular: what is done between them, as (every so many steps, seconds).
    """

    def needed(steps: int) -> float:
        between = sum(cost * ((steps - 1) // every - step // every) for every, cost in regular if every)
        return (steps - step) * step_seconds + between

    possible = range(step + 1, MAX_COUNT + 1)
    return step + max(1, bisect.bisect_right(possible, seconds, key=needed))


def is_worth_changing(step: int, before: int, after: int) -> bool:
    """Whether a run of `before` steps should have `after`, as found after `step`."""
    return abs(after - before) > TOLERANCE * (before - step)
