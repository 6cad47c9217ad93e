"""A run with train.minutes: killed around a decision, or trained by several processes."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_clock import FakeClock

MINUTE = ("--train.minutes", "1", "--train.steps", "40", "--train.eval_every", "10", "--train.save_every", "10",
          "--train.sample_every", "20", "--train.keep_last", "99", "--optim.schedule", "trapezoid")  # fmt: skip
# The clock of each rank; and where the decision after step 15 kills: before it is on disk, or before it counts.
CLOCK = """
import os
from fake_clock import FakeClock

FakeClock(setattr, lambda step: (2.0 if step < 12 else 0.7) if os.environ["RANK"] == "0" else 50.0)
"""
KILL = """
import os, signal
from fledge.training import recorder

class Kill:
    def record(self, event):
        if (type(event).__name__, event.step) == ("StepsPlanned", 15):
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self): ...

usual = recorder.build_sinks
recorder.build_sinks = lambda *about: [Kill(), *usual(*about)] if {before} else [*usual(*about), Kill()]
"""


def decisions_of(run: Path) -> dict[int, int]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    found = [(event["step"], event["steps"]) for event in events if event["event"] == "StepsPlanned"]
    assert len(found) == len(dict(found))
    return dict(found)


def repeated(home: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run from its beginning, undisturbed, with what was decided, on a machine of another speed."""
    whole = home.runs / f"{run.name}-whole"
    shutil.copytree(run, whole)
    shutil.rmtree(whole / "checkpoints")
    (whole / "checkpoints").mkdir()
    FakeClock(monkeypatch.setattr, lambda _: 9.0)
    assert home.do("resume", whole.name) == 0
    return whole


@pytest.mark.parametrize("before", [True, False])
def test_resume_after_sigkill_at_a_decision_is_bit_identical(
    home: Any,
    ranks: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome_of: Callable[[Path], dict[str, Any]],
    before: bool,
) -> None:
    script, run = tmp_path / "first.py", home.runs / "bird"
    script.write_text(CLOCK + KILL.format(before=before))
    killed = ranks(home.training("bird", *MINUTE), 1, str(script))
    assert killed.codes() == [-signal.SIGKILL]
    known = decisions_of(run)
    assert max(known) == (8 if before else 15)
    FakeClock(monkeypatch.setattr, lambda _: 1.5)
    assert home.do("resume", "bird") == 0
    decided = decisions_of(run)
    assert {step: steps for step, steps in decided.items() if step <= max(known)} == known
    assert max(decided) > 20
    whole = repeated(home, run, monkeypatch)
    assert decisions_of(whole) == decided
    assert outcome_of(whole) == outcome_of(run)


def test_ranks_follow_the_clock_of_the_main_process(
    home: Any, together: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "first.py"
    script.write_text(CLOCK)
    said = together(home.training("two", *MINUTE), 2, str(script))
    FakeClock(monkeypatch.setattr, lambda step: 2.0 if step < 12 else 0.7)
    home.train("one", *MINUTE)
    decided = decisions_of(home.runs / "two")
    assert decided == decisions_of(home.runs / "one")
    assert f"finished at step {[*decided.values()][-1]}" in said
