"""Some sources as one text: all of it, or a sample from everywhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import chunking, plain, source_text
from fledge.text.inputs import ReadCounts, ReadOptions
from fledge.text.source_text import open_sources

LINE = "line %05d\n"  # ten bytes and a line's end
CHUNK_SIZE = 110


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """As in a text of many megabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK_SIZE", CHUNK_SIZE)
        patch.setattr(chunking, "WINDOW", 16)
        for module in (chunking, plain):
            patch.setattr(module, "READ_SIZE", 64)
        patch.setattr(source_text, "STRIDE", 4 * CHUNK_SIZE)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11,000 bytes in a long text, 1,100 in each of five short ones."""
    held = tmp_path_factory.mktemp("texts")
    (held / "long.txt").write_text("".join(LINE % n for n in range(1000)))
    for name in "abcde":
        (held / f"short-{name}.txt").write_text("".join(name + (LINE % n)[1:] for n in range(100)))
    return held


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The slices that are read."""
    found: list[Any] = []
    read = source_text.read_slice

    def noted(part: Any, *rest: Any) -> Any:
        found.append(part)
        return read(part, *rest)

    monkeypatch.setattr(source_text, "read_slice", noted)
    return found


def test_the_pieces_are_all_there_is_in_the_order_it_was_named(folder: Path) -> None:
    counts = ReadCounts()
    found = open_sources([str(folder / "short-b.txt"), str(folder / "short-a.txt")])
    assert "".join(chunk.text for chunk in found.chunks(counts)) == "".join(
        (folder / f"short-{name}.txt").read_text() for name in "ba"
    )
    assert (counts.documents, counts.bytes) == (2, 2200)


def test_the_size_counts_each_text_as_often_as_it_is_read(folder: Path) -> None:
    assert open_sources([str(folder)]).size == 16_500
    assert open_sources([f"{folder}/short-a.txt:2", f"{folder}/long.txt:0.5"]).size == 2_200 + 5_500


def test_a_sample_of_more_than_there_is_is_all_of_it(folder: Path) -> None:
    found = open_sources([str(folder)])
    assert list(found.sample(found.size)) == list(found.chunks())


@settings(max_examples=50)
@given(limit=st.integers(1, 11_000))
def test_a_sample_is_about_as_large_as_asked_for_and_never_comes_twice(folder: Path, limit: int) -> None:
    texts = [chunk.text for chunk in open_sources([str(folder / "long.txt")]).sample(limit)]
    assert limit <= sum(map(len, texts)) < limit + 2 * CHUNK_SIZE
    assert texts == sorted(set(texts))


@settings(max_examples=50)
@given(limit=st.integers(2_000, 16_000))
def test_a_sample_is_from_everywhere(folder: Path, limit: int) -> None:
    found = open_sources([str(folder)])
    sampled = list(found.sample(limit))
    before = taken = 0
    for each in found.inputs:
        before += each.size or 0
        taken += sum(len(chunk.text) for chunk in sampled if chunk.document == each.name)
        assert abs(taken - limit * before / found.size) <= 4 * CHUNK_SIZE


def test_of_a_small_sample_what_is_not_taken_is_not_even_opened(folder: Path, opened: list[Any]) -> None:
    found = open_sources([str(folder / "long.txt")])
    taken = list(found.sample(3 * CHUNK_SIZE))
    assert len(opened) == len(taken) == 3
    assert len(found.slices(source_text.STRIDE)) == 25


@settings(max_examples=50)
@given(weight=st.sampled_from([0.2, 0.5, 0.8]), limit=st.integers(500, 4_000))
def test_a_sample_of_a_share_holds_nothing_that_the_share_does_not(folder: Path, weight: float, limit: int) -> None:
    found = open_sources([f"{folder}/long.txt:{weight}"])
    assume(limit < found.size)
    sampled, shared = ({chunk.text for chunk in chunks} for chunks in (found.sample(limit), found.chunks()))
    assert sampled
    assert sampled <= shared


def test_options_reach_the_text(folder: Path) -> None:
    found = open_sources([str(folder)], ReadOptions(separator="00"), include=["long.txt"])
    assert [each.name for each in found.inputs] == [str(folder / "long.txt")]
    assert next(found.chunks()).text == "line "


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\t\n", "\n" * 1000])
def test_a_text_of_nothing_is_refused_by_the_names_of_its_sources(tmp_path: Path, content: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(content)
    named = [str(tmp_path / f"{name}.txt") for name in "ab"]
    with pytest.raises(UserError) as caught:
        open_sources(named)
    assert caught.value.message == f"there is no text in '{named[0]}', '{named[1]}'"
    assert caught.value.hint == "give a file or folder that contains text"


def test_where_a_share_takes_nothing_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one document")
    with pytest.raises(UserError, match=r"no text in '.*one\.txt:0\.0001'") as caught:
        open_sources([f"{tmp_path}/one.txt:0.0001"])
    assert "may leave none of a few" in caught.value.hint
