"""The verbs that tell something: words for people, one JSON document for programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.core.config import read_overrides
from fledge.core.files import cache_dir
from fledge.settings.layers import preset_files
from fledge.settings.pipeline import resolve
from fledge.text.corpora import CORPORA

TEXT = "Once upon a time there was a duck.\n" * 40
CHAR = ["--tokenizer.kind", "char"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (folder / "duck.txt").write_text(TEXT)
    return folder


@pytest.fixture
def tokenizer(workplace: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["tokenizer", "train", "duck.txt", "--kind", "char", "--out", "duck.json"]) == 0
    capsys.readouterr()
    return "duck.json"


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    """What a verb prints with --json: stdout must hold one document and nothing else."""
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
def test_with_json_stdout_holds_exactly_one_document(
    tokenizer: str, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    told(capsys, *argv)


@pytest.mark.parametrize(
    "argv",
    [["doctor"], ["corpora"], ["corpora", "python"], ["presets"], ["presets", "demo"], ["runs"]],
    ids=" ".join,
)
def test_without_json_a_person_gets_words_that_fit_the_screen(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.strip()
    assert not out.lstrip().startswith(("{", "[{"))
    assert max(len(line) for line in out.splitlines() if str(cache_dir()) not in line) <= 120


def test_the_doctor_names_device_and_precision_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "doctor", "--json")
    for name in ("device", "precision", "compile"):
        assert found[name]["value"]
        assert found[name]["why"]


def test_all_presets_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["name"] for row in told(capsys, "presets", "--json")} == set(preset_files())


def test_a_preset_is_shown_as_a_file_that_can_be_trained(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "demo"]) == 0
    (workplace / "mine.toml").write_text(capsys.readouterr().out)
    assert resolve("mine.toml") == resolve("demo")


def test_the_printed_config_of_a_preset_can_be_trained(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "demo", "--model.n_layer", "2", "--print-config"]) == 0
    (workplace / "mine.toml").write_text(capsys.readouterr().out)
    assert resolve("mine.toml") == resolve("demo", read_overrides(["--model.n_layer", "2"]))
    assert sorted(path.name for path in workplace.iterdir()) == ["duck.txt", "mine.toml"]


def test_the_corpora_tell_licence_and_network(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in told(capsys, "corpora", "--json")}
    assert set(rows) == set(CORPORA)
    assert rows["python"]["network"] is False
    assert rows["shakespeare"]["licence"] == "public domain"


def test_no_runs_are_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "runs", "--json") == []


def test_a_tokenizer_is_made_and_shows_how_it_cuts(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "tokenizer", "--json", "show", tokenizer, "a duck")
    assert found["tokens"] == list("a duck")
    assert len(found["ids"]) == 6
    assert main(["tokenizer", "show", tokenizer, "ad"]) == 0
    assert f"a·{found['ids'][0]} d·{found['ids'][2]}" in capsys.readouterr().out


def test_what_a_tokenizer_shows_cannot_move_the_terminal(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "esc.txt").write_text("a\x1b[2J")
    assert main(["tokenizer", "train", "esc.txt", "--kind", "char", "--out", "esc.json"]) == 0
    assert main(["tokenizer", "show", "esc.json", "\x1b[2J"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_preparing_tells_what_is_in_the_dataset(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--data.val", "0.1", "--json")
    assert found["folder"] == "data"
    assert found["splits"]["train"]["tokens"] == int(0.9 * len(TEXT)) + 1
    assert sum(split["bytes"] for split in found["splits"].values()) == len(TEXT)
    assert (workplace / "data" / "dataset.json").exists()


def test_a_settings_tokenizer_option_reaches_the_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--tokenizer.end_of_text", "false", "--json")
    assert found["vocab_size"] == len(set(TEXT))


def test_a_tokenizer_file_is_used_for_preparing(tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "prepare", "duck.txt", "--out", "data", *CHAR, "--tokenizer", tokenizer, "--json")
    assert Path("data/tokenizer.json").read_bytes() == Path(tokenizer).read_bytes()
