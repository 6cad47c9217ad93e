"""The keys and values of tokens already seen, so that the next token costs one token and not the whole text.

A plain `LayerCache` stands in wherever nothing is remembered (training, evaluation): the model's code is the same.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.model.config import ModelConfig


class LayerCache:
    """What one block remembers: nothing. `length` is how many tokens came before."""

    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values [B, K, T, D] → all there are [B, K, S, D]."""
        return k, v


class StaticLayerCache(LayerCache):
    """Keeps every token of a context."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.length = 0
        self._store: Tensor | None = None  # [2, B, K, context, D], made when the first keys show dtype and device

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        B, K, T, D = k.shape
        if self._store is None:
            self._store = torch.empty(2, B, K, self.context, D, dtype=k.dtype, device=k.device)
        self._store[:, :, :, self.length : self.length + T] = torch.stack((k, v))
        self.length += T
        keys, values = self._store[:, :, :, : self.length]
        return keys, values


class SlidingLayerCache(LayerCache):
    """Keeps what the next token can still see: itself, and the window - 1 tokens before it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.length = 0
        self._store: Tensor | None = None  # [2, B, K, up to window, D]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        T, new = k.shape[2], torch.stack((k, v))
        seen = new if self._store is None else torch.cat((self._store, new), dim=3)
        self._store = seen[:, :, :, -self.window :].clone()  # what no new token sees is left behind
        self.length += T
        keys, values = seen[:, :, :, -(T + self.window - 1) :]
        return keys, values


@dataclass
class Cache:
    """Of all blocks. Remembers nothing itself."""

    layers: list[LayerCache] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.layers[0].length

    def before(self, ids: Tensor) -> Tensor:
        """Which token stands before each of `ids` [B, T]; token 0 before the first of all."""
        return F.pad(ids[:, :-1], (1, 0))


class TokenCache(Cache):
    """Knows the last token, too."""

    _last: Tensor | None = None  # [B, 1]

    def before(self, ids: Tensor) -> Tensor:
        last = torch.zeros_like(ids[:, :1]) if self._last is None else self._last
        self._last = ids[:, -1:]
        return torch.cat((last, ids[:, :-1]), dim=1)


def no_cache(config: ModelConfig) -> Cache:
    return Cache([LayerCache() for _ in range(config.n_layer)])


def new_cache(config: ModelConfig) -> Cache:
    """Room for all that a token can see: a whole context, or a window of it."""
    if config.window is not None:
        return TokenCache([SlidingLayerCache(config.window) for _ in range(config.n_layer)])
    return TokenCache([StaticLayerCache(config.context) for _ in range(config.n_layer)])
