"""Cross-entropy in nats: minus the log-probability that the model gives to each target.

Always a sum and a count, never a mean: sums of micro-batches, ranks and evaluation windows add up to the same number
however the work was split, and the mean is taken once, at the very end.

cross_entropy_sum       logits → loss: the reference
cross_entropy_each      logits → the loss of each token
full_logits_loss        hidden vectors and the head → loss: all logits at once
ChunkedLoss             the same, one chunk of tokens at a time: its memory does not grow with the batch
SampledLoss             an estimate of it, from a part of the vocabulary: for training only
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.model.head import Head, padding, zero_padded

IGNORE = -1  # targets that do not count: padding


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [B, T, V], targets [B, T] → nats, summed over every valid target."""
    flat = logits.flatten(0, -2).float()  # a softmax over a vocabulary needs float32 precision
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def cross_entropy_each(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [B, T, V], targets [B, T] → nats of each target, 0 for padding. [B, T]"""
    flat = logits.flatten(0, -2).float()
    each = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="none")
    return each.view(targets.shape)


def count_valid(targets: Tensor) -> Tensor:
    return (targets != IGNORE).sum()


def full_logits_loss(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """hidden [B, T, C], targets [B, T] → summed loss. The fastest where the logits [B, T, V] fit; can be compiled."""
    return cross_entropy_sum(head.padded(hidden), targets)


@dataclass(frozen=True)
class ChunkedLoss:
    """hidden [B, T, C], head, targets [B, T] → summed loss, without ever holding the logits [B, T, V].

    The gradient of a chunk is computed in the forward pass, while its logits are there, so nothing is computed twice.
    torch 2.11 compiles such a function into one whose gradients are all zero: keep it out of compiled graphs.
    """

    tokens: int  # of a chunk
    dtype: torch.dtype  # of the matrix products

    def __call__(self, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        return _Chunked.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, -2), head.weight, head.bias, None, head, targets.flatten(), self.tokens, self.dtype
        )


@dataclass(frozen=True)
class SampledLoss:
    """ChunkedLoss over the targets of this batch and `others`, drawn from all other tokens, each of which counts for as
    many as were left out: an estimate of the sum over the vocabulary (sampled softmax: Jean et al., 2015).

    Its gradient is nearly as good, and where the vocabulary is large for the model the head costs a fraction. The draw
    follows from the batch, so that a step can be repeated.
    """

    others: int
    tokens: int  # of a chunk
    dtype: torch.dtype  # of the matrix products

    def __call__(self, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        targets, valid = targets.flatten(), targets.flatten() != IGNORE
        seen = targets[valid].unique()
        drawn, share = self.draw(seen, head.out_features)
        among = torch.where(valid, torch.searchsorted(seen, targets), IGNORE)  # number of each target in `seen`
        counts_for = torch.cat([torch.ones_like(seen, dtype=torch.float32), 1 / share.expand(len(drawn))])
        chosen = torch.cat([seen, drawn])
        weight, bias = head.weight[chosen], None if head.bias is None else head.bias[chosen]
        return _Chunked.apply(  # type: ignore[no-untyped-call]
            hidden.flatten(0, -2), weight, bias, counts_for.log(), head, among, self.tokens, self.dtype
        )

    def draw(self, seen: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
        """Tokens that are not in `seen`, and their share of all that are not."""
        is_other = torch.ones(vocab_size, dtype=torch.bool, device=seen.device)
        is_other[seen] = False
        others = is_other.nonzero().squeeze(1)
        count = min(len(others), self.others + padding(len(seen) + self.others))
        generator = torch.Generator().manual_seed(int(seen.sum()))
        drawn = torch.randperm(len(others), generator=generator)[:count].to(seen.device)
        return others[drawn], torch.tensor(count / max(1, len(others)), device=seen.device)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # [N, C]
        weight: Tensor,  # [V, C]
        bias: Tensor | None,  # [V]
        log_counts: Tensor | None,  # [V]: for how many tokens each counts
        head: Head,
        targets: Tensor,  # [N]
        tokens: int,
        dtype: torch.dtype,
    ) -> Tensor:
        V = weight.shape[0]
        padded_weight = zero_padded(weight, padding(V)).to(dtype)
        padded_bias = None if bias is None else zero_padded(bias, padding(V)).to(dtype)
        loss, d_hidden = torch.zeros((), device=hidden.device), torch.empty_like(hidden)
        d_weight = torch.zeros(padded_weight.shape, device=hidden.device)  # summed in float32
        d_bias = torch.zeros(padded_weight.shape[0], device=hidden.device)
        for start in range(0, len(hidden), tokens):
            chunk = slice(start, start + tokens)
            x = hidden[chunk].to(dtype)
            logits = head.cap(F.linear(x, padded_weight, padded_bias))
            chunk_loss, d_logits = _loss_and_gradient(logits[:, :V], targets[chunk], log_counts)
            d_logits = head.cap_gradient(d_logits, logits[:, :V])
            loss += chunk_loss
            d_logits = zero_padded(d_logits.to(dtype), padding(V), dim=1)
            d_hidden[chunk] = d_logits @ padded_weight
            d_weight += d_logits.mT @ x
            if bias is not None:
                d_bias += d_logits.sum(0)
        ctx.save_for_backward(d_hidden, d_weight[:V], None if bias is None else d_bias[:V])
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> Any:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        d_bias = None if d_bias is None else d_loss * d_bias
        return d_loss * d_hidden, d_loss * d_weight, d_bias, None, None, None, None, None


def _loss_and_gradient(logits: Tensor, targets: Tensor, log_counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """The summed loss, and its gradient by the logits [n, V]: the probabilities, minus one at the target."""
    valid = targets != IGNORE
    target = torch.arange(len(targets), device=targets.device), targets.clamp(min=0)
    logits = logits.float() if log_counts is None else logits + log_counts
    logits = logits - logits.amax(-1, keepdim=True)
    wanted = logits[target]
    exponentials = logits.exp_()
    total = exponentials.sum(-1, keepdim=True)
    loss = ((total.squeeze(-1).log() - wanted) * valid).sum()
    gradient = exponentials.mul_(valid.unsqueeze(-1) / total)  # one pass fewer than log_softmax, exp and valid
    gradient[target] -= valid.float()
    return loss, gradient
