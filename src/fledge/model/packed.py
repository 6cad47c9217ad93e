"""Rows that hold several texts side by side: each begins at position 0, and none sees another.

    positions   0 1 2 3 0 1 2 0 1 2 3 4      [B, T]: a text begins wherever the position is 0
    cache = PackedCache(config, positions)
    model.forward_loss(ids, targets, head_loss, cache)

The same numbers as with every text in a row of its own, without the padding. Built for one call of the model: it keeps
no keys and values, and is a `Cache` because that is what tells the model positions, mask and previous tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.model.config import ModelConfig


@dataclass(frozen=True)
class PackedLayer:
    mask: Tensor  # [B, 1, T, T]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


class PackedCache:
    def __init__(self, config: ModelConfig, positions: Tensor) -> None:
        """positions [B, T]: of each token in its text."""
        self.positions = positions
        index = torch.arange(positions.shape[1], device=positions.device)  # [T]
        query, begin = index[:, None], (index - positions)[:, :, None]  # [T, 1], [B, T, 1]: where its text begins
        seen = (index >= begin) & (index <= query) & (index > query - config.attention_span)  # [B, T, T]
        self.layers = [PackedLayer(seen.unsqueeze(1))] * config.n_layer

    def advance(self, _ids: Tensor) -> Tensor:
        return self.positions

    def previous(self, ids: Tensor) -> Tensor:
        return F.pad(ids[:, :-1], (1, 0)).where(self.positions > 0, 0)
