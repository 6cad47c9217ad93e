"""One step: the gradient of one global batch, and one update of the weights.

batch → micro-batches → summed loss of each, over the batch's count of valid tokens → backward, gradients add up
      → clip → learning rate of this step → update

In a world each rank has its share of the batch; counts, losses and gradients add up over all of them.

Where memory, or the digits of fp16, did not suffice, the gradient is computed again, in smaller pieces or at a smaller
scale: whatever happens, an update is made of its whole batch. Of numbers that are none no update is made.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.batches.sampler import SkippedBatches
from fledge.core.distributed import SINGLE_PROCESS, World, full_tensor
from fledge.core.errors import out_of_memory
from fledge.losses.cross_entropy import count_valid
from fledge.model.gpt import GPT
from fledge.training.loss_scaler import LossScaling, NoScaling


@dataclass(frozen=True)
class StepResult:
    """What one update tells. `step` counts finished updates: the first one gives step 1."""

    step: int
    loss: float  # nats per token, over the whole batch
    lr: float
    grad_norm: float  # before clipping
    tokens: int  # that this step learned from, on all ranks
    seconds: float

    @property
    def is_finite(self) -> bool:
        """Whether an update was made."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def metrics(self) -> dict[str, float]:
        """What is logged of a step."""
        return {
            "train/loss": self.loss,
            "train/lr": self.lr,
            "train/grad_norm": self.grad_norm,
            "train/step_seconds": self.seconds,
            "train/tokens_per_second": self.tokens / self.seconds,
        }


class MicroBatches(Protocol):
    def __call__(self, number: int, /) -> list[Batch]:
        """The micro-batches of global batch `number`, counted from 0."""

    def shrink(self) -> None:
        """They were too large for the memory: smaller ones from now on, or a refusal."""

    def state_dict(self) -> int:
        """What a checkpoint keeps: how many sequences are computed at once."""

    def load_state_dict(self, size: int | None, /) -> None: ...


@dataclass(frozen=True)
class BatchGradient:
    """What is known when every parameter has its gradient, clipped."""

    loss: Tensor
    norm: Tensor  # before clipping
    valid: Tensor


@dataclass
class TrainStep:
    """Everything one update needs. Calling it makes the update."""

    model: GPT
    loss: Callable[[Tensor, Tensor], Tensor]  # inputs, targets → summed loss
    optimizer: torch.optim.Optimizer
    batches: MicroBatches
    multiplier: Callable[[int], float]  # update number from 0 → share of the peak learning rate
    peak: float
    clip: float
    scaling: LossScaling = field(default_factory=NoScaling)
    world: World = SINGLE_PROCESS
    set_gradient_sync: Callable[[bool], None] = lambda _: None  # see Loss in compiled.py
    route: SkippedBatches = field(default_factory=SkippedBatches)
    at_work: int = 0  # number of the update that is being made

    def __call__(self, step: int) -> StepResult:
        """Update number `step`, counted from 0."""
        begin, self.at_work = time.perf_counter(), step
        found = self._gradient(step)
        height = self.multiplier(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * height
        loss, norm, valid = float(found.loss), float(found.norm), int(found.valid)  # here a GPU is waited for
        result = StepResult(step + 1, loss, self.peak * height, norm, valid, 0.0)
        if result.is_finite:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)  # else the gradients stay, to be looked at
        return replace(result, seconds=time.perf_counter() - begin)

    def micro_batches(self, step: int) -> list[Batch]:
        return self.batches(self.route.batch(step))

    def _gradient(self, step: int) -> BatchGradient:
        """Again, until memory and digits suffice."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                found = self._attempt(step)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self.batches.shrink()
            else:
                if self.scaling.accept(found.norm):
                    return found

    def _attempt(self, step: int) -> BatchGradient:
        micro_batches = self.micro_batches(step)
        valid = self.world.all_reduce_sum(torch.stack([count_valid(batch.targets) for batch in micro_batches]).sum())
        total = torch.zeros((), device=valid.device)
        self.model.train()
        for batch in micro_batches:
            self.set_gradient_sync(batch is micro_batches[-1])  # all-reduce once, with the last micro-batch
            loss = self.loss(batch.inputs, batch.targets) / valid
            self.scaling.scale_loss(loss).backward()
            total += loss.detach()
        self.scaling.unscale_(p.grad for p in self.model.parameters() if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or float("inf"))
        return BatchGradient(self.world.all_reduce_sum(total), full_tensor(norm), valid)
