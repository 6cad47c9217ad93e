"""Early stopping: a run ends when its evaluations have not become better for `train.patience` of them in a row.

As in Lightning's EarlyStopping with min_delta = 0: only a lower value counts as better. The evaluation before the first
step counts, too. The whole state is in every checkpoint, so a resumed run stops at the same step.
"""

from dataclasses import dataclass
from typing import Any

from fledge.core.errors import UserError
from fledge.evaluation.validation import Evaluation
from fledge.tracking.events import StoppedEarly


def nothing_to_wait_for() -> UserError:
    return UserError(
        "train.patience counts evaluations, and this run has no validation split",
        "hold out text: --data.val 0.1; or do without: --train.patience null",
    )


@dataclass
class EarlyStopping:
    """Counts the evaluations since the best one."""

    patience: int | None  # None: never stop
    best: float | None = None  # None: nothing has been evaluated
    best_step: int = 0
    waited: int = 0  # evaluations since the best
    step: int = -1  # of the last evaluation

    def update(self, step: int, loss: float) -> None:
        """Once per step: the hooks of a step run again after a signal that came between them."""
        if step <= self.step:
            return
        self.step = step
        if self.best is None or loss < self.best:
            self.best, self.best_step, self.waited = loss, step, 0
        else:
            self.waited += 1

    @property
    def stopped_at(self) -> int | None:
        """The step that is the last one."""
        return self.step if self.patience is not None and self.waited >= self.patience else None

    def event(self, evaluation: Evaluation) -> StoppedEarly:
        """The message of the stop. evaluation: the last one."""
        assert self.best is not None
        if "val/reward" in evaluation.metrics:  # whose loss is minus the reward
            return StoppedEarly(self.step, self.waited, self.best_step, -self.best, "reward")
        return StoppedEarly(self.step, self.waited, self.best_step, self.best, "validation loss")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state.get("best"), state.get("best_step", 0)
        self.waited, self.step = state.get("waited", 0), state.get("step", -1)
