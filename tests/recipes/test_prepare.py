"""fledge prepare and its recipe: reproducible bytes, the ids and splits of nanoGPT, messages."""

import gzip
import io
import json
import os
import random
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.datasets import plan, preview
from fledge.datasets.build import claim_output
from fledge.datasets.cache import build_local, ensure_dataset
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Dataset, open_dataset
from fledge.datasets.spec import build_spec
from fledge.tokenizers.base import END_OF_TEXT, save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig
from tiny import document_starts

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


def prepare(sources: list[str], tokenizer: TokenizerConfig, data: DataConfig, out: Path) -> Dataset:
    return build_local(build_spec(sources, data, tokenizer, str(out)))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def ids(dataset: Dataset, split: str) -> list[int]:
    return dataset.splits[split].read(0, len(dataset.splits[split])).tolist()


def text_of(dataset: Dataset, split: str) -> str:
    return dataset.tokenizer.decode(ids(dataset, split))


def test_preparing_twice_gives_the_same_bytes(poems: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare([str(poems)], CHAR, DataConfig(test=0.1), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tokens_decode_to_the_whole_text(poems: Path, tmp_path: Path) -> None:
    whole = "".join(path.read_text() for path in sorted(poems.iterdir()))
    made = prepare([str(poems)], PLAIN, DataConfig(val=0.0), tmp_path / "out")
    assert text_of(made, "train") == whole


def test_every_document_ends_with_end_of_text(poems: Path, tmp_path: Path) -> None:
    made = prepare([str(poems)], CHAR, DataConfig(val=0.0), tmp_path / "out")
    found, end = ids(made, "train"), made.tokenizer.end_of_text
    assert found.count(end) == 130
    starts = document_starts(made.splits["train"])
    assert starts[0] == 0
    assert [found[start - 1] for start in starts[1:]] == [end] * 129


def test_manifest_counts_tokens_documents_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("grün🦆" * 10)
    made = prepare([str(tmp_path / "a.txt")], PLAIN, DataConfig(val=0.0), tmp_path / "out")
    counted = json.loads((made.folder / "dataset.json").read_text())["splits"]["train"]
    assert (counted["tokens"], counted["documents"], counted["bytes"]) == (50, 1, 90)


def test_many_documents_are_split_whole_few_by_their_tails(poems: Path, tmp_path: Path) -> None:
    many = prepare([str(poems)], PLAIN, DataConfig(val=0.3), tmp_path / "many")
    lines = {path.read_text() for path in poems.iterdir()}
    assert set(text_of(many, "val").splitlines(keepends=True)) < lines
    few = prepare([str(poems / "006.txt")], PLAIN, DataConfig(val=0.5), tmp_path / "few")
    whole = (poems / "006.txt").read_text()
    assert text_of(few, "train") + text_of(few, "val") == whole
    assert len(text_of(few, "train")) == len(whole) // 2


def test_shakespeare_has_the_ids_and_split_of_nanogpt(tmp_path: Path) -> None:
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


def test_existing_folder_is_not_overwritten(poems: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        prepare([str(poems)], CHAR, DataConfig(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_given_tokenizer_is_used_unchanged(poems: Path, tmp_path: Path) -> None:
    given_one = CharTokenizer.train(["zyx poem:la0123456789\n"])
    save_tokenizer(given_one, tmp_path / "t.json")
    made = prepare([str(poems)], TokenizerConfig(file=str(tmp_path / "t.json")), DataConfig(), tmp_path / "out")
    assert made.tokenizer.to_json() == given_one.to_json()


def test_unencodable_text_is_refused_and_leaves_nothing(poems: Path, tmp_path: Path) -> None:
    save_tokenizer(CharTokenizer.train(["poem"]), tmp_path / "t.json")
    config = TokenizerConfig(file=str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="not in the vocabulary"):
        prepare([str(poems)], config, DataConfig(), tmp_path / "new" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poems", "t.json"]


def test_dataset_is_prepared_once_and_then_opened(poems: Path, cache: Path) -> None:
    data = DataConfig(corpus=str(poems))
    first = ensure_dataset(data, CHAR)
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert ensure_dataset(data, CHAR).folder == first.folder
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
def test_changed_text_is_prepared_again(poems: Path, change: Callable[[Path], object]) -> None:
    data = DataConfig(corpus=str(poems))
    first = ensure_dataset(data, CHAR)
    change(poems)
    assert ensure_dataset(data, CHAR).folder != first.folder


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
    first = ensure_dataset(DataConfig(corpus=str(poems)), CHAR)
    other = ensure_dataset(DataConfig(corpus=str(poems), **data), replace(CHAR, **tokenizer))  # type: ignore[arg-type]
    assert other.folder != first.folder


def test_stride_does_not_change_the_dataset(poems: Path) -> None:
    first = ensure_dataset(DataConfig(corpus=str(poems)), CHAR)
    assert ensure_dataset(DataConfig(corpus=str(poems), stride=7), CHAR).folder == first.folder


def test_changed_tokenizer_file_gives_another_dataset(poems: Path, tmp_path: Path) -> None:
    file, folders = tmp_path / "t.json", set()
    for extra in "!?":
        save_tokenizer(CharTokenizer.train(["poem:la 0123456789\n" + extra]), file)
        folders.add(ensure_dataset(DataConfig(corpus=str(poems)), TokenizerConfig(file=str(file))).folder)
    assert len(folders) == 2


def test_data_path_wins_over_corpus(poems: Path, tmp_path: Path) -> None:
    made = prepare([str(poems)], CHAR, DataConfig(), tmp_path / "out")
    opened = ensure_dataset(DataConfig(corpus="absent", path=str(tmp_path / "out")), CHAR)
    assert opened.fingerprint == made.fingerprint


def test_short_text_is_prepared_with_default_settings(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Once upon a time there was a duck.\n" * 30)
    made = prepare([str(tmp_path / "short.txt")], TokenizerConfig(), DataConfig(val=0.0), tmp_path / "out")
    assert text_of(made, "train") == "Once upon a time there was a duck.\n" * 30


# The command line

Say = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder. Every file is a part of its own, the preview is short, and fsync does nothing."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(plan, "MIN_PART", 1)
    monkeypatch.setattr(plan, "MAX_PART", 1)
    monkeypatch.setattr(preview, "SAMPLE_BYTES", 1 << 10)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Call fledge prepare; returns the exit status, the lines of stdout and of stderr."""

    def call(*argv: str) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = main(["prepare", *argv])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return call


LETTERS = "letters.json"
MADE = ["--tokenizer", LETTERS]


def write_letters(folder: Path) -> None:
    """Write a tokenizer that does not depend on the text."""
    save_tokenizer(CharTokenizer(sorted(set("abcdefgh \n�")), END_OF_TEXT), folder / LETTERS)


def test_preview_and_result_are_printed(desk: Path, say: Say) -> None:
    (desk / "one.txt").write_text("a bad cab, a fed hag\n" * 100)
    code, out, err = say("one.txt", "--out", "my data", "--tokenizer.kind", "char", "--data.val", "0.1")
    assert code == 0
    assert err[:2] == [
        "read 1 file (1 txt), 2.1 KB; held out: 10 %, the end of each document",
        "  one.txt                       a·3  ·1 b·4 a·3 d·6  ·1 c·5 a·3 b·4 ,·2  ·1 a·3 …",
    ]
    assert re.fullmatch(r"about 2,101 tokens, 4\.2 KB on disk, 1 s with \d+ workers?", err[2])
    assert len(err) == 3
    assert out == [
        "my data: a vocabulary of 12 tokens",
        "  train          1,891 tokens           1 document      1.9 KB",
        "  val              211 tokens           1 document       210 B",
        "  held out 10 %: 210 B, the end of the document",
        "  read 1 file (1 txt)",
        "done in 1 s; next: fledge train 'my data'",
    ]


def test_tokenizer_option_takes_kind_or_file(desk: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "one.txt").write_text("a bad cab, a fed hag\n" * 100)
    assert say("one.txt", "--out", "by-kind", "--tokenizer", "char")[0] == 0
    assert say("one.txt", "--out", "by-setting", "--tokenizer.kind", "char")[0] == 0
    kind, setting = ((desk / name / "tokenizer.json").read_bytes() for name in ("by-kind", "by-setting"))
    assert kind == setting
    monkeypatch.setattr("fledge.tokenizers.create.default_gpt2_folders", list)
    monkeypatch.setattr("fledge.tokenizers.create.download_gpt2_file", lambda name, *_: desk / "absent" / name)
    _, _, err = say("one.txt", "--out", "gpt2", "--tokenizer", "gpt2")
    assert "absent" in err[0], "OpenAI's files were looked for, not a file named gpt2"
    assert "'chars'" in say("one.txt", "--out", "wrong", "--tokenizer", "chars")[2][0]


def test_odd_and_dropped_text_is_counted(desk: Path, say: Say) -> None:
    (desk / "texts").mkdir()
    for name, content in {
        "a.txt": b"a bad cab",
        "b.txt": b"a bad cab",
        "c.txt": b"",
        "d.jsonl": b'{"text": "a\\u0000\\ud800\\udfff\\ud800 hag"}\n{"text": null}\n{"text": "bad"}\n',
        "e.txt": b"\xef\xbb\xbfa fad\r\n\xff\xfe",
    }.items():
        (desk / "texts" / name).write_bytes(content)
    words = ["--tokenizer.kind", "char", "--data.val", "0", "--data.min_length", "4", "--data.dedup", "true"]
    code, out, _ = say("texts", "--out", "out", *words)
    assert code == 0
    assert out[1:-1] == [
        "  train             28 tokens           3 documents       34 B",
        "  nothing held out",
        "  read 4 files (3 txt, 1 jsonl); skipped 1: 1 empty",
        "  1 document left out: too short",
        "  1 document left out: duplicate",
        "  1 empty document, left out",
        "  2 invalid bytes, now '�'",
        "  1 NUL character, kept",
        "  1 lone surrogate, now '�'",
    ]


def test_help_fits_a_small_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80


def test_json_is_on_stdout_and_notices_on_stderr(desk: Path, say: Say) -> None:
    (desk / "one.txt").write_text("a bad cab\n")
    for again in (False, True):
        code, out, err = say("one.txt", "--out", "data", "--tokenizer.kind", "char", "--data.val=0", "--json")
        assert code == 0
        found = json.loads("\n".join(out))
        assert found["splits"]["train"] == {"tokens": 11, "documents": 1, "bytes": 10}
        assert found["folder"] == "data"
        assert err[0] == ("'data' is already prepared: nothing to do" if again else SEEN_ONCE)


SEEN_ONCE = "read 1 file (1 txt), 10 B; held out: nothing"


def test_lines_fit_the_screen_and_long_names_show_their_end(desk: Path, say: Say) -> None:
    folder = desk / ("deep-" * 20)
    folder.mkdir()
    (folder / "鴨.txt").write_text("鴨" * 50)
    (folder / "long.txt").write_text("Käse 🦆 \x1b[2J" * 50)
    code, out, err = say(folder.name, "--out", "data", "--data.separator", "🦆")
    assert code == 0
    assert [line[:32] for line in err[1:4]] == [
        "  …-deep-deep-deep-/long.txt@0  ",
        "  …deep-deep-deep-/long.txt@10  ",
        "  …deep-deep-deep-/long.txt@25  ",
    ]
    assert all(cell_len(line) <= 100 for line in err + out)
    assert not any("\x1b" in line for line in err)


def test_preview_shows_whole_characters(desk: Path, say: Say) -> None:
    (desk / "duck.txt").write_text("🦆🧀🦉🦉")
    _, _, err = say("duck.txt", "--out", "data", "--tokenizer.vocab_size", "257")
    assert re.search(r"  🦆·\d+\+\d+\+\d+\+\d+ 🧀·[\d+]+ 🦉·[\d+]+ …$", err[1])
    (desk / "cut.txt").write_text("ab🦆🧀🦉")  # twelve tokens end inside a character
    _, _, err = say("cut.txt", "--out", "cut", "--tokenizer.vocab_size", "257")
    assert re.search(r"  a·\d+ b·\d+ 🦆·[\d+]+ 🧀·[\d+]+ …$", err[1])


def test_estimate_of_a_small_text_is_exact(desk: Path, say: Say) -> None:
    (desk / "a.jsonl").write_text('{"text": "a bad cab", "from": "somewhere on the long way"}\n' * 10)
    _, out, err = say("a.jsonl", "--out", "data", "--tokenizer.kind", "char", "--data.val", "0")
    assert err[-1].startswith("about 100 tokens, 200 B on disk, ")
    assert " 100 tokens " in out[1]


def test_estimate_leaves_out_filtered_documents(desk: Path, say: Say) -> None:
    (desk / "a.jsonl").write_text(('{"text": "a bad cab"}\n' * 2 + '{"text": "hag"}\n' * 2) * 10)
    _, _, err = say("a.jsonl", "--out", "data", "--tokenizer.kind", "char", "--data.min_length", "4")
    assert err[-1].startswith("about 210 tokens, ")  # three quarters of 280


def test_finished_parts_are_reported(desk: Path, say: Say) -> None:
    write_letters(desk)
    (desk / "texts").mkdir()
    for name in "ab":
        (desk / "texts" / f"{name}.txt").write_text(f"{name} bad cab\n" * 200)
    (desk / "texts" / "c.txt").write_text("zebra")
    code, _, err = say("texts", "--out", "data", *MADE)
    assert code == 2
    assert err[-2].startswith("error: the character 'z' (U+007A)")
    assert err[-1].endswith("; finished parts are kept: run the same command to continue")
    (desk / "texts" / "c.txt").write_text("a fed")
    code, _, err = say("texts", "--out", "data", *MADE)
    assert code == 0
    assert err[-1] == "2 of 3 parts are finished already"


@pytest.mark.parametrize("setting", ["corpus", "path", "stride"])
def test_setting_without_effect_is_refused(desk: Path, say: Say, setting: str) -> None:
    (desk / "one.txt").write_text("a bad cab")
    code, _, err = say("one.txt", "--out", "data", f"--data.{setting}", "3")
    assert code == 2
    assert err[0] == f"error: data.{setting} has no effect here"
    assert not (desk / "data").exists()


def test_crlf_is_kept_and_can_separate(desk: Path, say: Say) -> None:
    (desk / "one.txt").write_bytes(b"a\r\nbad\r\n\r\ncab\r\n")
    words = [r"--data.separator=\r\n\r\n", "--tokenizer.kind", "char", "--data.val=0", "--data.newlines=keep"]
    assert say("one.txt", "--out", "data", *words)[0] == 0
    made = open_dataset(desk / "data")
    assert text_of(made, "train") == "a\r\nbadcab\r\n"
    assert made.manifest["splits"]["train"]["documents"] == 2


def test_separator_that_is_not_utf8_is_refused(desk: Path, say: Say) -> None:
    (desk / "one.txt").write_text("a bad cab")
    code, _, err = say("one.txt", "--out", "data", "--data.separator", "\udcff")
    assert (code, err[0]) == (2, r"error: data.separator = '\udcff' is not valid UTF-8")


@pytest.mark.parametrize(
    ("words", "named", "hinted"),
    [
        ("--data.charset koi", "data.charset cannot be 'koi'", "latin-1"),
        ("--data.charset utf-16", "data.charset cannot be 'utf-16'", "latin-1"),
        ("--data.charset_share 0", "data.charset_share cannot be 0", "0.9"),
        ("--data.charset_share 1.5", "data.charset_share cannot be 1.5", "0.9"),
        ("--data.min_length 0", "data.min_length cannot be 0", "at least 1"),
        ("--data.min_length 5 --data.max_length 3", "data.min_length = 5 is more than data.max_length = 3", "change"),
        ("--data.val 0.5 --data.test 0.5", "leave nothing to train on", "fractions"),
        ("--data.val=-0.1", "leave nothing to train on", "fractions"),
        ("--data.split_by words", "data.split_by cannot be 'words'", "tail"),
        ("--data.errors ignore", "data.errors cannot be 'ignore'", "strict"),
        ("--data.dedup maybe", "data.dedup cannot be 'maybe'", "true or false"),
        ("--data.include *.md", "no file of 'one.txt' is left", "loosen"),
        ("--tokenizer.vocab_size 60000", "too small for a vocabulary of 60000 tokens", "--tokenizer.vocab_size"),
        ("--data.min_length 1000", "the filters drop every document of 'one.txt' (1 too short)", "loosen the filters"),
        ("--workers 0", "'0' is not a positive integer", "--help"),
        ("--address here:1", "--address is the address of a Ray cluster", "--engine ray"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(
    desk: Path, say: Say, words: str, named: str, hinted: str
) -> None:
    (desk / "one.txt").write_text("a bad cab\n" * 20)
    code, out, err = say("one.txt", "--out", "data", *words.split())
    assert (code, out) == (2, [])
    assert named in err[-2]
    assert hinted in err[-1]
    assert [path.name for path in desk.iterdir()] == ["one.txt"]


# Files that are damaged, and mended


def rows(texts: list[str]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), held, row_group_size=40, compression="none", write_page_checksum=True)
    return held.getvalue()


def zstd(content: bytes) -> bytes:
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, "zstd") as stream:
        stream.write(content)
    return held.getvalue().to_pybytes()


HAGS = ["".join(random.Random(n).choices("abcdefgh ", k=99)) + "\n" for n in range(6000)]
PACKED = {
    "b.txt.gz": gzip.compress("".join(HAGS).encode()),
    "b.txt.zst": zstd("".join(HAGS).encode()),
    "b.parquet": rows(HAGS[:400]),
    "b.jsonl": "".join(json.dumps({"text": line}) + "\n" for line in HAGS[:9]).encode(),
}


@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("b.txt.gz", lambda content: content[: len(content) // 2], "'texts/b.txt.gz' is truncated"),
        ("b.txt.gz", lambda content: content[:-8] + b"\0" * 8, "'texts/b.txt.gz' is damaged"),
        ("b.txt.zst", lambda content: content[: len(content) // 2], "'texts/b.txt.zst' is truncated"),
        ("b.parquet", lambda content: spoiled(content), "'texts/b.parquet' is damaged in row group 5, near row 200"),
        ("b.jsonl", lambda content: content + b'{"text": "a\n', "'texts/b.jsonl' line 10 is not JSON"),
        (
            "b.jsonl",
            lambda content: content + b'{"id": 3}\n',
            "line 10 has no field 'text'; it has: 'id'",
        ),
        ("b.jsonl", lambda content: content + b'{"text": 7}\n', "line 10: the field 'text' is a number, not text"),
    ],
)
@pytest.mark.parametrize("judged", [False, True])
def test_damaged_file_is_named_and_build_continues_once_fixed(
    desk: Path, say: Say, name: str, damage: Callable[[bytes], bytes], named: str, judged: bool
) -> None:
    """Finished parts are kept, and the result is that of a build without damage."""
    write_letters(desk)
    texts = desk / "texts"
    texts.mkdir()
    for other in "ac":
        (texts / f"{other}.txt").write_text("a fed hag\n" * 200)  # more than the preview
    (texts / name).write_bytes(damage(PACKED[name]))
    words = [*MADE, "--data.min_length", "3"] if judged else MADE
    code, out, err = say("texts", "--out", "data", *words, "--data.split_by=document")
    assert (code, out) == (2, [])
    assert named in err[-2]
    assert err[-1].endswith("finished parts are kept: run the same command to continue")
    (texts / name).write_bytes(PACKED[name])
    for folder in ("data", "undisturbed"):
        assert say("texts", "--out", folder, *words, "--data.split_by=document")[0] == 0
    assert contents(desk / "data") == contents(desk / "undisturbed")


def spoiled(content: bytes) -> bytes:
    """Parquet with altered text in the sixth row group, which only the checksum of the page reveals."""
    column = pq.read_metadata(io.BytesIO(content)).row_group(5).column(0)
    at = column.dictionary_page_offset + column.total_compressed_size // 2
    return content[:at] + b"bad cab" + content[at + 7 :]


# Two at once


def test_dataset_locked_by_another_process_is_refused(desk: Path, say: Say) -> None:
    (desk / "one.txt").write_text("a bad cab")
    with claim_output(str(desk / "data")):
        code, _, err = say("one.txt", "--out", "data")
    assert (code, err) == (
        2,
        [f"error: another fledge process is writing '{desk}/data'", "hint: wait for it, or choose another --out"],
    )


def test_dataset_in_preparation_is_waited_for(poems: Path, cache: Path) -> None:
    data, made = DataConfig(corpus=str(poems)), []
    first = ensure_dataset(data, CHAR)
    shutil.rmtree(first.folder)
    waiting = threading.Thread(target=lambda: made.append(ensure_dataset(data, CHAR)))
    with claim_output(str(first.folder)):
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(60)
    assert [dataset.fingerprint for dataset in made] == [first.fingerprint]


@pytest.mark.parametrize("name", ["x" * 250, "a b?c*[d] e", "鴨" * 80, "ü.tar.txt"])
def test_cache_folder_for_any_file_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a bad cab")
    first = ensure_dataset(DataConfig(corpus=str(tmp_path / name)), CHAR)
    assert ensure_dataset(DataConfig(corpus=str(tmp_path / name)), CHAR).folder == first.folder


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_takes_backslash_escapes(tmp_path: Path, end: str) -> None:
    (tmp_path / "text.txt").write_bytes(f"one{end}{end}two{end}{end}three".encode())
    data = DataConfig(separator=repr(end * 2)[1:-1], val=0.0)
    assert text_of(prepare([str(tmp_path / "text.txt")], PLAIN, data, tmp_path / "out"), "train") == "onetwothree"


def test_dataset_inside_its_own_source_is_refused(poems: Path) -> None:
    with pytest.raises(UserError, match="inside the text"):
        prepare([str(poems)], CHAR, DataConfig(), poems / "made" / "out")
    assert prepare([str(poems)], CHAR, DataConfig(), poems / ".hidden" / "out").splits  # no text there
