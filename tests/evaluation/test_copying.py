"""Which n-grams of a text occur in the training data, against a direct search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.datasets.shards import Split
from fledge.evaluation import copying
from fledge.evaluation.copying import copied_ngrams, window_hashes

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=120)


def split_of(ids: list[int]) -> Split:
    half = len(ids) // 2
    shards = [np.array(part, dtype=np.uint16) for part in (ids[:half], ids[half:])]
    return Split("train", shards, [np.zeros(1, dtype=np.uint64), np.zeros(0, dtype=np.uint64)])


@given(train=TOKENS, texts=st.lists(TOKENS, min_size=1, max_size=4), n=st.integers(1, 9), chunk=st.integers(1, 40))
@settings(max_examples=150)
def test_copies_are_those_of_a_direct_search(train: list[int], texts: list[list[int]], n: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "CHUNK", chunk)
        found = copied_ngrams(texts, n, split_of(train))
    known = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
    for text, each in zip(texts, found, strict=True):
        assert each.tolist() == [tuple(text[i : i + n]) in known for i in range(len(text) - n + 1)]


@given(ids=st.lists(st.integers(0, 60_000), min_size=40, max_size=60), n=st.integers(1, 20), start=st.integers(0, 20))
def test_hash_of_a_window_depends_on_its_tokens_alone(ids: list[int], n: int, start: int) -> None:
    every = window_hashes(np.array(ids), n)
    assert len(every) == len(ids) - n + 1
    assert window_hashes(np.array(ids[start : start + n]), n).tolist() == [every[start]]


def test_windows_that_differ_have_different_hashes() -> None:
    windows = np.random.default_rng(0).integers(0, 3, (4000, 16))
    hashes = {int(window_hashes(window, 16)[0]) for window in windows}
    assert len(hashes) == len(np.unique(windows, axis=0))


def test_collision_of_hashes_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "window_hashes", lambda ids, n: np.zeros(len(ids) - n + 1, dtype=np.uint64))
    assert copied_ngrams([[1, 2, 3]], 3, split_of([1, 2, 4, 3, 2, 1]))[0].tolist() == [False]


def test_text_of_the_training_split_is_copied_and_other_text_is_not() -> None:
    train = np.random.default_rng(1).integers(0, 500, 50_000).tolist()
    other = np.random.default_rng(2).integers(0, 500, 100).tolist()
    copied, new = copied_ngrams([train[7000:7100], other], 16, split_of(train))
    assert copied.all()
    assert len(copied) == 85
    assert not new.any()


def test_texts_shorter_than_the_ngram_have_none() -> None:
    assert [each.tolist() for each in copied_ngrams([[1, 2], []], 3, split_of([1, 2, 3]))] == [[], []]
    assert copied_ngrams([[1, 2, 3]], 3, split_of([1, 2]))[0].tolist() == [False]
