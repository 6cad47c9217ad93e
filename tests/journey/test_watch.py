"""fledge watch: live, finished, interrupted, killed, damaged and newer runs, as lines, JSON and in a terminal."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fledge.recipes import watch as recipe
from fledge.recipes.watch import open_watched, watch
from fledge.runs.run_folder import RunFolder
from fledge.tracking import follow
from fledge.tracking.events import Event, Metrics, Started
from tiny import wait_until


class Seen:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.restarts = 0

    def record(self, event: Event, at: float | None = None, *, seen: bool = False) -> None:
        assert at is not None
        if not seen:
            self.events.append(event)

    def restart(self) -> None:
        self.restarts += 1

    @property
    def steps(self) -> list[int]:
        return [each.step for each in self.events if isinstance(each, Metrics) and "train/loss" in each.values]


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "GRACE_SECONDS", 0.1)


def cut_events(run: Path, ending: str) -> None:
    """Leave out the last event, so that the run looks as if it was killed, and end the file so."""
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(lines[:-1]) + ending)


def test_finished_run_is_shown_and_left(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("watch", "bird") == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert "finished at step 40" in out
    assert "sample after step" in out
    assert "step 40  val  loss" in out
    assert "'bird' is finished; next: fledge generate" in err


def test_json_is_the_state_and_jsonl_the_events(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("watch", "bird", "--json") == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["run"], state["state"], state["step"], state["steps"]) == ("bird", "finished", 40, 40)
    assert state["metrics"]["train/loss"] > 0
    assert state["best"] == state["metrics"]["val/best"]
    assert trained.do("watch", "bird", "--jsonl") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [records[0]["event"], records[-1]["event"]] == ["Started", "Ended"]
    written = (trained.runs / "bird" / "events.jsonl").read_text().splitlines()
    assert len(records) == len(written)
    assert trained.do("watch", "bird", "--json", "--jsonl") == 2


@pytest.mark.parametrize("ending", ["", '{"event": "Metrics", "time": 17', "\x00\x00\n{}\n"])
def test_killed_run_says_so(own: Any, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    run = own.runs / "bird"
    cut_events(run, ending)
    shutil.rmtree(max((run / "checkpoints").iterdir()))
    assert own.do("watch", "bird") == 0
    assert "'bird' was killed at step 40 of 40; go on with: fledge resume" in capsys.readouterr().err


def test_run_of_a_newer_version_and_damaged_files(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = own.runs / "bird"
    (run / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "format": 99}))
    with (run / "events.jsonl").open("a") as file:
        file.write('{"event": "Dreamt", "time": 1, "step": 41}\n')
    assert own.do("watch", "bird") == 0
    err = capsys.readouterr().err
    assert "run.json' was made by a newer version of fledge, or is damaged: its format is 99" in err
    assert "'bird' is finished" in err
    (run / "run.json").write_text("{")
    (run / "config.toml").write_text("[model")
    assert own.do("watch", "bird") == 0
    out, err = capsys.readouterr()
    assert "finished at step 40" in out
    assert "warning: " in err
    assert "run.json" in err
    (run / "events.jsonl").write_text("[")
    assert own.do("watch", "bird") == 0
    out, err = capsys.readouterr()
    assert "step 40/40  loss" in out
    assert "'bird' is damaged: what could be read is shown" in err
    (run / "config.toml").unlink()
    assert own.do("watch", "bird") == 2
    assert "'bird' is a folder without config.toml" in capsys.readouterr().err
    assert own.do("watch", "owl") == 2
    assert "no run 'owl'" in capsys.readouterr().err


def test_metrics_stand_for_lost_events(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (own.runs / "bird" / "events.jsonl").unlink()
    assert own.do("watch", "bird") == 0
    out, err = capsys.readouterr()
    assert "step 40/40  loss" in out
    assert "only metrics.csv is shown" in err
    (own.runs / "bird" / "metrics.csv").unlink()
    assert own.do("watch", "bird") == 0


def test_best_of_a_run_with_many_events_is_that_of_its_checkpoints(
    own: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = watch(RunFolder(own.runs / "bird"), Seen()).best_step
    for name, size in {"LARGE": 10, "PIECES": 1, "PIECE": 400, "LAST_PIECE": 500}.items():
        monkeypatch.setattr(follow, name, size)
    view = Seen()
    assert watch(RunFolder(own.runs / "bird"), view).best_step == expected
    assert len(view.events) < 10
    assert "many events" in capsys.readouterr().err
    assert len(watch_lines(own, capsys)) == len((own.runs / "bird" / "events.jsonl").read_text().splitlines())


def watch_lines(home: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """JSON lines are complete in any case."""
    assert home.do("watch", "bird", "--jsonl") == 0
    return capsys.readouterr().out.splitlines()


def test_live_run_is_followed_to_its_end(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, resumed from an earlier step, and finished, while it is watched."""
    home.train("bird", "--train.steps", "12", "--train.keep_last", "9")
    run, view = RunFolder(home.runs / "bird"), Seen()
    is_locked, between_processes = RunFolder.is_locked, threading.Event()
    between_processes.set()
    monkeypatch.setattr(RunFolder, "is_locked", lambda self: between_processes.is_set() or is_locked(self))
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch, run, view)
        wait_until(lambda: view.steps[-1:] == [12])
        process = home.start(home.words("resume", "bird@6"))
        wait_until(lambda: is_locked(run) or process.poll() is not None)
        between_processes.clear()
        process.communicate()
        result = watching.result(60)
    assert (result.state, result.step) == ("finished", 12)
    assert view.restarts >= 1
    assert view.steps[-6:] == [7, 8, 9, 10, 11, 12]
    assert sum(isinstance(each, Started) for each in view.events) >= 1


def allow_ctrl_c() -> None:
    """A job in the background, as these tests may be, ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_terminal(words: list[str], columns: int, until: str, number: int | None = None) -> tuple[int, str]:
    """Run in a terminal of this width, until it shows a text; then send a signal, or let it end."""
    main, other = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "xterm", "NO_COLOR": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", *words], stdout=other, stderr=other, env=env, preexec_fn=allow_ctrl_c
    )
    os.close(other)
    shown, sent, deadline = "", False, time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 1 << 16).decode("utf-8", "replace")
            except OSError:
                break
        if number and until in shown and not sent:
            process.send_signal(number)
            sent = True
    os.close(main)
    return process.wait(60), shown


def test_terminal_shows_the_view_and_ctrl_c_leaves_at_once(own: Any) -> None:
    code, shown = in_terminal(own.words("watch", "bird"), 100, "")
    assert code == 0
    assert "◆ best" in shown
    assert "40 / 40 · finished after" in shown
    cut_events(own.runs / "bird", "")
    run = RunFolder(own.runs / "bird")
    with run.lock():  # as a process that trains it does
        code, shown = in_terminal(own.words("watch", "bird"), 100, "◆ best", signal.SIGINT)
    assert code == 130
    assert "Traceback" not in shown
    assert shown.endswith("\x1b[?25h") or "\x1b[?25h" in shown, "the cursor is back"


def test_latest_run_is_meant_where_none_is_named(trained: Any) -> None:
    assert open_watched(None, trained.runs).name == "bird"
