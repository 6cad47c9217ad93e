"""Filters: verdicts, duplicates, counts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.datasets import filters
from fledge.datasets.config import DataConfig
from fledge.datasets.filters import DUPLICATE, KEPT, LONG, OTHER_CHARSET, SHORT, FilterRules
from fledge.text.formats import describe, read_slice
from fledge.text.inputs import Chunk, ReadOptions, Slice

if TYPE_CHECKING:
    from .conftest import DatasetMaker

LONGER = 2_500_000  # characters: three chunks


@pytest.mark.parametrize(
    ("rules", "length", "inside", "verdict"),
    [
        (FilterRules(), 1, 0, KEPT),
        (FilterRules(min_length=3), 2, 2, SHORT),
        (FilterRules(min_length=3), 3, 3, KEPT),
        (FilterRules(max_length=3), 3, 3, KEPT),
        (FilterRules(max_length=3), 4, 4, LONG),
        (FilterRules(min_length=3, charset="ascii"), 2, 0, SHORT),
        (FilterRules(charset="ascii"), 10, 9, OTHER_CHARSET),
        (FilterRules(charset="ascii"), 10, 10, KEPT),
        (FilterRules(charset="ascii", charset_share=0.9), 10, 9, KEPT),
        (FilterRules(charset="ascii", charset_share=0.9), 10, 8, OTHER_CHARSET),
    ],
)
def test_verdict_depends_on_length_and_charset(rules: FilterRules, length: int, inside: int, verdict: int) -> None:
    assert rules.verdict(length, inside) == verdict


@given(st.integers(1, 100), st.integers(1, 300))
def test_charset_share_that_is_met_exactly_is_enough(percent: int, hundreds: int) -> None:
    rules = FilterRules(charset="ascii", charset_share=percent / 100)
    assert rules.verdict(100 * hundreds, percent * hundreds) == KEPT
    assert rules.verdict(100 * hundreds, percent * hundreds - 1) == OTHER_CHARSET


@pytest.mark.parametrize(
    ("charset", "text", "inside"),
    [
        (None, "Käse 鴨", 6),
        ("ascii", "Käse 鴨", 4),
        ("latin-1", "Käse 鴨", 5),
        ("cp1251", "Käse Утка", 8),
        ("shift_jis", "Käse 鴨", 5),
        ("utf-8", "Käse 鴨🦆", 7),
    ],
)
def test_characters_in_a_charset_are_counted(charset: str | None, text: str, inside: int) -> None:
    assert FilterRules(charset=charset).count_in_charset(text) == inside


def test_only_active_filters_need_a_scan() -> None:
    assert not FilterRules.of(DataConfig()).any
    assert not FilterRules.of(DataConfig(charset_share=0.5)).any
    for data in ({"min_length": 1}, {"max_length": 9}, {"charset": "ascii"}, {"dedup": True}):
        assert FilterRules.of(DataConfig(**data)).any  # type: ignore[arg-type]


def look(file: Path, rules: FilterRules, **options: str) -> filters.DocumentScan:
    return filters.scan_slice(Slice(describe(file.name, str(file))), ReadOptions(**options), rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["long.txt", "long.jsonl"])
def test_long_document_is_judged_as_a_whole(tmp_path: Path, name: str) -> None:
    """It is read in chunks, none of which is too long, too short or in another charset by itself."""
    content = "a" * (LONGER - 1) + "ä"
    (tmp_path / name).write_text(content if name.endswith("txt") else json.dumps({"text": content}))
    for rules, verdict in (
        (FilterRules(max_length=LONGER - 1), LONG),
        (FilterRules(max_length=LONGER), KEPT),
        (FilterRules(min_length=LONGER + 1), SHORT),
        (FilterRules(charset="ascii"), OTHER_CHARSET),
        (FilterRules(charset="ascii", charset_share=0.99), KEPT),
    ):
        (row,) = look(tmp_path / name, rules)
        assert (row["verdict"], row["size"]) == (verdict, LONGER + 1)


def test_documents_with_the_same_start_are_not_equal(tmp_path: Path) -> None:
    body = "a" * LONGER
    (tmp_path / "x.txt").write_text("|".join([body + "1", body + "2", body + "1", body]))
    seen = look(tmp_path / "x.txt", FilterRules(dedup=True), separator="|")
    filters.mark_duplicates([seen])
    assert seen["verdict"].tolist() == [KEPT, KEPT, DUPLICATE, KEPT]


words = st.lists(st.sampled_from(["a", "b", "cc", "dd", "ccc", "é"]), max_size=30)


@given(words, st.lists(st.integers(0, 30), max_size=4), st.sampled_from([None, 2]))
def test_first_of_equal_documents_is_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int], least: int | None
) -> None:
    file = tmp_path_factory.getbasetemp() / "repeated.txt"
    file.write_text("|".join(texts))
    seen = look(file, FilterRules(min_length=least, dedup=True), separator="|")
    parts = np.split(seen, sorted(min(cut, len(seen)) for cut in cuts))
    filters.mark_duplicates(parts)
    met: set[str] = set()
    expected = []
    for text in texts:
        good = len(text) >= (least or 0)
        expected.append(SHORT if not good else DUPLICATE if text in met else KEPT)
        met |= {text} if good else set()
    assert np.concatenate(parts)["verdict"].tolist() == expected


def test_dropped_documents_are_counted_by_reason() -> None:
    rows = np.zeros(6, dtype=filters.SCAN_ROW)
    rows["verdict"] = [KEPT, SHORT, LONG, LONG, OTHER_CHARSET, DUPLICATE]
    counts = {"too short": 2, "too long": 4, "not in the charset": 2, "duplicate": 2}
    assert filters.drop_counts([rows, rows]) == counts
    assert filters.drop_counts([]) == filters.drop_counts([rows[:1]]) == {}


def test_kept_fraction_is_of_bytes() -> None:
    rows = np.array([(30, KEPT, 0, 0), (50, SHORT, 0, 0), (20, DUPLICATE, 0, 0)], dtype=filters.SCAN_ROW)
    assert filters.kept_fraction([rows, rows[:1]]) == 60 / 130
    assert filters.kept_fraction([]) == 1
    assert filters.kept_fraction([rows[:0]]) == 0


def test_kept_chunks_have_the_size_of_their_document() -> None:
    chunks = [
        Chunk("a", "1", last=False),
        Chunk("a", "2"),
        Chunk("b", "3"),
        Chunk("c", "4", last=False),
        Chunk("c", "5"),
    ]
    seen = np.array([(20, KEPT, 0, 0), (10, SHORT, 0, 0), (30, KEPT, 0, 0)], dtype=filters.SCAN_ROW)
    found = [(chunk.document, chunk.text, chunk.size) for chunk in filters.kept_chunks(chunks, seen)]
    assert found == [("a", "1", 20), ("a", "2", 20), ("c", "4", 30), ("c", "5", 30)]


# In a built dataset


def left(make: "DatasetMaker", *sources: str, **data: Any) -> tuple[str, dict[str, int]]:
    """The kept documents in order, and the counts of dropped ones."""
    made = make.dataset(make.spec(*sources, out=make.fresh(), val=0.0, **data))
    ids, end = made.split("train").read(0, len(made.split("train"))).tolist(), made.tokenizer.end_of_text
    marked = "".join("|" if i == end else made.tokenizer.decode([i]) for i in ids)
    return marked, made.manifest["dropped"]


@pytest.fixture
def texts(make: "DatasetMaker") -> "DatasetMaker":
    make.folder.joinpath("a.txt").write_text("one%two%one%three")
    make.folder.joinpath("b.jsonl").write_text('{"text": "two"}\n{"text": "four"}\n{"text": "Käse"}\n')
    return make


def test_duplicates_are_found_across_files_and_formats(texts: "DatasetMaker") -> None:
    found = left(texts, "a.txt", "b.jsonl", separator="%", dedup=True)
    assert found == ("one|two|three|four|Käse|", {"duplicate": 2})


def test_weight_repeats_are_not_duplicates(texts: "DatasetMaker") -> None:
    found = left(texts, "b.jsonl", "a.txt:2", separator="%", dedup=True)
    assert found == ("two|four|Käse|one|three|one|three|", {"duplicate": 2})


def test_file_named_twice_has_duplicates(texts: "DatasetMaker") -> None:
    assert left(texts, "b.jsonl", "b.jsonl", dedup=True) == ("two|four|Käse|", {"duplicate": 3})


def test_each_drop_reason_is_counted(texts: "DatasetMaker") -> None:
    rules = {"min_length": 4, "max_length": 4, "charset": "ascii"}
    found = left(texts, "a.txt", "b.jsonl", separator="%", **rules)
    assert found == ("four|", {"too short": 4, "too long": 1, "not in the charset": 1})


def test_text_that_grows_after_the_scan_is_refused(texts: "DatasetMaker") -> None:
    file = texts.folder / "a.txt"
    seen = look(file, FilterRules(dedup=True), separator="%")
    file.write_text(file.read_text() + "%five")
    chunks = read_slice(Slice(describe("a.txt", str(file))), ReadOptions(separator="%"))
    with pytest.raises(UserError, match=r"'a\.txt@18' is new: the text changed while it was read"):
        list(filters.kept_chunks(chunks, seen))
