"""Detects divergence and lack of progress from the numbers of every step."""

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fledge.training.step import StepResult

MAX_SKIPPED = 3  # steps without an update
STUCK_STEPS = 5  # updates in a row that change nothing
FULL_RATE = 0.01  # of the peak learning rate: below it, where a schedule ends, weights may well stand still
USUAL, ENOUGH = 50, 10  # losses that tell what is usual, and how many of them are needed


COMPILER_HINT = "try --train.compile false, then --model.attention readable: one of them may compute wrongly here"
RATE_HINT = "a larger --optim.lr; with that ruled out, try --train.compile false"


class Diverged(Exception):
    """Going on makes no sense from here; from an earlier checkpoint, and past this text, it may."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step, self.what = step, what


class NotLearning(Exception):
    """Updates are made and change nothing. No earlier checkpoint would help."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass
class DivergenceMonitor:
    """Looks at the numbers of every step. Knows nothing of checkpoints: what to do about it is decided elsewhere.

    no number      →  the stepper has made no update; three in a row    →  Derailed
    a loss that leaps above what is usual by `leap` nats                →  Derailed
    a gradient of exactly zero, or the same loss to the bit, five times →  NotLearning
    weights that five updates leave as they were                        →  NotLearning
    """

    leap: float
    report: Callable[[StepResult, str], None]  # a step that went wrong, and how
    peak: float = 0.0  # of the learning rate
    moving: bool = True  # whether this loss must change: that of a policy gradient need not
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=USUAL))  # losses
    skipped: int = 0  # in a row
    zero_gradients: int = 0  # in a row
    same_losses: int = 0  # in a row
    weights: tuple[int, int] | None = None  # the last checksum that was new, and the step that it was seen at

    def look(self, result: StepResult) -> None:
        if not result.is_finite:
            self.skipped += 1
            self.report(result, "no number: no update was made")
            if self.skipped == MAX_SKIPPED:
                finite = math.isfinite(result.loss)
                which = f"the gradient became {result.grad_norm}" if finite else f"the loss became {result.loss}"
                raise Diverged(result.step, f"{which} at step {result.step - MAX_SKIPPED + 1}, and stayed so")
            return
        self.skipped = 0
        self._look_whether_it_learns(result)
        usual = statistics.median(self.recent) if len(self.recent) >= ENOUGH else math.inf
        self.recent.append(result.loss)
        if self.leap and result.loss > usual + self.leap:
            self.report(result, f"a leap: {usual:.2f} is usual")
            raise Diverged(result.step, f"the loss leapt from {usual:.2f} to {result.loss:.2f} at step {result.step}")

    def _look_whether_it_learns(self, result: StepResult) -> None:
        learning = result.tokens > 0 and result.lr >= FULL_RATE * self.peak
        self.zero_gradients = self.zero_gradients + 1 if learning and result.grad_norm == 0.0 else 0
        same = learning and self.moving and bool(self.recent) and 0.0 != result.loss == self.recent[-1]
        self.same_losses = self.same_losses + 1 if same else 0
        if self.zero_gradients == STUCK_STEPS and result.loss != 0.0:
            self._give_up(result, f"the gradient was exactly zero in {STUCK_STEPS} steps", COMPILER_HINT)
        if self.same_losses == STUCK_STEPS:
            self._give_up(result, f"the loss was {result.loss} in {STUCK_STEPS + 1} steps, to the last bit", RATE_HINT)

    def look_at_weights(self, result: StepResult, checksum: int) -> None:
        """After any step: what the updates since the last look have done to the weights."""
        learning = result.is_finite and result.lr >= FULL_RATE * self.peak
        if self.weights is None or self.weights[0] != checksum or not learning:
            self.weights = checksum, result.step
        elif result.step - self.weights[1] >= STUCK_STEPS:
            self._give_up(result, f"the weights did not change in {result.step - self.weights[1]} updates", RATE_HINT)

    def _give_up(self, result: StepResult, what: str, hint: str) -> None:
        self.report(result, what)
        raise NotLearning(f"the model does not learn: {what}, up to step {result.step}", hint)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"recent": list(self.recent), "skipped": self.skipped}

    def load_state_dict(self, memory: dict[str, Any] | None) -> None:
        memory = memory or {"recent": [], "skipped": 0}
        self.recent, self.skipped = deque(memory["recent"], maxlen=USUAL), memory["skipped"]
