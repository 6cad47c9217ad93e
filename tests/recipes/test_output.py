"""What the commands print: text for people, one JSON document for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.core.config import read_overrides
from fledge.core.files import cache_dir
from fledge.recipes import doctor
from fledge.settings.layers import preset_files
from fledge.settings.pipeline import resolve
from fledge.text.corpora import CORPORA

TEXT = "Once upon a time there was a duck.\n" * 40
CHAR = ["--tokenizer.kind", "char"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (folder / "duck.txt").write_text(TEXT)
    return folder


@pytest.fixture
def tokenizer(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["tokenizer", "train", "duck.txt", "--kind", "char", "--out", "duck.json"]) == 0
    capsys.readouterr()
    return "duck.json"


def json_of(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    """Parse the output of a command with --json: one document and nothing else."""
    assert main(list(argv)) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "argv",
    [
        ["doctor", "--json"],
        ["corpora", "--json"],
        ["corpora", "python", "--json"],
        ["presets", "--json"],
        ["presets", "demo", "--json"],
        ["runs", "--json"],
        ["prepare", "duck.txt", "--out", "data", *CHAR, "--json"],
        ["prepare", "--json", "duck.txt", "--out", "data", *CHAR],
        ["tokenizer", "--json", "train", "duck.txt", "--kind", "char", "--out", "new.json"],
        ["tokenizer", "train", "duck.txt", "--kind", "char", "--out", "new.json", "--json"],
        ["tokenizer", "--json", "show", "duck.json", "a duck"],
        ["tokenizer", "show", "duck.json", "a duck", "--json"],
        ["train", "demo", "--print-config", "--json"],
    ],
    ids=" ".join,
)
def test_json_is_one_document_on_stdout(tokenizer: str, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    json_of(capsys, *argv)


@pytest.mark.parametrize(
    "argv",
    [["doctor"], ["corpora"], ["corpora", "python"], ["presets"], ["presets", "demo"], ["runs"]],
    ids=" ".join,
)
def test_text_without_json_fits_the_screen(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.strip()
    assert not out.lstrip().startswith(("{", "[{"))
    assert max(len(line) for line in out.splitlines() if str(cache_dir()) not in line) <= 120


def test_doctor_gives_a_reason_for_each_choice(capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(capsys, "doctor", "--json")
    for name in ("device", "precision", "compile", "threads", "waiting", "load"):
        assert result[name]["value"]
        assert result[name]["why"]


@pytest.mark.parametrize(
    ("load", "shown"),
    [(None, "unknown"), (0.1, "other programs use 0.1 of"), (1.3, "other programs keep 1.3 of")],
)
def test_doctor_shows_the_load(
    load: float | None, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "other_load", lambda: load)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = json_of(capsys, "doctor", "--json")
    assert result["load"]["value"].startswith(shown)
    assert result["threads"] == {"value": "3", "why": "OMP_NUM_THREADS is set"}


def test_json_lists_all_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["name"] for row in json_of(capsys, "presets", "--json")} == set(preset_files())


def test_shown_preset_is_a_valid_config_file(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "demo"]) == 0
    (working_folder / "mine.toml").write_text(capsys.readouterr().out)
    assert resolve("mine.toml") == resolve("demo")


def test_printed_config_is_a_valid_config_file(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "demo", "--model.n_layer", "2", "--print-config"]) == 0
    (working_folder / "mine.toml").write_text(capsys.readouterr().out)
    assert resolve("mine.toml") == resolve("demo", read_overrides(["--model.n_layer", "2"]))
    assert sorted(path.name for path in working_folder.iterdir()) == ["duck.txt", "mine.toml"]


def test_corpora_lists_licence_and_network(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json_of(capsys, "corpora", "--json")}
    assert set(rows) == set(CORPORA)
    assert rows["python"]["network"] is False
    assert (rows["shakespeare"]["licence"], rows["shakespeare"]["size"]) == ("public domain", 1_100_000)
    assert main(["corpora"]) == 0
    assert "1.1 MB" in capsys.readouterr().out


def test_runs_without_runs_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert json_of(capsys, "runs", "--json") == []


def test_tokenizer_show_lists_tokens_and_ids(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(capsys, "tokenizer", "--json", "show", tokenizer, "a duck")
    assert result["tokens"] == list("a duck")
    assert len(result["ids"]) == 6
    assert main(["tokenizer", "show", tokenizer, "ad"]) == 0
    assert f"a·{result['ids'][0]} d·{result['ids'][2]}" in capsys.readouterr().out


def test_tokenizer_show_prints_no_escape_sequences(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (working_folder / "esc.txt").write_text("a\x1b[2J")
    assert main(["tokenizer", "train", "esc.txt", "--kind", "char", "--out", "esc.json"]) == 0
    assert main(["tokenizer", "show", "esc.json", "\x1b[2J"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_prepare_reports_the_content_of_the_dataset(working_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--data.val", "0.1", "--json")
    assert result["folder"] == "data"
    assert result["splits"]["train"]["tokens"] == int(0.9 * len(TEXT)) + 1
    assert sum(split["bytes"] for split in result["splits"].values()) == len(TEXT)
    assert (working_folder / "data" / "dataset.json").exists()


def test_prepare_takes_tokenizer_settings(capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(
        capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--tokenizer.end_of_text", "false", "--json"
    )
    assert result["vocab_size"] == len(set(TEXT))


def test_prepare_takes_a_tokenizer_file(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    json_of(capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--tokenizer", tokenizer, "--json")
    assert Path("data/tokenizer.json").read_bytes() == Path(tokenizer).read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.bigram_rows", "100"], "--portable means no bigram table"),
        (["--init", "bird"], "--portable is for a new model"),
    ],
)
def test_portable_is_not_combined_with_another_table(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "text", "--portable", *words]) == 2
    assert said in capsys.readouterr().err


def test_portable_model_has_no_bigram_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "duck.txt"
    text.write_text("A duck is no dog. " * 5000)
    found = []
    for words in ([], ["--portable"]):
        assert main(["train", str(text), "--train.steps", "3", "--print-config", "--json", *words]) == 0
        found.append(json.loads(capsys.readouterr().out)["model"].get("bigram_rows"))
    assert found == [65_536, None]
