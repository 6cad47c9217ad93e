"""The loss: how surprised the model is by the tokens that really came.

Always a sum and a count, never a mean: sums from micro-batches, ranks and evaluation windows add up to the same
number however the work was split, and the mean is taken once, at the very end.

The readable one, summed_cross_entropy, takes all scores at once. loss_in_portions has the head in it: scores are made
for some tokens, used for the loss and at once for its gradient, and forgotten. So nothing is computed twice, and a
large vocabulary takes no room.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # a target that asks nothing: padding, or the end of the text


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [B, T, V], targets [B, T] → nats, summed over every valid target."""
    flat = logits.flatten(0, -2).float()  # softmax over a vocabulary wants all 24 bits
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def count_valid(targets: Tensor) -> Tensor:
    return (targets != IGNORE).sum()


@dataclass(frozen=True)
class Straight:
    """Scores are what the head's matrix gives."""

    def bend(self, scores: Tensor) -> Tensor:
        return scores

    def unbend(self, slope: Tensor, _: Tensor) -> Tensor:
        """A gradient towards bent scores → the one towards what they were bent from."""
        return slope


@dataclass(frozen=True)
class Capped:
    """No score goes beyond ±cap."""

    cap: float

    def bend(self, scores: Tensor) -> Tensor:
        return self.cap * (scores / self.cap).tanh()

    def unbend(self, slope: Tensor, bent: Tensor) -> Tensor:
        return slope * (1 - (bent / self.cap).square())


@dataclass(frozen=True)
class Portions:
    """How the loss is cut: `rows` tokens at once, products in `dtype`."""

    rows: int
    dtype: torch.dtype
    shape: Straight | Capped


def loss_in_portions(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Portions) -> Tensor:
    """hidden [B, T, C], the head's weight [V, C] and bias [V], targets [B, T] → nats, as summed_cross_entropy says."""
    return _InPortions.apply(hidden.flatten(0, -2), weight, bias, targets.flatten(), how)  # type: ignore[no-untyped-call]


class _InPortions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: Portions
    ) -> Tensor:
        nats, by_hidden, by_weight = torch.zeros((), device=hidden.device), [], torch.zeros_like(weight)
        by_bias = None if bias is None else torch.zeros_like(bias)
        matrix, shift = weight.to(how.dtype), None if bias is None else bias.to(how.dtype)
        for x, wanted in zip(hidden.to(how.dtype).split(how.rows), targets.split(how.rows), strict=True):
            scores = how.shape.bend(F.linear(x, matrix, shift))  # [rows, V]
            surprise, slope = _surprise(scores, wanted)
            slope = how.shape.unbend(slope.to(how.dtype), scores)
            nats += surprise
            by_hidden.append((slope @ matrix).to(hidden.dtype))
            by_weight += slope.mT @ x  # gathered in float32
            if by_bias is not None:
                by_bias += slope.sum(0)
        ctx.save_for_backward(torch.cat(by_hidden), by_weight, by_bias)
        return nats

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        by_hidden, by_weight, by_bias = ctx.saved_tensors
        return above * by_hidden, above * by_weight, None if by_bias is None else above * by_bias, None, None


def _surprise(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats, summed, and their gradient towards the scores [n, V]: what was expected, less what came."""
    valid = targets != IGNORE
    came = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    expected = scores.float().log_softmax(-1)
    nats = -(expected[came] * valid).sum()
    slope = expected.exp_()
    slope[came] -= 1
    return nats, slope.mul_(valid.unsqueeze(-1))
