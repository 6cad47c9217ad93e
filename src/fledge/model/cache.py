"""The keys and values of tokens already seen, so that the next token costs one token and not the whole text.

`NoCache` stands in wherever nothing is remembered (training, evaluation): the model's code is the same in both.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fledge.model.config import ModelConfig


class LayerCache:
    """What one block remembers: nothing. `length` is how many tokens came before."""

    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values [B, K, T, D] → all there are [B, K, S, D]."""
        return k, v


class RememberingLayer(LayerCache):
    """Keeps what the next token can still see: the last `reach` tokens."""

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.length = 0
        self._store: Tensor | None = None  # [2, B, K, reach, D], made when the first keys show dtype and device

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        B, K, T, D = k.shape
        if self._store is None:
            self._store = torch.empty(2, B, K, self.reach, D, dtype=k.dtype, device=k.device)
        held = min(self.length, self.reach)
        self.length += T
        if (end := held + T) <= self.reach:
            self._store[0, :, :, held:end] = k
            self._store[1, :, :, held:end] = v
            keys, values = self._store[:, :, :, :end]
        else:  # the window moves on: what no new token sees is left behind
            seen = torch.cat((self._store[:, :, :, :held], torch.stack((k, v))), dim=3)
            self._store.copy_(seen[:, :, :, -self.reach :])
            keys, values = seen[:, :, :, -(T + self.reach - 1) :]
        return keys, values


@dataclass
class Cache:
    layers: list[LayerCache] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.layers[0].length


def no_cache(config: ModelConfig) -> Cache:
    return Cache([LayerCache() for _ in range(config.n_layer)])


def new_cache(config: ModelConfig) -> Cache:
    """Room for all that a token can see: a whole context, or a window of it."""
    return Cache([RememberingLayer(config.reach) for _ in range(config.n_layer)])
