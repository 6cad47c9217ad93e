"""What a person sees: redrawn on a terminal, plain lines anywhere else, and never a code from the model."""

import io
import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking.events import Event, Notice, Sampled, Started
from fledge.tracking.terminal import BARS, LineView, sparkline, view

LiveView = pytest.importorskip("fledge.tracking.live_view", exc_type=ImportError, reason="needs rich").LiveView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_good_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "90", "LINES": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def seen_on(events: list[Event], *, terminal: bool) -> str:
    stream = Terminal() if terminal else io.StringIO()
    screen = view(stream)
    assert isinstance(screen, LiveView if terminal and int(os.environ["COLUMNS"]) >= 40 else LineView)
    for event in events:
        screen.record(event)
    screen.close()
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", stream.getvalue()) if terminal else stream.getvalue()


def test_on_a_terminal_one_sees_progress_numbers_curve_and_sample(events: list[Event]) -> None:
    text = seen_on(events, terminal=True)
    for expected in (
        "tiny: 1,234 parameters on cpu, float32",
        "6 / 6",
        "2.400",
        "validation",
        "2.500",
        "1.67e-04",
        "256",
    ):
        assert expected in text, expected
    assert sparkline([3.0 - step / 10 for step in range(1, 7)], 80) in text
    assert "what it writes after step 6" in text
    assert "abc6" in text
    assert "something to know" in text


def test_anywhere_else_one_sees_plain_lines(events: list[Event]) -> None:
    text = seen_on(events, terminal=False)
    assert "\x1b" not in text
    assert "tiny: 1,234 parameters on cpu, float32" in text
    assert "step 6/6  loss 2.4000  rate 1.67e-04  256 tokens/s" in text
    assert "step 3  val loss 2.8000  (999 tokens)" in text
    assert "sample after step 6:\n    abc6" in text
    assert "finished at step 6 after 12 s" in text


def test_lines_in_a_pipe_are_not_cut_or_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert seen_on([Notice(0, "word " * 100)], terminal=False).count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_control_characters_and_markup_in_a_sample_are_only_shown(terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    screen = view(stream)
    screen.record(Started("[red]tiny[/red]", 0, 3, 12, "cpu", "float32", False))
    screen.record(Sampled(1, "[bold]a[/bold]", "x\x1b[2J\x1b]0;title\x07\rb\x08\x9b31m\u202e"))
    screen.close()
    text = stream.getvalue()
    assert "\x1b[2J" not in text
    for forbidden in ("\x1b]", "\x07", "\x08", "\x9b", "\u202e"):
        assert forbidden not in text
    assert "[bold]a[/bold]" in text
    assert "[red]tiny[/red]" in text


def test_a_narrow_terminal_is_no_reason_to_fail(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert "step 6/6" in seen_on(events, terminal=True)


def test_without_rich_there_are_lines(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(view(Terminal()), LineView)


def test_a_view_that_is_closed_before_it_began_says_nothing() -> None:
    assert seen_on([], terminal=True).strip() == ""


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_a_sparkline_is_as_long_as_it_may_be_and_spans_all_heights(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(BARS)
    if len(set(values)) > 1 and len(values) <= width:
        assert line[values.index(min(values))] == BARS[0]
        assert line[values.index(max(values))] == BARS[-1]


def test_a_falling_curve_falls() -> None:
    assert sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8) == BARS[::-1]
    assert sparkline([float(v) for v in range(800, 0, -1)], 8) == BARS[::-1]


def test_a_curve_of_nothing_is_empty_and_what_is_no_number_is_left_out() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([float("nan"), float("inf")], 10) == ""
    assert sparkline([1.0, float("nan"), 2.0], 10) == BARS[0] + BARS[-1]
