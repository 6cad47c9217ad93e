"""Text for people: durations, short paths, and text without control characters."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.formatting import format_duration, printable, short_path


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    safe = printable(text)
    assert len(safe) == len(text)
    assert all(c in "\n\t" or ord(c) >= 32 for c in safe)
    assert not set(safe) & {chr(c) for c in range(0x7F, 0xA0)}


def test_printable_keeps_the_text_of_all_languages() -> None:
    text = "Straße, 日本\u3000語, русский, \u00a0 café, 🎭\n\tdef"
    assert printable(text) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_format_duration(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_short_path_is_relative_to_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(tmp_path / "a" / "b.png") == str(Path("a", "b.png"))
    assert short_path(tmp_path.parent / "c.png") == str(tmp_path.parent / "c.png")
