"""Log-probability of each token: what alignment losses (DPO, PPO, GRPO) and scoring are made of.

logits_logprobs         logits → log-probabilities: the reference
token_logprobs          hidden vectors and the head → the same; a large vocabulary goes through in chunks of tokens
logprobs_and_entropies  the same, and the entropy of each distribution

    logprobs = model.forward_loss(inputs, targets, token_logprobs)      # [B, T]

Ignored targets have log-probability 0, so a sum over a row needs no mask.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fledge.losses.cross_entropy import IGNORE
from fledge.model.flops import LARGE_VOCABULARY, LOSS_CHUNK_TOKENS
from fledge.model.head import Head


def logits_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """logits [..., V], targets [...] → log-probability of each target [...], in float32."""
    flat = logits.flatten(0, -2).float()
    losses = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="none")
    return -losses.view(targets.shape)


def token_logprobs(hidden: Tensor, head: Head, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """hidden [B, T, C], targets [B, T] → log-probability of each target [B, T], of logits / temperature.

    In chunks the logits [B, T, V] are never held: the backward pass computes those of a chunk a second time.
    """

    def logprobs(hidden: Tensor, targets: Tensor) -> Tensor:
        return logits_logprobs(tempered(head.padded(hidden), temperature), targets)

    return _in_chunks(logprobs, hidden, head, targets)


def logprobs_and_entropies(hidden: Tensor, head: Head, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The same, and the entropy of each distribution where there is a target, in nats [2, B, T]"""

    def both(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = tempered(head.padded(hidden), temperature).float()
        every = logits.log_softmax(-1)
        entropies = -(every.exp() * every).sum(-1) * (targets != IGNORE)
        return torch.stack((logits_logprobs(logits, targets), entropies), -1)

    return _in_chunks(both, hidden, head, targets).movedim(-1, 0)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def _in_chunks(each: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """each(hidden [n, C], targets [n]) → [n, …], for all tokens: [B, T, …]"""
    if head.out_features < LARGE_VOCABULARY or targets.numel() <= LOSS_CHUNK_TOKENS:
        return each(hidden, targets)
    chunks = [
        checkpoint(each, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(
            hidden.flatten(0, -2).split(LOSS_CHUNK_TOKENS), targets.flatten().split(LOSS_CHUNK_TOKENS), strict=True
        )
    ]
    return torch.cat(chunks).unflatten(0, targets.shape)
