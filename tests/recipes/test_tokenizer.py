"""fledge tokenizer train, show and report, from the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.commands.tokenizer import print_colored
from fledge.cli.main import main
from fledge.cli.output import token_text
from fledge.datasets.cache import build_local
from fledge.datasets.spec import build_spec
from fledge.recipes.tokenizer import tokenize, train_tokenizer
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import load_tokenizer
from fledge.tokenizers.config import TokenizerConfig

TEXT = "Once upon a time there was a duck, and the duck could write in 1999.\n" * 40
TRAIN = ["tokenizer", "train", "duck.txt", "--vocab-size", "290"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    (folder / "duck.txt").write_text(TEXT)
    return folder


@pytest.fixture
def gpt2_files() -> Path:
    import os

    if not os.environ.get("FLEDGE_TEST_DATA"):
        pytest.skip("FLEDGE_TEST_DATA names no folder with gpt2/")
    return Path(os.environ["FLEDGE_TEST_DATA"]) / "gpt2"


def json_of(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_bpe_from_scratch_writes_the_same_file(
    working_folder: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    for out, how in (("fast.json", []), ("scratch.json", ["--from-scratch"])):
        assert json_of(capsys, *TRAIN, "--pattern", pattern, *how, "--out", out)["vocab_size"] == 290
    assert (working_folder / "fast.json").read_bytes() == (working_folder / "scratch.json").read_bytes()


def test_gpt4_pattern_splits_digits_differently(capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, *TRAIN, "--pattern", "gpt4", "--out", "t.json")
    assert "1999" not in json_of(capsys, "tokenizer", "show", "t.json", "1999")["tokens"]


def test_gpt2_tokenizer_is_built_from_its_files(gpt2_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = json_of(capsys, "tokenizer", "train", "--kind", "gpt2", "--gpt2", str(gpt2_files), "--out", "g.json")
    assert trained["vocab_size"] == 50257
    assert json_of(capsys, "tokenizer", "show", "g.json", "Hello world")["ids"] == [15496, 995]


def test_gpt2_files_are_found_in_the_cache_of_tiktoken(
    gpt2_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, cached in gpt2.TIKTOKEN_NAMES.items():
        shutil.copy(gpt2_files / name, tmp_path / cached)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    from fledge.datasets.config import DataConfig

    dataset = build_local(build_spec(["duck.txt"], DataConfig(), TokenizerConfig(kind="gpt2"), "data"))
    assert dataset.tokenizer.vocab_size == 50257
    assert dataset.tokenizer.decode(dataset.split("train").read(0, 5)) == "Once upon a time there"


def test_report_compares_with_gpt2(gpt2_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, *TRAIN, "--out", "t.json")
    result = json_of(capsys, "tokenizer", "report", "t.json", "duck.txt", "--gpt2", str(gpt2_files))
    assert result["note"] is None
    ours, theirs = result["tokenizers"]["t.json"], result["tokenizers"]["GPT-2"]
    for result in (ours, theirs):
        assert (result["bytes"], result["words"]) == (len(TEXT), len(TEXT.split()))
        assert result["bytes_per_token"] == pytest.approx(len(TEXT) / result["tokens"])
        assert result["tokens_per_word"] == pytest.approx(result["tokens"] / len(TEXT.split()))
        assert 0 < result["vocabulary_used"] < 1
        assert len(result["worst_passages"]) == 3
    ids = load_tokenizer(Path("t.json")).encode(TEXT)
    assert ours["tokens"] == len(ids)
    assert ours["vocabulary_used"] == pytest.approx(len(set(ids.tolist())) / 290)
    assert len(ours["longest_tokens"][0]) == max(map(len, ours["longest_tokens"]))


def test_report_notes_missing_gpt2_files(capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, *TRAIN, "--out", "t.json")
    result = json_of(capsys, "tokenizer", "report", "t.json", "duck.txt")
    assert list(result["tokenizers"]) == ["t.json"]
    assert "vocab.bpe" in result["note"]
    assert main(["tokenizer", "report", "t.json", "duck.txt"]) == 0
    out = capsys.readouterr().out
    assert "not compared with GPT-2" in out
    assert "bytes per token" in out


def test_worst_passage_is_the_least_compressed(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, *TRAIN, "--out", "t.json")
    (working_folder / "mixed.txt").write_text(
        TEXT + "Съешь ещё этих мягких французских булок, да выпей чаю. " * 3 + TEXT
    )
    result = json_of(capsys, "tokenizer", "report", "t.json", "mixed.txt")
    worst = result["tokenizers"]["t.json"]["worst_passages"]
    assert "французских" in worst[0]["text"] + worst[1]["text"]
    assert worst[0]["bytes_per_token"] <= worst[1]["bytes_per_token"] <= worst[2]["bytes_per_token"]


def test_part_of_a_character_is_shown_as_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert token_text("é".encode()) == "é"
    assert token_text(b"\xf0\x9f") == "<f0 9f>"
    print_colored([b"a", b"\x1b[2J", b"\n"])
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["train", "--out", "n.json"], "no text"),
        (["train", "duck.txt", "--kind", "gpt2", "--out", "n.json"], "already trained"),
        (["train", "--kind", "gpt2", "--vocab-size", "99", "--out", "n.json"], "50257"),
        (["train", "--kind", "gpt2", "--gpt2", "nowhere", "--vocab-size", "1", "--out", "n.json"], "vocab_size"),
        (["train", "duck.txt", "--kind", "char", "--from-scratch", "--out", "n.json"], "--from-scratch"),
        (["train", "duck.txt", "--vocab-size", "256", "--out", "n.json"], "256"),
        (["train", "duck.txt", "--vocab-size", "256", "--from-scratch", "--out", "n.json"], "256"),
        (["train", "duck.txt", "--vocab-size", "60000", "--out", "n.json"], "60000"),
        (["train", "duck.txt", "--pattern", "gpt5", "--out", "n.json"], "gpt5"),
        (["report", "missing.json", "duck.txt"], "missing.json"),
        (["report", "duck.txt", "duck.txt"], "duck.txt"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_and_leave_nothing(
    working_folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], named: str
) -> None:
    assert named in error_of(capsys, "tokenizer", *argv)
    assert [path.name for path in working_folder.iterdir()] == ["duck.txt"]


def test_field_of_the_text_can_be_named(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (working_folder / "duck.jsonl").write_text(json.dumps({"body": TEXT}) + "\n")
    argv = ["tokenizer", "train", "duck.jsonl", "--vocab-size", "290", "--out"]
    assert main([*argv, "t.json"]) == 2
    assert "--field NAME" in capsys.readouterr().err
    json_of(capsys, *argv, "t.json", "--field", "body")
    result = json_of(capsys, "tokenizer", "report", "t.json", "duck.jsonl", "--field", "body")
    assert result["tokenizers"]["t.json"]["bytes"] == len(TEXT)


def test_recipes_return_results_and_print_nothing(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train_tokenizer(["duck.txt"], Path("t.json"), TokenizerConfig(vocab_size=290))
    assert (trained.file, trained.kind, trained.vocab_size) == ("t.json", "bpe", 290)
    split = tokenize(Path("t.json"), "a duck")
    assert "".join(split.tokens).encode() == b"".join(split.token_bytes) == b"a duck"
    assert len(split.ids) == len(split.tokens)
    assert capsys.readouterr() == ("", "")
