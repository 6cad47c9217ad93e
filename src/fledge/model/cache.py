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
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._store: Tensor | None = None  # [2, B, K, capacity, D], made when the first keys show dtype and device

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        B, K, T, D = k.shape
        if self._store is None:
            self._store = torch.empty(2, B, K, self.capacity, D, dtype=k.dtype, device=k.device)
        end = self.length + T
        assert end <= self.capacity, f"the cache holds {self.capacity} tokens"
        self._store[0, :, :, self.length : end] = k
        self._store[1, :, :, self.length : end] = v
        self.length = end
        keys, values = self._store[:, :, :, :end]
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
    """Room for a whole context."""
    return Cache([RememberingLayer(config.context) for _ in range(config.n_layer)])
