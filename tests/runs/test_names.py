"""How a hint names a run: always so that the command works in the current directory."""

from pathlib import Path

import pytest

from fledge.runs.names import run_word


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("runs/bird", "bird"),
        ("runs/my bird", "'my bird'"),
        ("elsewhere/bird", "elsewhere/bird"),
        ("bird", "./bird"),
        ("runs/sweep/trial-0001", "runs/sweep/trial-0001"),
    ],
)
def test_run_is_named_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_word(Path(folder)) == run_word(tmp_path / folder) == word


def test_run_outside_of_the_current_directory_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_word(tmp_path / "runs" / "bird") == str(tmp_path / "runs" / "bird")
