"""The live view on a terminal, plain lines anywhere else, and no control characters from the model."""

import io
import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking import terminal as view
from fledge.tracking.events import Activity, Anomaly, Event, Metrics, Notice, RolledBack, Sample, Started
from fledge.tracking.terminal import BARS, LineView, RunProgress, format_metrics, sparkline, terminal_view

LiveView = pytest.importorskip("fledge.tracking.live_view", exc_type=ImportError, reason="needs rich").LiveView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _terminal_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "90", "LINES": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def output_on(events: list[Event], *, terminal: bool) -> str:
    stream = Terminal() if terminal else io.StringIO()
    screen = terminal_view(stream)
    assert isinstance(screen, LiveView if terminal and int(os.environ["COLUMNS"]) >= 40 else LineView)
    for event in events:
        screen.record(event)
    screen.close()
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", stream.getvalue()) if terminal else stream.getvalue()


def test_live_view_shows_progress_metrics_curve_and_sample(events: list[Event]) -> None:
    text = output_on(events, terminal=True)
    for expected in (
        "tiny: 1,234 parameters on cpu, float32",
        "6 / 6",
        "loss 2.4000",
        "best 2.5000",
        "lr 1.67e-04",
        "256 tokens/s",
        "bits per byte 3.8000",
    ):
        assert expected in text, expected
    assert sparkline([3.0 - step / 10 for step in range(1, 7)], 80) in text
    assert "sample after step 6" in text
    assert "abc6" in text
    assert "something to know" in text


def test_line_view_shows_plain_lines(events: list[Event]) -> None:
    text = output_on(events, terminal=False)
    assert "\x1b" not in text
    assert "tiny: 1,234 parameters on cpu, float32" in text
    assert "step 6/6  loss 2.4000  lr 1.67e-04  grad norm 0.50  256 tokens/s" in text
    assert "step 3  val  loss 2.8000  bits per byte 4.1000  accuracy 13.0%" in text
    assert "sample after step 6:\n    abc6" in text
    assert "finished at step 6 after 12 s" in text


def test_long_lines_in_a_pipe_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert output_on([Notice(0, "word " * 100)], terminal=False).count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_control_characters_and_markup_are_shown_as_text(terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    screen = terminal_view(stream)
    screen.record(Started("[red]tiny[/red]", 0, 3, 12, "cpu", "float32", False))
    screen.record(Sample(1, "[bold]a[/bold]", "x\x1b[2J\x1b]0;title\x07\rb\x08\x9b31m\u202e"))
    screen.close()
    text = stream.getvalue()
    assert "\x1b[2J" not in text
    for forbidden in ("\x1b]", "\x07", "\x08", "\x9b", "\u202e"):
        assert forbidden not in text
    assert "[bold]a[/bold]" in text
    assert "[red]tiny[/red]" in text


def test_narrow_terminal_gets_plain_lines(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert "step 6/6" in output_on(events, terminal=True)


def test_without_rich_there_are_plain_lines(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert isinstance(terminal_view(Terminal()), LineView)


def test_view_closed_before_start_prints_nothing() -> None:
    assert output_on([], terminal=True).strip() == ""


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_sparkline_uses_the_width_and_all_heights(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(BARS)
    if len(set(values)) > 1 and len(values) <= width:
        assert line[values.index(min(values))] == BARS[0]
        assert line[values.index(max(values))] == BARS[-1]


def test_sparkline_of_a_falling_curve_falls() -> None:
    assert sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8) == BARS[::-1]
    assert sparkline([float(v) for v in range(800, 0, -1)], 8) == BARS[::-1]


def test_sparkline_leaves_out_non_finite_values() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([float("nan"), float("inf")], 10) == ""
    assert sparkline([1.0, float("nan"), 2.0], 10) == BARS[0] + BARS[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_new_metric_is_shown_by_its_name(terminal: bool) -> None:
    events = [Started("tiny", 0, 9, 12, "cpu", "float32", False), Metrics(3, {"ppo/kl": 0.01234, "ppo/reward": 2})]
    text = output_on(events, terminal=terminal)
    assert re.search(r"ppo +kl 0\.01234  reward 2", text)


def test_line_view_prints_every_evaluation_and_few_steps(many_events: list[Event]) -> None:
    lines = output_on(many_events, terminal=False).splitlines()
    assert len([line for line in lines if re.match(r"step [0-9]+/60 ", line)]) == 1  # the last step
    assert len([line for line in lines if re.match(r"step [0-9]+  val ", line)]) == 4


def test_anomaly_and_rollback_are_one_line_each() -> None:
    events = [
        Anomaly(9, "the loss is not finite", "block 2", float("nan"), 0.5, (32, 35)),
        RolledBack(6, 11, "3 anomalies in a row", (6, 10)),
    ]
    first, second = output_on(events, terminal=False).splitlines()
    assert first == "warning: step 9: the loss is not finite (loss nan, gradient norm 0.5); first in block 2"
    assert second == "warning: 3 anomalies in a row: rolled back to step 6, skipping 5 batches"


def test_sample_without_newlines_is_wrapped() -> None:
    words = " ".join(f"word{n}" for n in range(40))
    events = [Started("tiny", 0, 3, 12, "cpu", "float32", False), Sample(1, "", words)]
    text = output_on(events, terminal=True)
    assert "word39" in text
    assert max(len(line) for line in text.splitlines()) <= 90


@pytest.mark.parametrize("activity", ["evaluating before the first step", "compiling"])
def test_activity_is_named_before_the_first_step(activity: str) -> None:
    events = [Started("tiny", 0, 30, 12, "cpu", "float32", False), Activity(0, activity)]
    text = output_on(events, terminal=True)
    assert f"0 / 30 · {activity}" in text
    assert "left" not in text


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def row(step: int, seconds: float) -> Metrics:
    return Metrics(step, {"train/loss": 3.0, "train/step_seconds": seconds})


def test_time_left_is_that_of_recent_steps_and_of_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(view, "time", clock)
    progress = RunProgress()
    progress.update(Started("tiny", 0, 100, 12, "cpu", "float32", True, 25, 50, 3.0))
    progress.update(Activity(0, "evaluating before the first step"))
    clock.now = 30
    progress.update(Metrics(0, {"val/loss": 7.0, "val/seconds": 4.0}))
    progress.update(Activity(0, "generating a sample"))
    clock.now = 32
    progress.update(Sample(0, "", "text"))
    progress.update(Activity(0, "compiling"))
    progress.update(row(1, 60.0))
    assert progress.seconds_left() is None, "the first step compiles"
    progress.update(row(10, 0.5))
    assert progress.seconds_left() is None
    progress.update(row(20, 0.7))
    steps, evaluations, samples = 80 * 0.6, (4 + 3) * 4.0, 2 * 2.0
    assert progress.seconds_left() == pytest.approx(steps + evaluations + samples)
    progress.update(row(99, 0.6))
    assert progress.seconds_left() == pytest.approx(0.6 + (1 + 3) * 4.0 + 2.0)


def test_loss_of_a_sample_has_its_interval_and_the_whole_split_its_name() -> None:
    lines = format_metrics({"val/loss": 3.0, "val/loss_margin": 0.0196, "val/fraction": 0.1, "val/bits_per_byte": 1.5})
    assert lines == {"val": "loss 3.0000 ± 0.0196  bits per byte 1.5000"}
    same = {"val_whole/loss": 3.1, "val_best/loss": 3.1, "val_best/step": 9.0}
    assert format_metrics(same) == {"val, whole split": "loss 3.1000"}
    other = {"val_whole/loss": 3.1, "val_best/loss": 3.0, "val_best/step": 800.0}
    assert format_metrics(other)["val, whole split, best"] == "loss 3.0000  step 800"
