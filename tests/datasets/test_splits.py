"""Splits: stable, complete, and independent of chunk boundaries."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.datasets.splits import (
    Span,
    SplitRule,
    choose_split,
    default_val,
    small_validation_warning,
    split_chunks,
)
from fledge.text.inputs import Chunk, ReadCounts
from fledge.text.source_text import open_sources

# Fixed for ever: existing datasets were split like this.
SPLITS_EXPECTED = [
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "val",
    "val",
    "train",
    "train",
    "train",
    "val",
    "val",
    "val",
    "val",
    "train",
    "train",
    "val",
    "train",
    "val",
    "val",
    "val",
    "test",
    "train",
]
BY_DOCUMENT = SplitRule("document", 0.3, 0.2)


def in_chunks(text: str, cuts: list[int]) -> list[Chunk]:
    """One document, cut at these characters."""
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    size = len(text.encode())
    return [
        Chunk("x", text[a:b], b == len(text), len(text[:a].encode()), len(text[:b].encode()), size)
        for a, b in pairwise(edges)
    ]


def never() -> str:
    raise AssertionError("the document's beginning is here")


def by_split(chunks: list[Chunk], split_rule: SplitRule) -> dict[str, str]:
    found = dict.fromkeys(("train", "val", "test"), "")
    for span in split_chunks(chunks, split_rule, never):
        found[span.split] += span.text
    return found


def test_split_of_a_text_never_changes() -> None:
    assert [choose_split(f"text {n}", BY_DOCUMENT) for n in range(24)] == SPLITS_EXPECTED


def test_split_sizes_are_about_those_requested() -> None:
    found = [choose_split(f"text {n}", BY_DOCUMENT) for n in range(4000)]
    for name, share in (("val", 0.3), ("test", 0.2), ("train", 0.5)):
        assert abs(found.count(name) / 4000 - share) < 0.03


@pytest.mark.parametrize("grown", ["val", "test"])
def test_larger_split_takes_documents_from_train_only(grown: str) -> None:
    small, large = SplitRule("document", 0.1, 0.0), SplitRule("document", 0.1, 0.0)
    large = replace(large, **{grown: 0.3})
    pairs = {(choose_split(str(n), small), choose_split(str(n), large)) for n in range(300)}
    assert pairs == {("train", "train"), ("val", "val"), ("train", grown)}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), st.floats(0, 0.5))
def test_test_split_by_tail_leaves_val_as_it_was(text: str, test: float) -> None:
    without, with_test = (by_split(in_chunks(text, []), SplitRule("tail", 0.2, share)) for share in (0.0, test))
    assert with_test["val"] == without["val"]


@pytest.mark.parametrize(
    ("size", "share"),
    [
        (0, 0.05),
        (10_000, 0.2),
        (327_680, 0.2),
        (500_000, 0.131),
        (1_000_000, 0.1),
        (40_000_000, 0.1),
        (4 * 10**9, 0.001),
    ],
)
def test_default_val_by_size(size: int, share: float) -> None:
    assert default_val(size) == share


def test_warning_of_a_small_validation_split() -> None:
    assert small_validation_warning(0) is None
    assert small_validation_warning(2000) is None
    assert "162 tokens" in str(small_validation_warning(162))


def test_long_document_goes_where_its_first_chunk_goes() -> None:
    chunks = in_chunks("text 6 and more, and more", [6])
    assert [(s.split, s.begins, s.ends) for s in split_chunks(chunks, BY_DOCUMENT, never)] == [
        ("val", True, False),
        ("val", False, True),
    ]
    later = split_chunks(chunks[1:], BY_DOCUMENT, lambda: chunks[0].text)
    assert list(later) == [Span("val", " and more, and more", False, True)]


@pytest.mark.parametrize(("val", "test"), [(0.2, 0.0), (0.2, 0.2), (0.01, 0.0)])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-8-sig"])
def test_tail_of_a_stored_file_has_its_share(tmp_path: Path, codec: str, newline: str, val: float, test: float) -> None:
    """Lines of two letters: CRLF takes half of the bytes."""
    (tmp_path / "a.txt").write_bytes(newline.join(["ab"] * 30_000).encode(codec))
    counts = ReadCounts()
    chunks = list(open_sources([str(tmp_path / "a.txt")]).chunks(counts))
    sized = [replace(chunk, size=counts.bytes) for chunk in chunks]  # as the scan of a decoded file finds it
    found = by_split(sized, SplitRule("tail", val, test))
    assert [len(found[name]) / 90_000 for name in ("val", "test")] == pytest.approx([val, test], abs=0.0005)


@given(st.integers(1, 3_000_000))
def test_tail_split_cuts_where_nanogpt_cuts(length: int) -> None:
    found = by_split(in_chunks("x" * length, []), SplitRule("tail", 0.1, 0.0))
    assert len(found["train"]) == int(0.9 * length)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.floats(0, 0.5), st.floats(0, 0.49))
def test_tail_split_gives_each_character_to_one_split(text: str, val: float, test: float) -> None:
    found = by_split(in_chunks(text, []), SplitRule("tail", val, test))
    assert found["train"] + found["test"] + found["val"] == text


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from([(0.0, 0.0), (0.1, 0.0), (0.3, 0.3), (0.0, 0.5)]),
)
def test_split_does_not_depend_on_chunk_boundaries(text: str, cuts: list[int], shares: tuple[float, float]) -> None:
    split_rule = SplitRule("tail", *shares)
    assert by_split(in_chunks(text, cuts), split_rule) == by_split(in_chunks(text, []), split_rule)


@given(st.text("aß🦆", min_size=1, max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_spans_of_a_split_begin_once_and_end_once(text: str, cuts: list[int]) -> None:
    found = list(split_chunks(in_chunks(text, cuts), SplitRule("tail", 0.3, 0.3), never))
    for split in {span.split for span in found}:
        mine = [span for span in found if span.split == split]
        assert [s.begins for s in mine] == [True] + [False] * (len(mine) - 1)
        assert [s.ends for s in mine] == [False] * (len(mine) - 1) + [True]


@pytest.mark.parametrize(("val", "sides"), [(0.0, {"train"}), (0.5, {"train", "val"})])
def test_empty_split_has_no_span(val: float, sides: set[str]) -> None:
    assert {s.split for s in split_chunks(in_chunks("some text", []), SplitRule("tail", val, 0.0), never)} == sides
