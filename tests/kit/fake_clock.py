"""A clock that only training moves: each step, evaluation and sample takes as long as a test says, on any machine."""

import time
from collections.abc import Callable
from typing import Any

from fledge.checkpoint import async_saver
from fledge.evaluation.validation import Validation
from fledge.training.pretraining import Pretraining
from fledge.training.step import BatchGradient, TrainStep


class FakeClock:
    """In place of time.perf_counter: `patch` is setattr, or that of pytest's monkeypatch.

    step_seconds: step (counted from 0) → seconds. evaluation: of the sample; the whole split takes longer by its size.
    """

    def __init__(
        self,
        patch: Callable[[Any, str, Any], None],
        step_seconds: Callable[[int], float],
        evaluation: float = 0.0,
        sampling: float = 0.0,
    ) -> None:
        self.now = 1000.0
        patch(time, "perf_counter", lambda: self.now)
        patch(async_saver, "free_memory", lambda _: 0)  # training waits for each save: none goes on while it moves
        attempt, evaluate, sample = TrainStep._attempt, Validation._evaluate, Pretraining.sample

        def slow_attempt(train_step: TrainStep, step: int) -> BatchGradient:
            self.now += step_seconds(step)
            return attempt(train_step, step)

        def slow_evaluate(validation: Validation, *, sampled: bool) -> Any:
            self.now += evaluation * (1 if sampled else validation.split_tokens / validation.tokens)
            return evaluate(validation, sampled=sampled)

        def slow_sample(*given: Any) -> Any:
            self.now += sampling
            return sample(*given)

        patch(TrainStep, "_attempt", slow_attempt)
        patch(Validation, "_evaluate", slow_evaluate)
        patch(Pretraining, "sample", slow_sample)
