"""`train.patience` on the command line: what is said, kept, resumed and refused."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.runs.run_folder import RunFolder
from fledge.runs.status import run_state, stopped_early
from fledge.tracking.events import Event
from fledge.training import recorder

Outcome = Callable[[Path], dict[str, Any]]
# The rate is so high that the loss goes up and down.
PATIENT = ("--train.patience", "2", "--train.steps", "90", "--train.eval_every", "2", "--train.save_every", "2",
           "--train.sample_every", "4", "--train.keep_last", "99", "--train.loss_spike", "0", "--optim.lr", "0.1",
           "--optim.schedule", "constant")  # fmt: skip


def events_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_early_stop_is_told_everywhere_and_kept(home, capsys: pytest.CaptureFixture[str], outcome_of: Outcome) -> None:
    run = home.train("bird", *PATIENT, "--json")
    out, said = capsys.readouterr()
    result, (stop,) = json.loads(out), [each for each in events_of(run) if each["event"] == "StoppedEarly"]
    step, text = stop["step"], result["stopped_early"]
    assert text.startswith(f"stopped early at step {step}: no better validation loss in 2 evaluations")
    assert (result["step"], result["best_step"]) == (step, stop["best_step"])
    assert text in said
    assert f"finished at step {step}" in said

    for words in (("runs",), ("watch", "bird"), ("report", "bird", "--out", str(home.folder / "r.md"))):
        assert home.do(*words) == 0
    out, said = capsys.readouterr()
    assert text in out
    assert f"'bird' is finished: {text}" in said
    assert home.do("runs", "--json") == 0
    (summary,) = json.loads(capsys.readouterr().out)
    assert (summary["state"], summary["step"], summary["stopped_early"]) == ("finished", step, text)

    assert home.do("resume", "bird") == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == (
        f"error: 'bird' is finished: it was stopped early at step {step}, after 2 evaluations without a better one"
    )
    shutil.copytree(run, home.runs / "again")
    earlier = sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir() if int(path.name[5:]) < step)
    for start in (earlier[-1], earlier[0]):
        assert home.do("resume", f"again@{start}") == 0
        assert outcome_of(home.runs / "again") == outcome_of(run)
        assert [each["event"] for each in events_of(home.runs / "again")].count("StoppedEarly") == 1

    words = hint.partition("fledge resume ")[2].split()
    assert home.do("resume", *words, "--train.steps", str(step + 4)) == 0
    assert events_of(run)[-1]["step"] > step


class SignalAt:
    """Send SIGINT to this process when an event of this kind happens at this step."""

    def __init__(self, kind: str, step: int) -> None:
        self.when = (kind, step)

    def record(self, event: Event) -> None:
        if (type(event).__name__, event.step) == self.when:
            self.when = ("", 0)
            os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None: ...


def test_last_step_is_completed_after_a_signal_or_kill(
    home, monkeypatch: pytest.MonkeyPatch, outcome_of: Outcome
) -> None:
    unbroken = home.train("unbroken", *PATIENT)
    (stop,) = [each for each in events_of(unbroken) if each["event"] == "StoppedEarly"]
    usual = recorder.build_sinks
    for kind, status in (("StoppedEarly", 130), ("Sample", 0)):  # the sample of the step is still to come, or done
        sinks = partial(lambda kind, *about: [*usual(*about), SignalAt(kind, stop["step"])], kind)
        with monkeypatch.context() as patch:
            patch.setattr(recorder, "build_sinks", sinks)
            assert main(home.training(kind, *PATIENT)) == status
        run = home.runs / kind
        assert run_state(RunFolder(run), stop["step"], 90) == ("interrupted" if status else "finished")
        assert not status or home.do("resume", kind) == 0
        assert_ended_alike(run, unbroken, outcome_of)
    killed = home.runs / "killed"  # after the event, and before the checkpoint
    shutil.copytree(unbroken, killed)
    shutil.rmtree(max((killed / "checkpoints").glob("step-*")))
    lines = (killed / "events.jsonl").read_text().splitlines(keepends=True)
    (last,) = [number for number, line in enumerate(lines) if '"StoppedEarly"' in line]
    (killed / "events.jsonl").write_text("".join(lines[: last + 1]))
    assert run_state(RunFolder(killed), stop["step"] - 2, 90) == "killed"
    assert home.do("resume", "killed") == 0
    assert_ended_alike(killed, unbroken, outcome_of)


def assert_ended_alike(run: Path, unbroken: Path, outcome_of: Outcome) -> None:
    assert outcome_of(run) == outcome_of(unbroken)
    stops = [[each for each in events_of(each_run) if each["event"] == "StoppedEarly"] for each_run in (run, unbroken)]
    assert [{**each, "time": 0} for each in stops[0]] == [{**each, "time": 0} for each in stops[1]]
    assert stopped_early(RunFolder(run)) == stopped_early(RunFolder(unbroken)) is not None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--train.eval_every", "0"), "--train.eval_every 100"),
        (("--data.val", "0"), "--data.val 0.1"),
        (("--train.patience", "0"), "at least 1"),
        (("--train.patience", "often"), "a whole number"),
    ],
)
def test_patience_that_cannot_work_is_refused(home, capsys, words: tuple[str, ...], named: str) -> None:
    assert main(home.training("bad", "--train.patience", "3", *words)) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert "train.patience" in error
    assert named in hint
    assert not home.runs.exists() or not list(home.runs.iterdir())
