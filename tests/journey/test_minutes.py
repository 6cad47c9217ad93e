"""`train.minutes` on the command line: what is said and kept, and how such a run goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_clock import FakeClock
from fledge.cli.main import main
from fledge.core.config import read_toml
from fledge.planning.loss_forecast import settings_as_made
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Event
from fledge.training import recorder

Outcome = Callable[[Path], dict[str, Any]]
MINUTE = ("--train.minutes", "1", "--train.steps", "40", "--train.eval_every", "10", "--train.save_every", "10",
          "--train.sample_every", "20", "--train.keep_last", "99", "--optim.schedule", "trapezoid")  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeClock]:
    return lambda *seconds: FakeClock(monkeypatch.setattr, *seconds)


def decisions_of(run: Path) -> dict[int, int]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    found = [(event["step"], event["steps"]) for event in events if event["event"] == "StepsPlanned"]
    assert len(found) == len(dict(found))  # each step is decided after once
    return dict(found)


class SignalAt15:
    """Send SIGINT to this process when something is decided after this step."""

    def record(self, event: Event) -> None:
        if (type(event).__name__, event.step) == ("StepsPlanned", 15):
            os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None: ...


def stopped(home: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    usual = recorder.build_sinks
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "build_sinks", lambda *about: [*usual(*about), SignalAt15()])
        assert main(home.training("bird", *MINUTE)) == 130
    return home.runs / "bird"


def test_true_last_step_is_shown_everywhere(home, clock, capsys: pytest.CaptureFixture[str]) -> None:
    clock(lambda step: 2.0 if step < 12 else 0.7)
    run = home.train("bird", *MINUTE, "--json")
    out, said = capsys.readouterr()
    last = RunFolder(run).last_step()
    assert json.loads(out)["step"] == last > 40
    assert "steps in all instead of 40: a step takes 2 s" in said
    assert f"finished at step {last}" in said

    assert home.do("runs", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert (summary["state"], summary["step"], summary["steps"]) == ("finished", last, last)
    assert home.do("watch", "bird", "--json") == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["state"], seen["step"], seen["steps"]) == ("finished", last, last)
    assert home.do("report", "bird", "--out", str(home.folder / "report")) == 0
    assert "steps in all instead of 40" in (home.folder / "report" / "report.md").read_text()
    assert home.do("data", "show", "bird", "--step", str(last)) == 0
    assert home.do("data", "show", "bird", "--step", str(last + 1)) == 2
    assert f"this run has steps 1 to {last}" in capsys.readouterr().err
    assert home.do("resume", "bird", "--verify") == 0
    made = settings_as_made(RunFolder(run)).train  # what a forecast learns from this run
    assert (made.steps, made.minutes) == (last, None)
    assert home.do("export", "bird", "--to", "hf", "--out", str(home.folder / "hf")) == 0
    assert f" of {last}, " in (home.folder / "hf" / "README.md").read_text()


def test_finished_run_goes_on_for_exactly_the_steps_that_are_given(
    home, clock, capsys: pytest.CaptureFixture[str]
) -> None:
    clock(lambda _: 3.0)
    run = home.train("bird", *MINUTE)
    last = RunFolder(run).last_step()
    assert last < 40
    assert home.do("resume", "bird") == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == f"error: 'bird' is finished: all its {last} steps are done"
    assert home.do(*hint.partition("fledge ")[2].split()) == 0
    assert json.loads((run / "checkpoints" / f"step-{2 * last:08}" / "state.json").read_text())["step"] == 2 * last
    assert RunFolder(run).last_step() == 2 * last
    assert "minutes" not in read_toml(run / "config.toml")["train"]


def test_resumed_run_has_the_time_that_was_left(home, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(lambda _: 2.0)
    run = stopped(home, monkeypatch)
    before = decisions_of(run)
    now = clock(lambda _: 1.0)
    assert home.do("resume", "bird") == 0
    assert now.now - 1000 == pytest.approx(60 - 15 * 2.0, abs=2)
    decided = decisions_of(run)
    assert {step: steps for step, steps in decided.items() if step <= 15} == before
    assert RunFolder(run).last_step() == list(decided.values())[-1] > before[15]


def test_resumed_run_gets_more_time(home, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided after the checkpoint was for another time."""
    clock(lambda _: 2.0)
    run = stopped(home, monkeypatch)
    assert home.do("resume", "bird@10", "--train.minutes", "2") == 2
    now = clock(lambda _: 2.0)
    assert home.do("resume", "bird@10", "--train.minutes", "2", "--allow-changes") == 0
    assert now.now - 1000 == pytest.approx(120 - 20, abs=3)
    assert RunFolder(run).last_step() == pytest.approx(60, abs=2)


def test_time_that_is_used_up_still_finishes_the_schedule(home, clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(lambda _: 2.0)
    run = stopped(home, monkeypatch)
    clock(lambda _: 100.0)
    assert home.do("resume", "bird") == 0
    assert RunFolder(run).last_step() == 17
    state = json.loads((run / "checkpoints" / "step-00000017" / "state.json").read_text())
    assert state["val_loss"] is not None


def test_rollback_keeps_what_was_decided(home, clock, spoilt: Any, outcome_of: Outcome) -> None:
    """The steps that are made again have the same schedule, also where all of it is repeated from the beginning."""
    now = clock(lambda _: 1.0)
    spoilt({24, 25, 26})
    run = home.train("bird", *MINUTE)
    events = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert events.count("RolledBack") == 1
    assert now.now - 1000 == pytest.approx(60, abs=2.5)
    decided = decisions_of(run)
    assert any(20 < step <= 27 for step in decided)  # between the checkpoint and the divergence
    again = home.runs / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints")
    (again / "checkpoints").mkdir()
    clock(lambda _: 9.0)
    assert home.do("resume", "again") == 0
    assert decisions_of(again) == decided
    assert outcome_of(again) == outcome_of(run)


def test_steps_that_are_given_replace_the_time_of_a_file(home, clock) -> None:
    clock(lambda _: 30.0)
    run = home.train("bird", *MINUTE)
    assert RunFolder(run).last_step() < 5
    assert main(home.words("train", str(run / "config.toml"), "--run", "six", "--train.steps", "6")) == 0
    assert RunFolder(home.runs / "six").last_step() == 6
    assert main(home.words("train", str(run / "config.toml"), "--run", "same")) == 0
    assert read_toml(home.runs / "same" / "config.toml")["train"] == read_toml(run / "config.toml")["train"]
    assert decisions_of(home.runs / "same") == decisions_of(run)
