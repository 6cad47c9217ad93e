"""fledge smoke: all of it in one go, and what it says when something does not work."""

import json
import tempfile
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.recipes import smoke


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_smoke_trains_kills_resumes_evaluates_and_generates(
    temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["smoke", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert 0 < result["resumed_from"] < result["killed_at"] <= result["steps"]
    assert result["last_loss"] < result["first_loss"]
    assert result["text"]
    stages = ["text", "train", "kill", "resume", "evaluate", "generate"]
    assert [line.split()[0] for line in printed.err.splitlines()] == stages
    assert list(temporary.iterdir()) == [], "the temporary folder is removed"


def test_smoke_reports_the_error_of_the_training(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "TOML", smoke.TOML.replace("n_head", "n_heads"))
    assert main(["smoke"]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: training failed: ")
    assert "n_heads" in error
    assert "n_head" in hint.removeprefix("hint: ")
    assert list(temporary.iterdir()) == []
