"""Bigram embedding: a learned vector for each pair (previous token, token), added to the token's embedding.

Two tokens predict much of the third, and a table learns that at once, where attention needs many steps.
A vocabulary of V has V² pairs. Where that is more than `bigram_rows`, pairs share rows by a hash, or those that are
frequent in the text have rows of their own. Rows of rare pairs would memorize the text: what followed them once.
The first token of a text counts as preceded by token 0.
"""

import torch
from torch import Tensor, nn

from fledge.model.config import ModelConfig
from fledge.model.kv_cache import Cache

MULTIPLIER = 2_654_435_761  # Knuth's multiplicative hash: odd, near 2³² / golden ratio
MASK = 2**32 - 1  # the hash has 32 bits
NO_PAIR = 2**63 - 1  # larger than the number of any pair


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
        self.vocab_size = config.bigram_vocab or config.vocab_size  # what pairs are numbered by
        self.rows = min(config.bigram_rows, self.vocab_size**2)
        self.weight = nn.Parameter(torch.empty(self.rows, config.n_embd))

    def forward(self, x: Tensor, ids: Tensor, cache: Cache) -> Tensor:
        """x [B, T, C], ids [B, T]"""
        pair = cache.previous(ids) * self.vocab_size + ids  # [B, T]
        return x + nn.functional.embedding(self.row(pair), self.weight)

    def row(self, pair: Tensor) -> Tensor:
        return pair


class HashedBigram(Bigram):
    def row(self, pair: Tensor) -> Tensor:
        """Two rounds: after a single product, some bits depend on the second token only."""
        once = pair * MULTIPLIER & MASK
        twice = (once ^ once >> 16) * MULTIPLIER & MASK
        return twice * self.rows >> 32


class FrequentBigram(Bigram):
    """The last row is for all pairs that are not among `pairs`. These are found in the text, before the first step."""

    pairs: Tensor  # [rows], ascending, then NO_PAIR; the last is always NO_PAIR

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("pairs", torch.full((self.rows,), NO_PAIR))

    def row(self, pair: Tensor) -> Tensor:
        row = torch.searchsorted(self.pairs, pair).clamp(max=self.rows - 1)  # of the first that is not smaller
        return torch.where(self.pairs[row] == pair, row, self.rows - 1)


BIGRAMS = {"hashed": HashedBigram, "frequent": FrequentBigram}


def make_bigram(config: ModelConfig) -> nn.Module:
    if config.bigram_rows is None:
        return NoBigram(config)
    return (Bigram if config.has_all_bigrams else BIGRAMS[config.bigram_pairs])(config)
