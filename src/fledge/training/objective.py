"""Objectives: what training minimizes. A model and a batch → summed loss, count and metrics.

Sums and counts, never means: micro-batches and ranks add up to the same number however the batch was split, and the
step divides once, by the count of the whole global batch. A new objective (supervised fine-tuning, DPO, reinforcement
learning) needs its batches, with what it reads in `Batch.extra`; step, micro-batches, compile, DDP and FSDP stay.

    class WeightedCrossEntropy:
        def count(self, batch):
            return batch.extra["weights"].sum()

        def __call__(self, model, batch):
            nats = F.cross_entropy(model(batch.inputs).mT, batch.targets, reduction="none")
            return LossSum((nats * batch.extra["weights"]).sum(), self.count(batch))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.losses.cross_entropy import ChunkedLoss, SampledLoss, count_valid, full_logits_loss
from fledge.model.flops import LOSS_CHUNK_TOKENS
from fledge.model.gpt import GPT, HeadLoss


@dataclass(frozen=True)
class LossSum:
    """Of one micro-batch on one rank; the loss of a global batch is Σ total / Σ count."""

    total: Tensor  # scalar with a gradient
    count: Tensor  # scalar
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # name → (total, count) likewise


class Objective(Protocol):
    """Its loss must be a sum over the rows of the batch, so that the batch can be split."""

    def count(self, batch: Batch, /) -> Tensor:
        """What the loss of this batch is divided by. Called before the forward pass, so it cannot use the model."""

    def __call__(self, model: GPT, batch: Batch, /) -> LossSum: ...


@dataclass(frozen=True)
class NextTokenObjective:
    """Cross-entropy of the next token in nats, per valid target."""

    head_loss: HeadLoss = field(default=full_logits_loss)

    def count(self, batch: Batch) -> Tensor:
        return count_valid(batch.targets)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        return LossSum(model.forward_loss(batch.inputs, batch.targets, self.head_loss), self.count(batch))


def next_token_objective(
    machine: Machine, *, chunked: bool = False, sampled: int = 0, compile: bool = False
) -> NextTokenObjective:
    """chunked: compute the logits for a chunk of tokens at a time; sampled: only those of the targets and so many."""
    if not chunked and not sampled:
        return NextTokenObjective()
    head_loss: HeadLoss = ChunkedLoss(LOSS_CHUNK_TOKENS, machine.torch_dtype)
    if sampled:
        head_loss = SampledLoss(sampled, LOSS_CHUNK_TOKENS, machine.torch_dtype)
    return NextTokenObjective(torch.compiler.disable(head_loss) if compile else head_loss)
