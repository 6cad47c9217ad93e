"""Text → a dataset: the same bytes every time, and nanoGPT's ids and cut."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fledge.base.errors import UserError
from fledge.cli import main
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Dataset
from fledge.recipes.prepare import PROBE, ensure, prepare
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.char import CharTokenizer
from fledge.tokens.config import TokenizerConfig

CHAR = TokenizerConfig(kind="char")
PLAIN = TokenizerConfig(kind="char", end_of_text=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    folder = tmp_path / "poems"
    folder.mkdir()
    for number in range(130):
        (folder / f"{number:03d}.txt").write_text(f"poem {number}: {'la ' * (number % 7 + 1)}\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def ids(dataset: Dataset, split: str) -> list[int]:
    return dataset.splits[split].read(0, len(dataset.splits[split])).tolist()


def text_of(dataset: Dataset, split: str) -> str:
    return dataset.tokenizer.decode(ids(dataset, split))


def test_preparing_again_gives_the_same_bytes(poems: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare([str(poems)], CHAR, DataConfig(test=0.1), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_no_character_is_lost_or_added(poems: Path, tmp_path: Path) -> None:
    whole = "".join(path.read_text() for path in sorted(poems.iterdir()))
    made = prepare([str(poems)], PLAIN, DataConfig(val=0.0), tmp_path / "out")
    assert text_of(made, "train") == whole


def test_every_document_is_followed_by_the_end_of_text(poems: Path, tmp_path: Path) -> None:
    made = prepare([str(poems)], CHAR, DataConfig(val=0.0), tmp_path / "out")
    found, end = ids(made, "train"), made.tokenizer.end_of_text
    assert found.count(end) == 130
    starts = list(made.splits["train"].document_starts())
    assert starts[0] == 0
    assert [found[start - 1] for start in starts[1:]] == [end] * 129


def test_the_manifest_counts_tokens_documents_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grün🦆" * 10)
    made = prepare([str(tmp_path / "a.txt")], PLAIN, DataConfig(val=0.0), tmp_path / "out")
    counted = json.loads((made.folder / "dataset.json").read_text())["splits"]["train"]
    assert (counted["tokens"], counted["documents"], counted["bytes"]) == (50, 1, 90)


def test_many_documents_are_split_whole_and_few_by_their_ends(poems: Path, tmp_path: Path) -> None:
    many = prepare([str(poems)], PLAIN, DataConfig(val=0.3), tmp_path / "many")
    lines = {path.read_text() for path in poems.iterdir()}
    assert set(text_of(many, "val").splitlines(keepends=True)) < lines
    few = prepare([str(poems / "006.txt")], PLAIN, DataConfig(val=0.5), tmp_path / "few")
    whole = (poems / "006.txt").read_text()
    assert text_of(few, "train") + text_of(few, "val") == whole
    assert len(text_of(few, "train")) == len(whole) // 2


def test_shakespeare_has_nanogpts_vocabulary_ids_and_cut(tmp_path: Path) -> None:
    if "FLEDGE_TEST_DATA" not in os.environ:
        pytest.skip("FLEDGE_TEST_DATA is not set")
    source = Path(os.environ["FLEDGE_TEST_DATA"]) / "shakespeare" / "input.txt"
    made = prepare([str(source)], PLAIN, DataConfig(split_by="tail", val=0.1), tmp_path / "out")
    text = source.read_text(encoding="utf-8")
    places = {c: i for i, c in enumerate(sorted(set(text)))}
    theirs = np.array([places[c] for c in text], dtype=np.uint16)
    cut = int(len(text) * 0.9)
    assert made.tokenizer.vocab_size == len(places) == 65
    assert (len(made.splits["train"]), len(made.splits["val"])) == (1_003_854, 111_540)
    assert np.array_equal(made.splits["train"].read(0, cut), theirs[:cut])
    assert np.array_equal(made.splits["val"].read(0, len(text) - cut), theirs[cut:])


def test_what_exists_is_never_overwritten(poems: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prepare([str(poems)], CHAR, DataConfig(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_given_tokenizer_is_used_as_it_is(poems: Path, tmp_path: Path) -> None:
    given_one = CharTokenizer.train(["zyx poem:la0123456789\n"])
    tokenizers.save(given_one, tmp_path / "t.json")
    made = prepare([str(poems)], TokenizerConfig(file=str(tmp_path / "t.json")), DataConfig(), tmp_path / "out")
    assert made.tokenizer.to_json() == given_one.to_json()


def test_a_text_the_given_tokenizer_cannot_write_is_refused_and_leaves_nothing(poems: Path, tmp_path: Path) -> None:
    tokenizers.save(CharTokenizer.train(["poem"]), tmp_path / "t.json")
    config = TokenizerConfig(file=str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="not in the vocabulary"):
        prepare([str(poems)], config, DataConfig(), tmp_path / "new" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poems", "t.json"]


def test_what_is_needed_is_prepared_once_and_then_opened(poems: Path, cache: Path) -> None:
    data = DataConfig(corpus=str(poems))
    first = ensure(data, CHAR)
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert ensure(data, CHAR).folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == stamps


@pytest.mark.parametrize(
    "change",
    [
        lambda poems: (poems / "new.txt").write_text("one more poem"),
        lambda poems: (poems / "000.txt").write_text("POEM 0: la \n"),
        lambda poems: (poems / "000.txt").unlink(),
    ],
    ids=["added", "changed", "removed"],
)
def test_a_text_that_changed_is_prepared_anew(poems: Path, change: Callable[[Path], object]) -> None:
    data = DataConfig(corpus=str(poems))
    first = ensure(data, CHAR)
    change(poems)
    assert ensure(data, CHAR).folder != first.folder


@pytest.mark.parametrize(
    ("data", "tokenizer"),
    [
        ({"val": 0.2}, {}),
        ({"test": 0.2}, {}),
        ({"split_by": "tail"}, {}),
        ({}, {"end_of_text": False}),
        ({}, {"unknown": "map"}),
    ],
)
def test_other_settings_give_another_dataset(poems: Path, data: dict[str, float], tokenizer: dict[str, bool]) -> None:
    first = ensure(DataConfig(corpus=str(poems)), CHAR)
    other = ensure(DataConfig(corpus=str(poems), **data), replace(CHAR, **tokenizer))  # type: ignore[arg-type]
    assert other.folder != first.folder


def test_the_stride_is_no_part_of_a_dataset(poems: Path) -> None:
    first = ensure(DataConfig(corpus=str(poems)), CHAR)
    assert ensure(DataConfig(corpus=str(poems), stride=7), CHAR).folder == first.folder


def test_a_tokenizer_file_whose_content_changed_gives_another_dataset(poems: Path, tmp_path: Path) -> None:
    file, folders = tmp_path / "t.json", set()
    for extra in "!?":
        tokenizers.save(CharTokenizer.train(["poem:la 0123456789\n" + extra]), file)
        folders.add(ensure(DataConfig(corpus=str(poems)), TokenizerConfig(file=str(file))).folder)
    assert len(folders) == 2


def test_a_prepared_path_wins_over_a_corpus(poems: Path, tmp_path: Path) -> None:
    made = prepare([str(poems)], CHAR, DataConfig(), tmp_path / "out")
    opened = ensure(DataConfig(corpus="absent", path=str(tmp_path / "out")), CHAR)
    assert opened.fingerprint == made.fingerprint


def test_a_short_text_can_be_prepared_without_any_setting(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Once upon a time there was a duck.\n" * 30)
    made = prepare([str(tmp_path / "short.txt")], TokenizerConfig(), DataConfig(val=0.0), tmp_path / "out")
    assert text_of(made, "train") == "Once upon a time there was a duck.\n" * 30


@pytest.mark.parametrize("size", [PROBE // 2 - 1, PROBE // 2, PROBE // 2 + 1])
def test_the_estimate_is_made_where_the_text_ends_as_the_clock_would_start(tmp_path: Path, size: int) -> None:
    (tmp_path / "text.txt").write_text(("all work and no play\n" * (size // 20))[:size])
    out = tmp_path / "out"
    assert main(["prepare", str(tmp_path / "text.txt"), "--out", str(out), "--tokenizer.kind", "char"]) == 0
    assert (out / "dataset.json").exists()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_separator_is_written_as_people_write_it(tmp_path: Path, end: str) -> None:
    (tmp_path / "text.txt").write_bytes(f"one{end}{end}two{end}{end}three".encode())
    data = DataConfig(separator=repr(end * 2)[1:-1], val=0.0)
    assert text_of(prepare([str(tmp_path / "text.txt")], PLAIN, data, tmp_path / "out"), "train") == "onetwothree"


def test_a_dataset_inside_its_own_text_is_refused(poems: Path) -> None:
    with pytest.raises(UserError, match="inside the text"):
        prepare([str(poems)], CHAR, DataConfig(), poems / "made" / "out")
    assert prepare([str(poems)], CHAR, DataConfig(), poems / ".hidden" / "out").splits  # no text there
