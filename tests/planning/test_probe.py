"""The tokens that a probe trains on are as frequent as those of a text."""

import numpy as np
import pytest

from fledge.planning.probe import random_split


@pytest.mark.parametrize("vocab_size", [1, 2, 65, 8192])
def test_tokens_follow_zipfs_law(vocab_size: int) -> None:
    split = random_split(vocab_size, 64_000)
    ids = split.read(0, len(split))
    assert 0 <= ids.min() <= ids.max() < vocab_size
    counts = np.bincount(ids, minlength=vocab_size)
    if vocab_size > 64:
        assert counts[0] / counts[9] == pytest.approx(np.log(2) / np.log(11 / 10), rel=0.1)  # log(1 + 1/n) of rank n


def test_batch_has_as_many_different_tokens_as_one_of_text() -> None:
    """4,096 tokens of ten texts with a vocabulary of 8,192 have 1,060 to 1,660 different ones."""
    split = random_split(8192, 4096)
    assert 1060 < len(np.unique(split.read(0, 4096))) < 1660
