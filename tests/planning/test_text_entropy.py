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
    ORDER,
    WINDOW,
    ngram_probabilities,
    text_entropy,
    window_probabilities,
)
from fledge.tokenizers.config import TokenizerConfig

ids = st.lists(st.integers(0, 4), min_size=ORDER, max_size=60).map(np.array)


@given(ids, ids)
def test_ngram_probabilities_of_all_tokens_sum_to_one(train: np.ndarray, val: np.ndarray) -> None:
    context = val[: ORDER - 1]
    found = [ngram_probabilities(train, np.array([*context, token]), 5)[0] for token in range(5)]
    assert sum(found) == pytest.approx(1.0)
    assert min(found) > 0


@given(ids, ids)
def test_ngram_probabilities_are_those_of_the_formula(train: np.ndarray, val: np.ndarray) -> None:
    text = train.tolist()

    def probability(token: int, context: list[int]) -> float:
        if not context:
            return (text.count(token) + 1) / (len(text) + 5)
        size = len(context)
        after = [text[at + size] for at in range(len(text) - size) if text[at : at + size] == context]
        lower, different = probability(token, context[1:]), len(set(after))
        return (after.count(token) + different * lower) / (len(after) + different) if after else lower

    places = range(ORDER - 1, len(val))
    expected = [probability(val[at], val[at - ORDER + 1 : at].tolist()) for at in places]
    assert ngram_probabilities(train, val, 5) == pytest.approx(expected)


def test_what_followed_before_is_likely() -> None:
    train = np.array([0, 1, 2, 3] * 20)
    likely, unlikely = (ngram_probabilities(train, np.array([0, 1, 2, then]), 4) for then in (3, 2))
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
