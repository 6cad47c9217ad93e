"""What a token means after the one before it: a vector for each pair, added to the token's own.

Two tokens in a row say much about the third, and a table learns that at once, where attention needs many steps.
With V tokens there are V² pairs; where that is more than `bigram_rows`, several share a row, by a hash.
At the beginning of a text, token 0 stands before the first.
"""

import torch
from torch import Tensor, nn

from fledge.model.config import ModelConfig
from fledge.model.kv_cache import Cache

STEP = 2_654_435_761  # an odd number near 2³² / golden ratio: neighbours land far apart
LOW = 2**32 - 1  # the digits that are stirred


class NoBigram(nn.Module):
    def __init__(self, _: ModelConfig) -> None:
        super().__init__()

    def forward(self, x: Tensor, _ids: Tensor, _cache: Cache) -> Tensor:
        return x


class Bigram(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        assert config.bigram_rows is not None
        self.vocab_size = config.vocab_size
        self.rows = min(config.bigram_rows, config.vocab_size**2)
        self.weight = nn.Parameter(torch.empty(self.rows, config.n_embd))

    def forward(self, x: Tensor, ids: Tensor, cache: Cache) -> Tensor:
        """x [B, T, C], ids [B, T]"""
        pair = cache.before(ids) * self.vocab_size + ids  # [B, T]
        return x + nn.functional.embedding(self.row(pair), self.weight)

    def row(self, pair: Tensor) -> Tensor:
        return pair


class HashedBigram(Bigram):
    def row(self, pair: Tensor) -> Tensor:
        """Twice stirred: of one product alone, some digits know only the second token."""
        once = pair * STEP & LOW
        twice = (once ^ once >> 16) * STEP & LOW
        return twice * self.rows >> 32


def make_bigram(config: ModelConfig) -> nn.Module:
    if config.bigram_rows is None:
        return NoBigram(config)
    assert config.vocab_size is not None
    return (Bigram if config.vocab_size**2 <= config.bigram_rows else HashedBigram)(config)
