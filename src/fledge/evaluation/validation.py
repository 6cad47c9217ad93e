"""The evaluations of a training run: on a sample of the validation split at fixed steps, on the whole split at the end.

`val/loss` is that of the sample in the whole run, so its curve can be compared with itself; the whole split has names
of its own (`val_whole/loss`, `val_best/loss`).
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fledge.checkpoint.state import Tensors, load_weights, weights_of
from fledge.core.device import Machine
from fledge.core.distributed import to_local
from fledge.datasets.shards import Dataset
from fledge.datasets.splits import small_validation_warning
from fledge.evaluation.loss import LossResult, evaluate_loss
from fledge.evaluation.sample import sample_windows, windows
from fledge.evaluation.schedule import WHOLE_SPLIT_PASSES, evaluates_whole_split
from fledge.model.gpt import GPT
from fledge.tokenizers.base import byte_lengths

WHOLE, BEST = "val_whole", "val_best"  # groups of metrics: the last weights, and those of the best checkpoint


@dataclass(frozen=True)
class Schedule:
    steps: int
    step_tokens: int
    every: int  # steps between evaluations; 0: never
    tokens: int | None  # of the sample; None: the whole split


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. The checkpoint with the lowest `loss` is the best one."""

    loss: float  # of a method that maximizes a reward: minus the reward
    metrics: Mapping[str, float]  # val/loss, val/reward, …


class Validation:
    """`interruptible` wraps the loop over batches, and raises out of it when the run shall stop."""

    def __init__(
        self,
        model: GPT,
        dataset: Dataset,
        machine: Machine,
        schedule: Schedule,
        interruptible: Callable[[Sequence[int]], Iterable[int]],
    ) -> None:
        self.model, self.machine, self.schedule, self._interruptible = model, machine, schedule, interruptible
        self._active = bool(schedule.every) and "val" in dataset.available_splits
        if self._active:
            self._split, self._byte_lengths = dataset.split("val"), byte_lengths(dataset.tokenizer)
            length, context = len(self._split), model.config.context
            self.split_tokens = length - 1
            every_window = windows(length, context)
            wanted = schedule.tokens or length
            self._sample = sample_windows(length, context, wanted) if wanted < length else every_window
            self.tokens = sum(count for _, count in self._sample)

    @property
    def is_sampled(self) -> bool:
        return self._active and self.tokens < self.split_tokens

    @property
    def whole_split_passes(self) -> float:
        """What the passes over the whole split at the end cost at most, in evaluations of the sample."""
        if not (self.is_sampled and self.evaluates_whole_split):
            return 0.0
        return WHOLE_SPLIT_PASSES * self.split_tokens / self.tokens

    @property
    def evaluates_whole_split(self) -> bool:
        schedule = self.schedule
        return self._active and evaluates_whole_split(schedule.steps, schedule.step_tokens, self.split_tokens)

    @property
    def every(self) -> int:
        return self.schedule.every if self._active else 0

    def notices(self) -> Iterator[str]:
        """What is evaluated; printed before training."""
        if not self._active:
            return
        every = f"every {self.schedule.every:,} steps" if self.schedule.every > 1 else "every step"
        if self.is_sampled:
            end = "the whole split at the end" if self.evaluates_whole_split else "the whole split: fledge eval"
            yield f"val is a sample of {self.tokens:,} of {self.split_tokens:,} tokens, {every}; {end}"
        elif warning := small_validation_warning(self.split_tokens):
            yield f"warning: {warning}"

    def evaluate(self) -> Evaluation:
        """On the sample."""
        begun = time.perf_counter()
        found = self.evaluate_sample()
        about = {"val/tokens": found.tokens, "val/fraction": found.fraction, "val/seconds": time.perf_counter() - begun}
        return Evaluation(found.loss, {**found.metrics(), **about})

    def evaluate_sample(self) -> LossResult:
        return self._evaluate(sampled=True)

    def evaluate_whole(self, weights: Tensors | None = None) -> LossResult:
        """On the whole split; `weights`: of another checkpoint. The model keeps its own."""
        if weights is None:
            return self._evaluate(sampled=False)
        with other_weights(self.model, weights):
            return self._evaluate(sampled=False)

    def _evaluate(self, *, sampled: bool) -> LossResult:
        sample = self._sample if sampled else None
        return evaluate_loss(
            self.model, self._split, self._byte_lengths, self.machine, progress=self._interruptible, sample=sample
        )


@contextlib.contextmanager
def other_weights(model: GPT, weights: Tensors) -> Iterator[None]:
    """The model has these weights in the block, and its own again after it, bit for bit."""
    held = {name: to_local(weight).clone() for name, weight in weights_of(model).items()}
    try:
        load_weights(model, weights)
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights_of(model).items():
                to_local(weight).copy_(held[name])
