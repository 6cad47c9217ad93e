"""fledge tokenizer: train, show, report, as a person types them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.datasets.cache import build_local
from fledge.datasets.spec import build_spec
from fledge.recipes.tokenizer import print_coloured, readable
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import load_tokenizer
from fledge.tokenizers.config import TokenizerConfig

TEXT = "Once upon a time there was a duck, and the duck could write in 1999.\n" * 40
TRAIN = ["tokenizer", "train", "duck.txt", "--vocab-size", "290"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_from_scratch_writes_the_same_file(workplace: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    for out, how in (("fast.json", []), ("scratch.json", ["--from-scratch"])):
        assert told(capsys, *TRAIN, "--pattern", pattern, *how, "--out", out)["vocab_size"] == 290
    assert (workplace / "fast.json").read_bytes() == (workplace / "scratch.json").read_bytes()


def test_the_patterns_cut_differently(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, *TRAIN, "--pattern", "gpt4", "--out", "t.json")
    assert "1999" not in told(capsys, "tokenizer", "show", "t.json", "1999")["tokens"]


def test_gpt2s_encoding_is_made_from_its_files(gpt2_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = told(capsys, "tokenizer", "train", "--kind", "gpt2", "--gpt2", str(gpt2_files), "--out", "g.json")
    assert made["vocab_size"] == 50257
    assert told(capsys, "tokenizer", "show", "g.json", "Hello world")["ids"] == [15496, 995]


def test_gpt2s_files_are_found_in_tiktokens_cache_and_used_for_a_dataset(
    gpt2_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, cached in gpt2.TIKTOKEN_NAMES.items():
        shutil.copy(gpt2_files / name, tmp_path / cached)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    from fledge.datasets.config import DataConfig

    dataset = build_local(build_spec(["duck.txt"], DataConfig(), TokenizerConfig(kind="gpt2"), "data"))
    assert dataset.tokenizer.vocab_size == 50257
    assert dataset.tokenizer.decode(dataset.split("train").read(0, 5)) == "Once upon a time there"


def test_the_report_stands_beside_gpt2s(gpt2_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, *TRAIN, "--out", "t.json")
    found = told(capsys, "tokenizer", "report", "t.json", "duck.txt", "--gpt2", str(gpt2_files))
    assert found["note"] is None
    ours, theirs = found["tokenizers"]["t.json"], found["tokenizers"]["GPT-2"]
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


def test_where_gpt2s_files_are_not_the_report_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, *TRAIN, "--out", "t.json")
    found = told(capsys, "tokenizer", "report", "t.json", "duck.txt")
    assert list(found["tokenizers"]) == ["t.json"]
    assert "vocab.bpe" in found["note"]
    assert main(["tokenizer", "report", "t.json", "duck.txt"]) == 0
    out = capsys.readouterr().out
    assert "GPT-2 is not beside it" in out
    assert "bytes per token" in out


def test_the_worst_passage_is_the_one_that_was_least_learned(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, *TRAIN, "--out", "t.json")
    (workplace / "mixed.txt").write_text(TEXT + "Съешь ещё этих мягких французских булок, да выпей чаю. " * 3 + TEXT)
    found = told(capsys, "tokenizer", "report", "t.json", "mixed.txt")
    worst = found["tokenizers"]["t.json"]["worst_passages"]
    assert "французских" in worst[0]["text"] + worst[1]["text"]
    assert worst[0]["bytes_per_token"] <= worst[1]["bytes_per_token"] <= worst[2]["bytes_per_token"]


def test_half_a_character_is_shown_as_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert readable("é".encode()) == "é"
    assert readable(b"\xf0\x9f") == "<f0 9f>"
    print_coloured([b"a", b"\x1b[2J", b"\n"])
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["train", "--out", "n.json"], "no text"),
        (["train", "duck.txt", "--kind", "gpt2", "--out", "n.json"], "made already"),
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
def test_a_mistake_is_refused_and_leaves_nothing(
    workplace: Path, capsys: pytest.CaptureFixture[str], argv: list[str], named: str
) -> None:
    assert named in refused(capsys, "tokenizer", *argv)
    assert [path.name for path in workplace.iterdir()] == ["duck.txt"]


def test_the_field_that_holds_the_text_can_be_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "duck.jsonl").write_text(json.dumps({"body": TEXT}) + "\n")
    argv = ["tokenizer", "train", "duck.jsonl", "--vocab-size", "290", "--out"]
    assert main([*argv, "t.json"]) == 2
    assert "--field NAME" in capsys.readouterr().err
    told(capsys, *argv, "t.json", "--field", "body")
    found = told(capsys, "tokenizer", "report", "t.json", "duck.jsonl", "--field", "body")
    assert found["tokenizers"]["t.json"]["bytes"] == len(TEXT)
