"""One step: the gradient of one global batch, and one update of the weights.

batch → micro-batches → summed loss of each, over the global count → backward, gradients accumulate
      → clip → learning rate of this step → update

With train.clip_each = "micro_batch", what has accumulated so far is clipped after every backward pass.

Each rank has its share of the batch; counts, losses, metrics and gradients are summed over all ranks.

Out of memory: retry with a smaller micro-batch, where train.micro_batch is auto and there is a single process; else an
error. fp16 overflow: halve the scale and retry. Either way an update uses its whole batch. Non-finite loss or gradient:
skip the update.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.batches.sampler import SkippedBatches
from fledge.core.distributed import SINGLE_PROCESS, World, full_tensor
from fledge.core.errors import out_of_memory
from fledge.losses.cross_entropy import count_valid
from fledge.model.gpt import GPT
from fledge.training.loss_scaler import LossScaling, NoScaling
from fledge.training.objective import LossSum, NextTokenObjective, Objective
from fledge.training.step_time import StepTime


@dataclass(frozen=True)
class StepResult:
    """What one update reports. `step` counts finished updates: the first one gives step 1."""

    step: int
    loss: float  # mean over the global batch
    lr: float
    grad_norm: float  # before clipping; with train.clip_each = "micro_batch", before the last one
    tokens: int  # valid targets in the global batch
    seconds: float
    objective_metrics: dict[str, float] = field(default_factory=dict)  # each a mean over the global batch

    @property
    def is_finite(self) -> bool:
        """Whether an update was made."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def metrics(self) -> dict[str, float]:
        """What is logged of a step: name → value."""
        return {
            "train/loss": self.loss,
            "train/lr": self.lr,
            "train/grad_norm": self.grad_norm,
            "train/step_seconds": self.seconds,
            "train/tokens_per_second": self.tokens / self.seconds,
            **self.objective_metrics,
        }


class MicroBatches(Protocol):
    def __call__(self, number: int, /) -> list[Batch]:
        """The micro-batches of global batch `number`, counted from 0."""

    def shrink(self) -> None:
        """Out of memory: smaller micro-batches from now on, or a UserError."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class BatchGradient:
    """Loss and gradient norm of a global batch; every parameter has its clipped gradient."""

    loss: Tensor
    norm: Tensor  # before clipping
    tokens: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainStep:
    """Everything that one update needs. Calling it makes the update."""

    model: GPT
    loss: Callable[[Batch], LossSum]  # the objective applied to the model, with whatever wraps both
    optimizer: torch.optim.Optimizer
    batches: MicroBatches
    multiplier: Callable[[int], float]  # number of the update from 0 → factor of the initial learning rate
    initial_lr: float
    grad_clip: float
    clip_each: Literal["update", "micro_batch"] = "update"  # micro_batch: without a loss scaler, in a single process
    objective: Objective = field(default_factory=NextTokenObjective)
    loss_scaler: LossScaling = field(default_factory=NoScaling)
    world: World = SINGLE_PROCESS
    set_gradient_sync: Callable[[bool], None] = lambda _: None  # see Loss in compiled.py
    skipped: SkippedBatches = field(default_factory=SkippedBatches)
    step_time: StepTime = field(default_factory=StepTime)
    around_update: Callable[[StepResult], AbstractContextManager[None]] = lambda _: nullcontext()
    current_step: int = 0  # number of the update in progress

    def __call__(self, step: int) -> StepResult:
        """Update number `step`, counted from 0."""
        begin, self.current_step = time.perf_counter(), step
        found = self._gradient(step)
        factor = self.multiplier(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        loss, norm, tokens = float(found.loss), float(found.norm), int(found.tokens)  # waits for the GPU
        result = StepResult(step + 1, loss, self.initial_lr * factor, norm, tokens, 0.0, found.metrics)
        if result.is_finite:
            with self.around_update(result), self.step_time.measure_update():
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begin
        self.step_time.add_step(seconds)
        return replace(result, seconds=seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped_batches": self.skipped.ranges}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = SkippedBatches(tuple((first, count) for first, count in state.get("skipped_batches", ())))

    def micro_batches(self, step: int) -> list[Batch]:
        return self.batches(self.skipped.batch(step))

    def _gradient(self, step: int) -> BatchGradient:
        """Retry after out-of-memory and fp16 overflow."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                found = self._attempt(step)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.batches.shrink()
            else:
                if self.loss_scaler.accept(found.norm):
                    return found

    def _attempt(self, step: int) -> BatchGradient:
        with self.step_time.measure("data"):
            micro_batches = self.micro_batches(step)
        self.step_time.add_tokens(self.world.size * sum(batch.inputs.numel() for batch in micro_batches))
        count = self._sum(self.objective.count, micro_batches)
        tokens = self._sum(lambda batch: count_valid(batch.targets), micro_batches)
        total = torch.zeros((), device=count.device)
        metrics: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, device=count.device))
        self.model.train()
        for batch in micro_batches:
            self.set_gradient_sync(batch is micro_batches[-1])  # all-reduce once, with the last micro-batch
            found = self.loss(batch)
            loss = found.total / count
            self.loss_scaler.scale_loss(loss).backward()
            total += loss.detach()
            for name, parts in found.metrics.items():
                metrics[name] += torch.stack([part.detach() for part in parts])
            if self.clip_each == "micro_batch" and batch is not micro_batches[-1]:
                self._clip()
        self.loss_scaler.unscale_(p.grad for p in self.model.parameters() if p.grad is not None)
        norm = self._clip()
        return BatchGradient(self.world.all_reduce_sum(total), full_tensor(norm), tokens, self._means(metrics))

    def _clip(self) -> Tensor:
        """Clip the gradient; return its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip or float("inf"))

    def _sum(self, count: Callable[[Batch], Tensor], batches: list[Batch]) -> Tensor:
        """Over the micro-batches of all ranks."""
        return self.world.all_reduce_sum(torch.stack([count(batch) for batch in batches]).sum())

    def _means(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """name → [total, count] of this rank → mean over all ranks.

        A collective over one tensor of all metrics: an objective must return the same names, in the same order, on
        every rank and for every batch.
        """
        if not sums:
            return {}
        totals, counts = self.world.all_reduce_sum(torch.stack(list(sums.values()))).unbind(1)
        return dict(zip(sums, (totals / counts).tolist(), strict=True))
