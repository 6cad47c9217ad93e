"""Keeps a run within its time, `train.minutes`: counts what is used, and decides how many steps still fit.

Each decision is an event on disk before it acts. A checkpoint holds those up to its step; a resumed run takes those
after it from events.jsonl, and decides anew after the last of them. So no clock enters a run that is repeated.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.core.distributed import World
from fledge.core.files import sync_file
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Event, StepsPlanned
from fledge.tracking.sinks.jsonl import EVENTS, read_events
from fledge.training.config import TrainConfig
from fledge.training.pace import Pace, is_worth_changing, steps_that_fit
from fledge.training.step_time import StepTime

WINDOW = 8  # steps, at least, whose mean time is that of the steps to come, where so many were made
EXIT_SECONDS = 0.6  # from the end of training to the end of the process
ASIDE = ("evaluation", "sampling")  # parts of the time that are counted apart from the steps


@dataclass(frozen=True)
class EndCosts:
    """What is still to be done after the last step, besides an evaluation and a sample, in seconds or evaluations."""

    saving: float
    whole_split: float  # in evaluations of the sample


class TimeLimit:
    """Of a run with `train.minutes`; for one without, it decides nothing.

    begun: when the command began, on the clock time.perf_counter; None: now.
    """

    def __init__(
        self, run: RunFolder, train: TrainConfig, world: World, step_time: StepTime, begun: float | None = None
    ) -> None:
        self.run, self.train, self.world, self._step_time = run, train, world, step_time
        self.pace = Pace(train.steps)
        self.elapsed = 0.0  # seconds that the run has used, in earlier processes too
        self._counted_until = time.perf_counter() if begun is None else begun
        self._marks: list[tuple[int, float]] = []  # step, and when it ended on a clock that stands still aside of steps

    @property
    def active(self) -> bool:
        return self.train.minutes is not None

    def replay(self, step: int) -> None:
        """Begin after `step`, with the decisions that events.jsonl has from earlier processes. A collective."""
        self.pace.start = step
        if self.active:
            found = json.loads(self.world.broadcast_from_main(lambda: json.dumps(recorded_decisions(self.run, step))))
            self.pace.replay(dict(found))

    def update(self, step: int, ends: Callable[[], EndCosts], record: Callable[[Event], None]) -> None:
        """After every step; a collective. The event is on disk before the decision counts."""
        self._count(step)
        if not self.pace.is_due(step):
            return

        def decide() -> str:
            event = self._decide(step, ends())
            record(event)
            sync_file(self.run.folder / EVENTS)
            return str(event.steps)

        self.pace.decisions[step] = int(self.world.broadcast_from_main(decide))
        self._marks.append((step, self._stepping_clock()))

    def restart(self, step: int) -> None:
        """Training goes on after an earlier step: that of the checkpoint of a rollback."""
        self.pace.start = step
        self._marks.clear()

    def _count(self, step: int) -> None:
        now = time.perf_counter()
        self.elapsed, self._counted_until = self.elapsed + now - self._counted_until, now
        if not self._marks:  # the first step of a process compiles and allocates: it is not counted
            self._marks.append((step, self._stepping_clock()))

    def _stepping_clock(self) -> float:
        return self._counted_until - sum(self._step_time.total[part] for part in ASIDE)

    def _decide(self, step: int, ends: EndCosts) -> StepsPlanned:
        assert self.train.minutes is not None
        before = self.pace.last_step
        evaluation, sampling = (self._step_time.mean(part) for part in ASIDE)
        after_last = ends.saving + (1 + ends.whole_split) * evaluation + sampling + EXIT_SECONDS
        left = 60 * self.train.minutes - self.elapsed - after_last
        seconds = self._step_seconds(step, before - step)
        if seconds is None:
            return StepsPlanned(step, before if left > 0 else step + 1, before, left, 0.0)
        regular = ((self.train.eval_every or 0, evaluation), (self.train.sample_every, sampling))
        found = steps_that_fit(step, left, seconds, regular)
        allowed = min(found, max(step + 1, self.train.step_limit or found))
        steps = allowed if is_worth_changing(step, before, allowed) else before
        return StepsPlanned(step, steps, before, left, seconds, allowed < found)

    def _step_seconds(self, step: int, window: int) -> float | None:
        """The mean of about so many recent steps; None: the first one of a process is not counted."""
        now, wanted = self._stepping_clock(), step - max(WINDOW, window)
        last, at = next((mark for mark in reversed(self._marks) if mark[0] <= wanted), self._marks[0])
        return (now - at) / (step - last) if step > last else None

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed, "decisions": sorted(self.pace.decisions.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """When a run rolls back, time does not; and what was decided stays, as it will be when it is resumed."""
        self.elapsed = max(self.elapsed, state.get("elapsed", 0.0))
        self.pace.replay(dict(state.get("decisions", ())))


def recorded_decisions(run: RunFolder, after: int) -> Sequence[tuple[int, int]]:
    """(step, steps in all) of each decision in events.jsonl, from step `after` on."""
    events = read_events(run.folder, StepsPlanned)
    found = ((event["step"], event["steps"]) for event in events)
    return [(step, steps) for step, steps in found if step >= after and isinstance(steps, int) and steps > step]
