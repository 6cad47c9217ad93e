"""The loss: how surprised the model is by the tokens that really came.

Always a sum and a count, never a mean: sums from micro-batches, ranks and evaluation windows add up to the same
number however the work was split, and the mean is taken once, at the very end.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORE = -1  # a target that asks nothing: padding, or the end of the text


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [B, T, V], targets [B, T] → nats, summed over every valid target."""
    flat = logits.flatten(0, -2).float()  # softmax over a vocabulary wants all 24 bits
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def count_valid(targets: Tensor) -> Tensor:
    return (targets != IGNORE).sum()
