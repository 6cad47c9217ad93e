"""A probe trains on tokens that are as frequent as those of a text, and is not misled by a pause."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fledge.core.device import Machine
from fledge.planning import probe
from fledge.planning.probe import random_split, sampled_token_seconds
from fledge.settings.pipeline import resolve


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


@pytest.mark.parametrize(
    ("spent", "found"),
    [([5.0, 0.1, 0.1, 9.0, 0.1, 0.1], 0.1), ([5.0, 0.2], 0.2), ([5.0], 5.0), ([], 0.0)],
    ids=["slow now and then", "two", "one", "none"],
)
def test_tokens_of_a_sample_take_as_long_as_most(
    monkeypatch: pytest.MonkeyPatch, spent: list[float], found: float
) -> None:
    """The decoder is built for the first, and a busy machine pauses at some."""
    now = 0.0

    def generate(*_: object) -> Iterator[int]:
        nonlocal now
        for seconds in spent:
            now += seconds
            yield 0

    monkeypatch.setattr(probe, "generate", generate)
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: now))
    step: Any = SimpleNamespace(model=None)
    assert sampled_token_seconds(step, resolve("text"), Machine("cpu", "float32"), 100.0) == pytest.approx(found)
