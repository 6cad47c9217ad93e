"""The entropy of a text: a proper probability, low where the text is easy to predict."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.datasets.cache import ensure_dataset
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Split
from fledge.planning.text_entropy import (
    WINDOW,
    text_entropy,
    trigram_probabilities,
    window_probabilities,
)
from fledge.tokenizers.config import TokenizerConfig

ids = st.lists(st.integers(0, 4), min_size=3, max_size=60).map(np.array)


@given(ids, ids)
def test_trigram_probabilities_of_all_tokens_sum_to_one(train: np.ndarray, val: np.ndarray) -> None:
    context = val[:2]
    found = [trigram_probabilities(train, np.array([*context, token]), 5)[0] for token in range(5)]
    assert sum(found) == pytest.approx(1.0)
    assert min(found) > 0


def test_trigram_prefers_what_followed_before() -> None:
    train = np.array([0, 1, 2] * 20)
    likely, unlikely = (
        trigram_probabilities(train, np.array([0, 1, 2]), 3),
        trigram_probabilities(train, np.array([0, 1, 1]), 3),
    )
    assert likely[0] > 0.9
    assert unlikely[0] < 0.05


def test_window_probability_counts_the_tokens_before_in_the_same_window() -> None:
    found = window_probabilities(np.array([7, 7, 3, 7]))
    assert found.tolist() == [0.0, 1.0, 0.0, pytest.approx(2 / 3)]
    assert window_probabilities(np.zeros(WINDOW + 1, dtype=np.int64))[WINDOW] == 0.0  # a new window


def test_sample_is_spread_over_the_whole_split() -> None:
    split = Split("train", [np.arange(10_000, dtype=np.uint16)], [np.zeros(1, dtype=np.int64)])
    assert split.sample(20_000).tolist() == list(range(10_000))
    part = split.sample(1000)
    assert len(part) == 1000
    assert (part[0], part[-1]) == (0, 9_999)


def test_random_text_is_harder_than_repeated_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    letters = np.random.default_rng(0).choice(list("abcdefgh"), 20_000)
    texts = {"random": "".join(letters), "repeated": "the cat sat on the mat. " * 800}
    found = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        data = DataConfig(corpus=str(tmp_path / name), val=0.1)
        found[name] = text_entropy(ensure_dataset(data, TokenizerConfig(kind="char", end_of_text=False)), 10**6)
    assert found["random"] is not None
    assert found["repeated"] is not None
    assert found["random"] == pytest.approx(3.0, abs=0.15)  # eight letters, three bits each
    assert found["repeated"] < 0.5
