"""Detects divergence and lack of progress from the loss, gradient norm and weights of every step."""

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fledge.training.step import StepResult

MAX_SKIPPED = 3  # steps without an update
STUCK_STEPS = 5  # updates in a row that change nothing
ACTIVE_LR = 0.01  # of the peak learning rate: below it, at the end of a schedule, weights may stand still
WINDOW, MIN_LOSSES = 50, 10  # losses whose median is the usual loss, and how many are needed
COMPILER_HINT = "try --train.compile false, then --model.attention readable: one of them may compute wrongly here"
LR_HINT = "use a larger --optim.lr; if that does not help, try --train.compile false"


class Diverged(Exception):
    """Training cannot continue from here; from an earlier checkpoint, without these batches, it may."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class NotLearning(Exception):
    """Updates change nothing. No earlier checkpoint would help."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason, self.hint = reason, hint


@dataclass
class DivergenceMonitor:
    """Checks the numbers of every step. The trainer decides what to do about an exception.

    non-finite loss or gradient in three steps in a row             →  Diverged
    a loss more than `loss_spike` nats above the median             →  Diverged
    gradients of exactly zero, or the same loss bits, in five steps →  NotLearning
    weights that five updates did not change                        →  NotLearning
    """

    loss_spike: float  # 0: no limit
    report: Callable[[StepResult, str], None]  # called with every anomaly and its reason
    initial_lr: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))  # losses
    skipped: int = 0  # updates, in a row
    zero_gradients: int = 0  # in a row
    same_losses: int = 0  # in a row
    weights: tuple[int, int] | None = None  # the last checksum that was new, and its step

    @property
    def healthy(self) -> bool:
        """Whether the last step made an update."""
        return not self.skipped

    def check(self, result: StepResult) -> None:
        if not result.is_finite:
            self.skipped += 1
            self.report(result, "not finite: the update was skipped")
            if self.skipped == MAX_SKIPPED:
                finite = math.isfinite(result.loss)
                which = f"the gradient became {result.grad_norm}" if finite else f"the loss became {result.loss}"
                raise Diverged(
                    result.step, f"{which} at step {result.step - MAX_SKIPPED + 1}, for three consecutive steps"
                )
            return
        self.skipped = 0
        self._check_progress(result)
        usual = statistics.median(self.recent) if len(self.recent) >= MIN_LOSSES else math.inf
        self.recent.append(result.loss)
        if self.loss_spike and result.loss > usual + self.loss_spike:
            self.report(result, f"loss spike: the recent median is {usual:.2f}")
            raise Diverged(result.step, f"the loss jumped from {usual:.2f} to {result.loss:.2f} at step {result.step}")

    def _check_progress(self, result: StepResult) -> None:
        learning = result.tokens > 0 and self._is_active(result)
        self.zero_gradients = self.zero_gradients + 1 if learning and result.grad_norm == 0.0 else 0
        same = learning and bool(self.recent) and 0.0 != result.loss == self.recent[-1]
        self.same_losses = self.same_losses + 1 if same else 0
        if self.zero_gradients == STUCK_STEPS and result.loss != 0.0:
            self._give_up(result, f"the gradient was exactly zero in {STUCK_STEPS} steps", COMPILER_HINT)
        if self.same_losses == STUCK_STEPS:
            self._give_up(result, f"the loss was exactly {result.loss} in {STUCK_STEPS + 1} steps", LR_HINT)

    def check_weights(self, result: StepResult, checksum: int) -> None:
        """Called after any step, with the `checksum` of all weights."""
        active = result.is_finite and self._is_active(result)
        if self.weights is None or self.weights[0] != checksum or not active:
            self.weights = checksum, result.step
        elif result.step - self.weights[1] >= STUCK_STEPS:
            self._give_up(result, f"the weights did not change in {result.step - self.weights[1]} updates", LR_HINT)

    def _is_active(self, result: StepResult) -> bool:
        return result.lr >= ACTIVE_LR * self.initial_lr

    def _give_up(self, result: StepResult, reason: str, hint: str) -> None:
        self.report(result, reason)
        raise NotLearning(f"the model does not learn: {reason}, up to step {result.step}", hint)

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.skipped = deque(state.get("recent", []), maxlen=WINDOW), state.get("skipped", 0)
