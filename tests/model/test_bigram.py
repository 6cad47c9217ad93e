"""The hash of the bigram embedding."""

from dataclasses import replace

import pytest
import torch

from fledge.model.bigram import HashedBigram, make_bigram
from fledge.model.config import ModelConfig

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=11, norm="layernorm")


@pytest.mark.parametrize(("vocab_size", "rows"), [(1024, 4096), (32_768, 32_768), (65_536, 4097), (50_257, 65_536)])
def test_hash_spreads_pairs_that_share_a_token(vocab_size: int, rows: int) -> None:
    pairs = make_bigram(replace(SMALL, vocab_size=vocab_size, bigram_rows=rows))
    assert isinstance(pairs, HashedBigram)
    every = torch.arange(vocab_size)
    many = min(vocab_size, rows)
    for pair in (every * vocab_size + 7, 7 * vocab_size + every):  # the second token, or the first, is always 7
        row = pairs.row(pair)
        assert row.min() >= 0
        assert row.max() < rows
        assert len(row.unique()) > 0.5 * many
