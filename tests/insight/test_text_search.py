"""Exact text in the training split: by the suffix array and by reading, against a search in the documents."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset, Split
from fledge.insight import text_search
from fledge.insight.build_suffix_array import plan_pieces, sorted_positions
from fledge.insight.suffix_array import Piece, SuffixArray
from fledge.insight.text_search import search_text
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.char import CharTokenizer

pytest.importorskip("pydivsufsort")


@cache
def tokenizer() -> BpeTokenizer:
    return BpeTokenizer.train(["the cat sat on the mat, and the cat ate the rat ü€ " * 20], 290, exact=False)


def dataset_of(documents: list[str]) -> tuple[Dataset, Split, np.ndarray, SuffixArray]:
    ids = [tokenizer().encode(document) for document in documents]
    starts = np.cumsum([0, *map(len, ids[:-1])])
    split = Split("train", [np.concatenate(ids)], [starts.astype(np.uint64)])
    [plan] = plan_pieces(split, starts, tokenizer().vocab_size)
    positions = np.concatenate(list(sorted_positions(split, plan, lambda _: None)))
    array = SuffixArray(split, starts, [Piece(0, len(split), len(split), positions)])
    return Dataset(Path(), tokenizer(), {"train": split}, {}), split, starts, array


def occurrences(documents: list[str], text: str) -> Iterator[tuple[int, str]]:
    for number, document in enumerate(documents):
        at = document.find(text)
        while at >= 0:
            yield number, document[:at]
            at = document.find(text, at + 1)


WORDS = st.lists(st.sampled_from(["the", " cat", " sat", "ü€", "ate", " "]), min_size=1, max_size=12).map("".join)


@hypothesis_settings(max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=4), st.data())
def test_both_ways_find_what_stands_in_the_documents(documents: list[str], data: st.DataObject) -> None:
    dataset, split, starts, array = dataset_of(documents)
    document = data.draw(st.sampled_from(documents))
    first = data.draw(st.integers(0, len(document) - 1))
    text = document[first : data.draw(st.integers(first + 1, len(document)))]
    expected = list(occurrences(documents, text))
    for given_array in (array, None):
        found = search_text(dataset, split, starts, text, given_array)
        assert [hit.document for hit in found.hits] == [number for number, _ in expected]
        assert (found.count, found.searched) == (len(expected), 1)
        for hit, (number, before) in zip(found.hits, expected, strict=True):
            assert before.endswith(hit.before)
            assert documents[number][len(before) + len(text) :].startswith(hit.after)


def test_long_texts_are_found_by_the_array() -> None:
    dataset, split, starts, array = dataset_of(["the cat sat on the mat" * 3, "and the rat"])
    assert search_text(dataset, split, starts, "cat sat on the mat", array).by_index
    assert not search_text(dataset, split, starts, "c", array).by_index
    assert search_text(dataset, split, starts, "zebras eat no grass at all", array).count == 0


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_search, "CHUNK", 4)
    monkeypatch.setattr(text_search, "SECONDS", -1.0)
    dataset, split, starts, _ = dataset_of(["the cat sat", "on the mat"])
    found = search_text(dataset, split, starts, "mat")
    assert (found.hits, found.searched) == ([], 0)


def test_unknown_characters_are_not_found() -> None:
    characters = CharTokenizer.train(["abc d"])
    ids = characters.encode("abc d").astype(np.int64)
    split, starts = Split("train", [ids], [np.zeros(1, dtype=np.uint64)]), np.zeros(1, dtype=np.int64)
    array = SuffixArray(split, starts, [Piece(0, 5, 5, np.array([3, 0, 1, 2, 4], dtype=np.uint32))])
    dataset = Dataset(Path(), characters, {"train": split}, {})
    assert search_text(dataset, split, starts, "bc", array).count == 1
    assert search_text(dataset, split, starts, "bΩ", array).count == 0


@pytest.mark.parametrize("text", ["", "x" * 10_001])
def test_empty_and_endless_texts_are_refused(text: str) -> None:
    dataset, split, starts, array = dataset_of(["the cat", "sat"])
    with pytest.raises(UserError, match="characters"):
        search_text(dataset, split, starts, text, array)
