"""One step: the gradient of one global batch, and one update of the weights.

batch → micro-batches → summed loss of each, over the batch's count of valid tokens → backward, gradients add up
      → clip → learning rate of this step → update
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.loss import count_valid
from fledge.model.gpt import GPT


@dataclass(frozen=True)
class StepResult:
    """What one update tells. `step` counts finished updates: the first one gives step 1."""

    step: int
    loss: float  # nats per token, over the whole batch
    lr: float
    grad_norm: float  # before clipping
    tokens: int  # that this step learned from
    seconds: float


@dataclass
class Stepper:
    """Everything one update needs. Calling it makes the update."""

    model: GPT
    loss: Callable[[Tensor, Tensor], Tensor]  # inputs, targets → summed loss
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], list[Batch]]  # update number from 0 → its micro-batches
    multiplier: Callable[[int], float]  # update number from 0 → share of the peak learning rate
    peak: float
    clip: float

    def __call__(self, step: int) -> StepResult:
        """Update number `step`, counted from 0."""
        begin = time.perf_counter()
        micro_batches = self.batches(step)
        valid = torch.stack([count_valid(batch.targets) for batch in micro_batches]).sum()
        total = torch.zeros((), device=valid.device)
        self.model.train()
        for batch in micro_batches:
            loss = self.loss(batch.inputs, batch.targets) / valid
            loss.backward()
            total += loss.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip or float("inf"))
        height = self.multiplier(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * height
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        lr = self.peak * height
        return StepResult(step + 1, float(total), lr, float(grad_norm), int(valid), time.perf_counter() - begin)
