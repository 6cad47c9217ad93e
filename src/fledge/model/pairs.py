"""What a token means after the one before it: a vector for each pair, added to the token's own.

Two tokens in a row say much about the third, and a table learns that at once, where attention needs many steps.
With V tokens there are V² pairs; where that is more than `pair_table`, several share a row, by a hash.
At the beginning of a text, token 0 stands before the first.
"""

import torch
from torch import Tensor, nn

from fledge.model.cache import Cache
from fledge.model.config import ModelConfig

STEP = 2_654_435_761  # an odd number near 2³² / golden ratio: neighbours land far apart
LOW = 2**32 - 1  # the digits that are stirred


class NoPairs(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _ids: Tensor, _cache: Cache) -> Tensor:
        return x


class Pairs(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        assert config.pair_table is not None
        self.vocab_size = config.vocab_size
        self.rows = min(config.pair_table, config.vocab_size**2)
        self.weight = nn.Parameter(torch.empty(self.rows, config.n_embd))

    def forward(self, x: Tensor, ids: Tensor, cache: Cache) -> Tensor:
        """x [B, T, C], ids [B, T]"""
        pair = cache.before(ids) * self.vocab_size + ids  # [B, T]
        return x + nn.functional.embedding(self.row(pair), self.weight)

    def row(self, pair: Tensor) -> Tensor:
        return pair


class HashedPairs(Pairs):
    def row(self, pair: Tensor) -> Tensor:
        """Twice stirred: of one product alone, some digits know only the second token."""
        once = pair * STEP & LOW
        twice = (once ^ once >> 16) * STEP & LOW
        return twice * self.rows >> 32


def make_pairs(config: ModelConfig) -> nn.Module:
    if config.pair_table is None:
        return NoPairs(config)
    assert config.vocab_size is not None
    return (Pairs if config.vocab_size**2 <= config.pair_table else HashedPairs)(config)
