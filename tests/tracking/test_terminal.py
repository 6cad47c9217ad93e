"""The live view on a terminal, plain lines anywhere else, and no control characters from the model."""

import io
import math
import os
import re
import sys

import pytest

from fledge.tracking import run_progress as view
from fledge.tracking.events import Activity, Anomaly, Ended, Event, Metrics, Notice, RolledBack, Sample, Started
from fledge.tracking.run_progress import RunProgress
from fledge.tracking.terminal import LineView, format_metrics, terminal_view

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
        "lr 1.67e-04",
        "256 tokens/s",
        "bits per byte 3.8000",
    ):
        assert expected in text, expected
    for expected in ("⠒ train loss", "● val", "◆ best 2.5000 at step 6", "sample after step 6", "step 3       c3"):
        assert expected in text, expected
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


def frame(events: list[Event], columns: int, lines: int, monkeypatch: pytest.MonkeyPatch, **options: bool) -> list[str]:
    """The lines of the live view in a terminal of this size."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    stream = Terminal()
    screen = terminal_view(stream, **options)
    assert isinstance(screen, LiveView)
    for event in events:
        screen.progress.update(event)
    screen._console.print(screen.draw())
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", stream.getvalue()).splitlines()


@pytest.mark.parametrize(("columns", "lines"), [(40, 16), (80, 24), (80, 50), (132, 24), (200, 60), (400, 90)])
def test_live_view_fits_into_every_terminal(
    many_events: list[Event], columns: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Sample(60, "a prompt\n", "many words " * 200)
    shown = frame([*many_events[:-1], long], columns, lines, monkeypatch)
    assert len(shown) < lines, "the cursor stands below"
    assert {len(line) for line in shown} == {min(columns, 180)}
    text = "\n".join(shown)
    assert "60 / 60" in text
    assert "sample after step 60" in text
    if lines >= 24:
        assert "◆ best" in text


def test_wide_view_has_samples_beside_the_curve(many_events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [each for each in frame(many_events, 200, 50, monkeypatch) if "◆ best" in each]
    assert "step 0       x?" in line


def test_earlier_samples_are_spread_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample(step, "", f"text{step}") for step in range(200)]
    started = Started("tiny", 0, 200, 12, "cpu", "float32", False)
    text = "\n".join(frame([started, *samples], 80, 60, monkeypatch))
    assert "text0" in text
    assert "text199" in text
    progress = RunProgress()
    for sample in samples:
        progress.update(sample)
    assert len(progress.samples) <= view.MOST_SAMPLES


def test_watched_run_has_its_messages_inside_and_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started("tiny", 0, 9, 12, "cpu", "float32", False)
    notices = [Notice(0, f"note {n}") for n in range(9)]
    events = [started, RolledBack(1, 2, "a spike", (1, 1)), *notices, Ended(3, "interrupted", 4.0)]
    text = "\n".join(frame(events, 80, 40, monkeypatch, watching=True))
    assert "note 8" in text
    assert "note 5" not in text, "the newest ones only"
    assert "3 / 9 · 1 rollback · interrupted after 4 s" in text
    text = "\n".join(frame([*events, Started("tiny", 3, 9, 12, "cpu", "float32", False)], 80, 40, monkeypatch))
    assert "3 / 9 · 1 rollback · starting" in text


def test_rewarded_run_has_its_best_at_the_top() -> None:
    progress = RunProgress()
    for step, reward in enumerate((0.1, 0.7, 0.4)):
        progress.update(Metrics(step, {"val/reward": reward, "val/loss": 1.0}))
        progress.update(Metrics(step, {"train/loss": 0.0, "rollout/reward": reward / 2}))
    assert progress.best == view.Best(1, 0.7)
    assert progress.train.points == [(0, 0.05), (1, 0.35), (2, 0.2)]
    assert progress.is_rewarded


def test_statistics_and_times_are_no_lines_of_a_terminal() -> None:
    values = {"train/loss": 1.0, "train/mfu": 0.41, "time/data": 1.0, "stats/grad_norm/blocks.0": 2.0}
    assert format_metrics(values) == {"train": "loss 1.0000  MFU 41%"}


def test_undone_and_broken_evaluations_are_no_best() -> None:
    progress = RunProgress()
    progress.update(Metrics(2, {"val/loss": math.nan}))
    assert progress.best is None
    for step, loss in ((5, 3.0), (10, 2.5), (15, 2.0)):
        progress.update(Metrics(step, {"val/loss": loss}))
    progress.update(RolledBack(10, 16, "a spike", (10, 16)))
    assert progress.best is not None
    assert (progress.best.step, progress.best.value, progress.rollbacks) == (10, 2.5, 1)
    assert [step for step, _ in progress.val.all] == [5, 10]
