"""The suffix array against a brute-force search, its files, and what happens when they are damaged or interrupted."""

import errno
import itertools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset, Split
from fledge.insight import build_suffix_array, suffix_array
from fledge.insight.build_suffix_array import ensure_suffix_array
from fledge.insight.suffix_array import DESCRIPTION, SuffixArray, index_folder, maximal_spans, open_suffix_array

pytest.importorskip("pydivsufsort")


class FakeTokenizer:
    def __init__(self, vocab_size: int, end_of_text: int | None = None) -> None:
        self.vocab_size, self.end_of_text = vocab_size, end_of_text


def dataset_of(
    documents: Sequence[Sequence[int]], vocab_size: int = 8, shards: int = 1, *, marked: bool = True, name: str = ""
) -> Dataset:
    """A dataset in memory; its shards are cut anywhere, as those of a long document are."""
    ids = np.array([token for document in documents for token in document], dtype="<u4")
    lengths = [len(document) for document in documents]
    starts = np.cumsum([0, *lengths[:-1]])
    cuts = [len(ids) * number // shards for number in range(shards + 1)]
    pieces = [ids[a:b] for a, b in itertools.pairwise(cuts)]
    begun = [starts[(starts >= a) & (starts < b)] - a for a, b in itertools.pairwise(cuts)]
    if not marked:
        begun = [np.zeros(0, dtype=np.uint64) for _ in pieces]
    split = Split("train", pieces, [each.astype(np.uint64) for each in begun])
    digest = f"{name}{hash((tuple(map(tuple, documents)), vocab_size))}"
    manifest = {"tokenizer": "", "splits": {"train": {"shards": [{"sha256": digest}]}}}
    end = None if marked else vocab_size - 1
    return Dataset(Path(), FakeTokenizer(vocab_size, end), {"train": split}, manifest)  # type: ignore[arg-type]


def occurrences(documents: Sequence[Sequence[int]], ids: Sequence[int]) -> list[int]:
    """Brute force: where the sequence stands within one document."""
    found, begin = [], 0
    for document in documents:
        found += [
            begin + at for at in range(len(document) - len(ids) + 1) if list(document[at : at + len(ids)]) == list(ids)
        ]
        begin += len(document)
    return found


def longest(documents: Sequence[Sequence[int]], text: Sequence[int], at: int) -> int:
    length = 0
    while at + length < len(text) and occurrences(documents, text[at : at + length + 1]):
        length += 1
    return length


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def in_memory(dataset: Dataset) -> SuffixArray:
    """The array without files, which fsync makes slow."""
    split = dataset.split("train")
    starts = suffix_array.document_starts(dataset, split)
    plans = build_suffix_array.plan_pieces(split, starts, dataset.tokenizer.vocab_size)
    pieces = []
    for plan in plans:
        positions = np.concatenate(list(build_suffix_array.sorted_positions(split, plan, lambda _: None)))
        assert len(positions) == plan.stop - plan.begin
        pieces.append(suffix_array.Piece(plan.begin, plan.stop, plan.end, positions))
    return SuffixArray(split, starts, pieces)


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@hypothesis_settings(max_examples=60)
@given(st.lists(TOKENS, min_size=2, max_size=5), st.lists(st.integers(0, 4), max_size=25), st.data())
def test_matches_agree_with_brute_force(documents: list[list[int]], text: list[int], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_suffix_array, "PIECE_BYTES", data.draw(st.sampled_from([30, 60, 1 << 20])))
        patch.setattr(build_suffix_array, "OVERLAP", 25)
        vocab_size = data.draw(st.sampled_from([5, 300, 65_536, 100_000]))
        array = in_memory(dataset_of(documents, vocab_size, data.draw(st.integers(1, 3))))
    assert array.longest_matches(text).tolist() == [longest(documents, text, at) for at in range(len(text))]
    for first, end in maximal_spans(array.longest_matches(text)):
        found = array.find(text[first:end], limit=10**6)
        assert found.positions.tolist() == occurrences(documents, text[first:end])
        assert found.count == array.count(text[first:end]) == len(found.positions)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20), st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_maximal_spans_contain_every_match_and_no_other_span(document: list[int], text: list[int]) -> None:
    lengths = np.array([longest([document], text, at) for at in range(len(text))])
    spans = maximal_spans(lengths, 2)
    for at, length in enumerate(lengths):
        if length >= 2:
            assert any(first <= at and at + length <= end for first, end in spans)
    assert not any(a <= c and d <= b for a, b in spans for c, d in spans if (a, b) != (c, d))


def test_a_match_ends_with_its_document() -> None:
    array = ensure_suffix_array(dataset_of([[1, 2, 3], [4, 5, 6]]))
    assert array.longest_matches([2, 3, 4, 5]).tolist() == [2, 1, 2, 1]
    assert array.find([3, 4]).count == 0


def test_documents_of_other_programs_end_with_the_end_of_text() -> None:
    array = ensure_suffix_array(dataset_of([[1, 2, 7], [3, 7]], marked=False))
    assert array.starts.tolist() == [0, 3]
    assert array.longest_matches([2, 7, 3]).tolist() == [2, 1, 1]
    assert array.document_of(3) == (1, 3, 5)


def test_an_empty_text_and_unknown_ids_match_nothing() -> None:
    array = ensure_suffix_array(dataset_of([[1, 2, 3]]))
    assert array.longest_matches([]).tolist() == []
    assert array.longest_matches([6, 7]).tolist() == [0, 0]
    assert array.find([6]).positions.tolist() == []


def test_of_many_occurrences_evenly_spaced_ones_are_named() -> None:
    array = ensure_suffix_array(dataset_of([[1, 2] * 50]))
    found = array.find([1, 2], limit=7)
    assert (found.count, len(found.positions)) == (50, 7)
    assert set(found.positions.tolist()) <= set(range(0, 100, 2))


DOCUMENTS = [[1, 2, 3, 4] * 5, [2, 2, 1]]


def test_it_is_built_once_with_four_bytes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, shares = dataset_of(DOCUMENTS), []
    ensure_suffix_array(dataset, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    sizes = [file.stat().st_size for file in index_folder(dataset).glob("*.positions")]
    assert sum(sizes) == 4 * 23
    monkeypatch.setattr(build_suffix_array, "_build", lambda *_: pytest.fail("built again"))
    assert isinstance(ensure_suffix_array(dataset), SuffixArray)


def test_another_dataset_has_another_array() -> None:
    first, other = dataset_of(DOCUMENTS, name="a"), dataset_of([[5, 6, 7]], name="b")
    ensure_suffix_array(first)
    assert open_suffix_array(other) is None
    assert ensure_suffix_array(other).longest_matches([5, 6]).tolist() == [2, 1]


def change_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def point_outside(file: Path) -> None:
    """A position beyond the text, with the hash of the file as it now is."""
    positions = np.fromfile(file, dtype="<u4")
    positions[0] = 10**6
    positions.tofile(file)
    description = file.parent / DESCRIPTION
    content = checked_content(description.read_bytes(), indent=1)
    content["pieces"][0]["sha256"] = suffix_array.sha256(file)
    description.write_bytes(with_checksum(content, indent=1))


@pytest.mark.parametrize("damage", [change_byte, cut, point_outside, Path.unlink])
def test_a_damaged_file_is_noticed_and_built_again(damage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = dataset_of(DOCUMENTS)
    ensure_suffix_array(dataset)
    damage(index_folder(dataset) / "00000.positions")
    with pytest.raises(suffix_array.DamagedIndex):
        open_suffix_array(dataset)
    assert ensure_suffix_array(dataset).count([1, 2, 3]) == 5
    assert "building it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"format": 2},
        lambda content: content | {"tokens": 5},
        lambda content: content | {"dataset": "another"},
        lambda content: content | {"pieces": []},
        lambda content: content | {"pieces": [content["pieces"][0] | {"end": 10**9}]},
        lambda content: content | {"pieces": [content["pieces"][0] | {"begin": -1}]},
        lambda _: {},
    ],
)
def test_a_wrong_description_is_noticed(change: Any) -> None:
    dataset = dataset_of(DOCUMENTS)
    ensure_suffix_array(dataset)
    path = index_folder(dataset) / DESCRIPTION
    path.write_bytes(with_checksum(change(checked_content(path.read_bytes(), indent=1)), indent=1))
    with pytest.raises(suffix_array.DamagedIndex):
        open_suffix_array(dataset)
    assert ensure_suffix_array(dataset).count([2, 2, 1]) == 1


def test_an_edited_description_is_noticed() -> None:
    dataset = dataset_of(DOCUMENTS)
    ensure_suffix_array(dataset)
    path = index_folder(dataset) / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokens": 22}))
    with pytest.raises(suffix_array.DamagedIndex):
        open_suffix_array(dataset)


def test_interrupted_it_leaves_nothing(cache: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    dataset = dataset_of(DOCUMENTS)
    with pytest.raises(KeyboardInterrupt):
        ensure_suffix_array(dataset, interrupt)
    assert [path.name for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []
    assert ensure_suffix_array(dataset).count([1, 2]) == 5


def test_a_disk_too_small_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_suffix_array.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="needs 92 B"):
        ensure_suffix_array(dataset_of(DOCUMENTS))


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build_suffix_array, "sorted_positions", full)
    with pytest.raises(OSError, match="No space left"):
        ensure_suffix_array(dataset_of(DOCUMENTS))
    assert [path for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydivsufsort", None)
    with pytest.raises(UserError) as caught:
        ensure_suffix_array(dataset_of(DOCUMENTS))
    assert "fledge[studio]" in caught.value.hint


def test_two_at_once_build_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, builds, dataset = build_suffix_array._build, [], dataset_of(DOCUMENTS)

    def build(*given: Any) -> None:
        builds.append(given)
        threading.Event().wait(0.4)  # longer than a lock is tried for
        usual(*given)

    monkeypatch.setattr(build_suffix_array, "_build", build)
    found: list[SuffixArray] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_suffix_array(dataset))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(builds), [array.count([1, 2]) for array in found]) == (1, [5, 5])
