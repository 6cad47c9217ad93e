"""The text of several sources: the whole of it, or a sample."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.text import chunking, plain, source_text, sources
from fledge.text.inputs import ReadCounts, ReadOptions
from fledge.text.source_text import open_sources

LINE = "line %05d\n"  # eleven bytes
CHUNK_SIZE = 110


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """Short texts have as many chunks as long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "CHUNK_SIZE", CHUNK_SIZE)
        patch.setattr(chunking, "WINDOW", 16)
        for module in (chunking, plain):
            patch.setattr(module, "READ_SIZE", 64)
        patch.setattr(sources, "SAMPLED_SLICE", 4 * CHUNK_SIZE)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 11,000 bytes, and five of 1,100."""
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


def test_chunks_are_the_whole_text_in_the_given_order(folder: Path) -> None:
    counts = ReadCounts()
    found = open_sources([str(folder / "short-b.txt"), str(folder / "short-a.txt")])
    assert "".join(chunk.text for chunk in found.chunks(counts)) == "".join(
        (folder / f"short-{name}.txt").read_text() for name in "ba"
    )
    assert (counts.documents, counts.bytes) == (2, 2200)


def test_size_counts_each_input_by_its_weight(folder: Path) -> None:
    assert open_sources([str(folder)]).size == 16_500
    assert open_sources([f"{folder}/short-a.txt:2", f"{folder}/long.txt:0.5"]).size == 2_200 + 5_500


def test_sample_larger_than_the_text_is_the_text(folder: Path) -> None:
    found = open_sources([str(folder)])
    assert list(found.sample(found.size)) == list(found.chunks())


@settings(max_examples=50)
@given(limit=st.integers(1, 11_000))
def test_sample_has_about_the_requested_size_without_repeats(folder: Path, limit: int) -> None:
    texts = [chunk.text for chunk in open_sources([str(folder / "long.txt")]).sample(limit)]
    assert limit <= sum(map(len, texts)) < limit + 2 * CHUNK_SIZE
    assert texts == sorted(set(texts))


@settings(max_examples=50)
@given(limit=st.integers(2_000, 16_000))
def test_sample_is_spread_over_the_text(folder: Path, limit: int) -> None:
    found = open_sources([str(folder)])
    sampled = list(found.sample(limit))
    before = taken = 0
    for each in found.inputs:
        before += each.size or 0
        taken += sum(len(chunk.text) for chunk in sampled if chunk.document == each.name)
        assert abs(taken - limit * before / found.size) <= 4 * CHUNK_SIZE


def test_small_sample_reads_only_the_slices_it_uses(folder: Path, opened: list[Any]) -> None:
    found = open_sources([str(folder / "long.txt")])
    taken = list(found.sample(3 * CHUNK_SIZE))
    assert len(opened) == len(taken) == 3
    assert len(found.slices(sources.SAMPLED_SLICE)) == 25


@settings(max_examples=50)
@given(weight=st.sampled_from([0.2, 0.5, 0.8]), limit=st.integers(500, 4_000))
def test_sample_of_a_weighted_source_is_part_of_it(folder: Path, weight: float, limit: int) -> None:
    found = open_sources([f"{folder}/long.txt:{weight}"])
    assume(limit < found.size)
    sampled, shared = ({chunk.text for chunk in chunks} for chunks in (found.sample(limit), found.chunks()))
    assert sampled
    assert sampled <= shared


def test_options_apply_to_the_text(folder: Path) -> None:
    found = open_sources([str(folder)], ReadOptions(separator="00"), include=["long.txt"])
    assert [each.name for each in found.inputs] == [str(folder / "long.txt")]
    assert next(found.chunks()).text == "line "


@pytest.mark.parametrize("content", ["", "\ufeff", " \n\t\n", "\n" * 1000])
def test_empty_text_is_refused_by_the_names_of_its_sources(tmp_path: Path, content: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(content)
    named = [str(tmp_path / f"{name}.txt") for name in "ab"]
    with pytest.raises(UserError) as caught:
        open_sources(named)
    assert caught.value.message == f"there is no text in '{named[0]}', '{named[1]}'"
    assert caught.value.hint == "give a file or folder that contains text"


def test_weight_that_samples_nothing_is_explained(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one document")
    with pytest.raises(UserError, match=r"no text in '.*one\.txt:0\.0001'") as caught:
        open_sources([f"{tmp_path}/one.txt:0.0001"])
    assert "may leave none of a few" in caught.value.hint
