"""How the next token is chosen from the model's scores: one small frozen object per strategy.

Each turns logits [B, V] into logits [B, V], so they can be put in a row; `choose` then draws, or takes the best.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fledge.core.errors import UserError

NEVER = float("-inf")
COLDEST = 1e-4  # below this a division would overflow, and the best token is certain anyway


class Strategy(Protocol):
    def __call__(self, logits: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Temperature:
    """Below 1: bolder where the model is sure. Above 1: more surprises."""

    value: float

    def __call__(self, logits: Tensor) -> Tensor:
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Only the k best; among equals the first."""

    k: int

    def __call__(self, logits: Tensor) -> Tensor:
        best = logits.sort(descending=True, stable=True).indices[..., : self.k]
        return torch.full_like(logits, NEVER).scatter(-1, best, logits.gather(-1, best))


@dataclass(frozen=True)
class TopP:
    """The best ones that together reach probability p; the best one always stays."""

    p: float

    def __call__(self, logits: Tensor) -> Tensor:
        ordered, places = logits.sort(descending=True, stable=True)
        chances = ordered.softmax(-1)
        beyond = chances.cumsum(-1) - chances >= self.p  # what came before already suffices
        return logits.masked_fill(beyond.scatter(-1, places, beyond), NEVER)


@dataclass(frozen=True)
class TopN:
    """Only the first `size` ids: a model may have more places than its tokenizer has tokens."""

    size: int

    def __call__(self, logits: Tensor) -> Tensor:
        known = torch.arange(logits.shape[-1], device=logits.device) < self.size
        return logits.masked_fill(~known, NEVER)


@dataclass(frozen=True)
class Greedy:
    """Only the very best; among equals the first."""

    def __call__(self, logits: Tensor) -> Tensor:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, NEVER).scatter(-1, best, 0.0)


def strategies(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> tuple[Strategy, ...]:
    """The row of strategies that these usual settings ask for."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature cannot be {temperature}", "0 is greedy, 1 is the model's own, 2 is wild")
    if top_k is not None and top_k < 1:
        raise UserError(f"top-k cannot be {top_k}", "it is how many tokens may be chosen from: 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top-p cannot be {top_p}", "it is a probability: above 0, at most 1")
    if temperature < COLDEST:
        return (Greedy(),)
    row: list[Strategy] = [Temperature(temperature)]
    if top_k is not None:
        row.append(TopK(top_k))
    if top_p is not None:
        row.append(TopP(top_p))
    return tuple(row)


def sample(logits: Tensor, row: tuple[Strategy, ...], generator: torch.Generator) -> Tensor:
    """logits [B, V] → tokens [B]. Drawn on the CPU in fp32: the same seed gives the same text on every device."""
    logits = logits.float().cpu()
    if not logits.amax(-1).isfinite().all():
        raise UserError("the model's scores are no numbers: its training went wrong", "take an earlier one: RUN@best")
    for strategy in row:
        logits = strategy(logits)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
