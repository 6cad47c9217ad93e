"""The rules of sampling, each once: logits [R, V] and a setting for each row [R, 1] → logits [R, V], then a token.

    bias → penalties → temperature → top-k → top-p → min-p → draw

A dropped token has the logit -inf. A row without a rule has the neutral setting (0 penalty, k = V, p = 1, …), so that
one call serves rows with different settings. Ties go to the lowest token id.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEG_INF = float("-inf")
CANDIDATES = 1024  # on a CPU, top-p looks at this many tokens first: sorting a whole vocabulary takes milliseconds
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Tokens that occurred in prompt or answer (seen [R, V]) become less likely: the rule of the CTRL paper."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_counts(logits: Tensor, counts: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """Presence once, frequency for each time that a token was generated (counts [R, V]): OpenAI's rule."""
    return logits - (counts > 0) * presence - counts * frequency


def keep_best(logits: Tensor, ordered: Tensor, count: Tensor) -> Tensor:
    """Keep the `count` best tokens of each row [R, 1]; `ordered`: the best logits, largest first, at least as many."""
    threshold = ordered.gather(-1, count - 1)
    above, ties = logits > threshold, logits == threshold
    kept = above | (ties & (ties.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return logits.masked_fill(~kept, NEG_INF)


def nucleus_size(logits: Tensor, ordered: Tensor, top_p: Tensor) -> Tensor:
    """How many of the best tokens are needed until their probabilities reach p; at least one. [R, 1]"""
    probabilities = (ordered - logits.logsumexp(-1, keepdim=True)).exp()
    before = probabilities.cumsum(-1) - probabilities  # the better ones already have this much
    return (before < top_p).sum(-1, keepdim=True).clamp(min=1)


def keep_top_k(logits: Tensor, top_k: Tensor, largest: int) -> Tensor:
    """Keep the k best tokens. `largest`: the largest k that limits a row; rows with a larger one keep all."""
    kept = keep_best(logits, logits.topk(largest).values, top_k.clamp(max=largest))
    return torch.where(top_k <= largest, kept, logits)


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Nucleus sampling: keep the fewest best tokens whose probabilities add up to p. Rows with p = 1 keep all."""
    V = logits.shape[-1]
    limited = top_p < 1
    for candidates in (CANDIDATES, V) if logits.device.type == "cpu" and V > CANDIDATES else (V,):
        ordered = logits.topk(candidates).values
        count = nucleus_size(logits, ordered, top_p)
        if candidates == V or not bool((limited & (count == candidates)).any()):
            break
    return torch.where(limited, keep_best(logits, ordered, count), logits)


def keep_min_p(logits: Tensor, log_min_p: Tensor) -> Tensor:
    """Keep tokens that are at least this fraction as likely as the most likely one; -inf keeps all."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + log_min_p, NEG_INF)


def uniform_numbers(seeds: NDArray[np.uint64], indices: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number from 0 to below 1 for each (seed, index of the token): a hash (SplitMix64), not a generator.

    So the number depends on nothing else: not on the slot, not on other requests, not on the order of steps.
    """
    bits = _mix(_mix(seeds) + (indices + np.uint64(1)) * GOLDEN) >> np.uint64(16)
    return bits.astype(np.float64) * 2.0**-48


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """A token of each row by its probability: the first whose cumulative probability exceeds `uniform` [R, 1]. [R]"""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(-1).cumsum(-1, dtype=dtype)
    target = uniform.to(dtype) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
