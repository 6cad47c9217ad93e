"""How the next token of a training sample is drawn: one small frozen object per sampling strategy.

Each maps logits [B, V] to logits [B, V], so they can be chained; `sample` applies them and draws. The engine draws with
slot_sampler.py; top-k and top-p are the rules of rules.py in both.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fledge.core.errors import UserError
from fledge.inference import rules

NEG_INF = float("-inf")
MIN_TEMPERATURE = 1e-4  # below this the division could overflow, and the best token is certain anyway


class Strategy(Protocol):
    def __call__(self, logits: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Temperature:
    """Below 1 the probabilities get sharper, above 1 flatter."""

    value: float

    def __call__(self, logits: Tensor) -> Tensor:
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Keep the k best tokens; among equal logits, the lower ids."""

    k: int

    def __call__(self, logits: Tensor) -> Tensor:
        k = min(self.k, logits.shape[-1])
        return rules.keep_top_k(logits, torch.full_like(logits[..., :1], k, dtype=torch.long), k)


@dataclass(frozen=True)
class TopP:
    """Nucleus sampling: keep the fewest best tokens whose probabilities add up to p; always at least one."""

    p: float

    def __call__(self, logits: Tensor) -> Tensor:
        return rules.keep_top_p(logits, torch.full_like(logits[..., :1], self.p))


@dataclass(frozen=True)
class KnownTokens:
    """Keep ids below `size`: the vocabulary of a model may be larger than that of its tokenizer."""

    size: int

    def __call__(self, logits: Tensor) -> Tensor:
        unknown = torch.arange(logits.shape[-1], device=logits.device) >= self.size
        return logits.masked_fill(unknown, NEG_INF)


@dataclass(frozen=True)
class Greedy:
    """Keep the best token; among equal logits, the lowest id."""

    def __call__(self, logits: Tensor) -> Tensor:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, NEG_INF).scatter(-1, best, 0.0)


def sampling_strategies(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> tuple[Strategy, ...]:
    """The strategies that the usual three settings stand for."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature cannot be {temperature}", "0 is greedy, 1 leaves the probabilities as they are")
    if top_k is not None and top_k < 1:
        raise UserError(f"top-k cannot be {top_k}", "it is the number of tokens to draw from: 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top-p cannot be {top_p}", "it is a probability: above 0, at most 1")
    if temperature < MIN_TEMPERATURE:
        return (Greedy(),)
    chain: list[Strategy] = [Temperature(temperature)]
    if top_k is not None:
        chain.append(TopK(top_k))
    if top_p is not None:
        chain.append(TopP(top_p))
    return tuple(chain)


def sample(logits: Tensor, strategies: tuple[Strategy, ...], generator: torch.Generator) -> Tensor:
    """logits [B, V] → tokens [B]. Drawn on the CPU in fp32: the same seed gives the same text on every device."""
    logits = logits.float().cpu()
    if not logits.amax(-1).isfinite().all():
        raise UserError("the logits are not finite: the training of this model diverged", "use RUN@best instead")
    for strategy in strategies:
        logits = strategy(logits)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
