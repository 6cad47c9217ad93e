"""Non-finite steps and loss spikes: skipped, rolled back, or ended with advice."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.tracking.sinks.base import RunFile
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.step import TrainStep

SETTINGS = ("--train.steps", "24", "--train.save_every", "6", "--train.eval_every", "0", "--train.log_every", "1")


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    told = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in told if event["event"] in kinds]


def steps_of(run: Path) -> list[int]:
    return [int(step) for step in read_metrics(run)["step"]]


def test_one_non_finite_step_is_skipped_and_logged(home, spoilt) -> None:
    spoilt({8})
    run = home.train("bird", *SETTINGS)
    assert steps_of(run) == list(range(1, 25))
    [accident] = events(run, "Anomaly")
    assert (accident["step"], accident["samples"]) == (9, [32, 35])
    assert accident["loss"] is None
    losses = read_metrics(run)["train/loss"]
    assert [step for step, loss in enumerate(losses, 1) if math.isnan(loss)] == [9]


def test_non_finite_step_makes_no_update(home, spoilt) -> None:
    spoilt({23})
    rare = ("--train.save_every", "23", "--train.keep_last", "9")
    run = home.train("bird", *SETTINGS, *rare)
    before, after = (store.load_weights(found) for found in store.complete_checkpoints(run / "checkpoints"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_three_non_finite_steps_roll_back(home, spoilt) -> None:
    spoilt({8, 9, 10})
    run = home.train("bird", *SETTINGS)
    assert steps_of(run) == list(range(1, 25))  # no row twice, none missing
    assert not any(math.isnan(loss) for loss in read_metrics(run)["train/loss"])
    assert [accident["step"] for accident in events(run, "Anomaly")] == [9, 10, 11]
    [rescue] = events(run, "RolledBack")
    assert (rescue["step"], rescue["failed_step"], rescue["skipped_batches"]) == (6, 11, [6, 10])
    assert store.load(store.find_checkpoint(run / "checkpoints")[0]).components["step"] == {"skipped_batches": [[6, 5]]}


def test_rollback_ignores_unhealthy_checkpoints(home, spoilt) -> None:
    spoilt({8, 9, 10})
    often = home.train("often", *SETTINGS, "--train.save_every", "1", "--train.keep_last", "3")
    [rescue] = events(often, "RolledBack")
    assert (rescue["step"], rescue["failed_step"]) == (8, 11)
    ended = home.train("ended", *SETTINGS, "--train.steps", "9")  # the last step is always saved
    assert home.do("resume", "ended", "--train.steps", "24", "--allow-changes") == 0
    [rescue] = events(ended, "RolledBack")
    assert (rescue["step"], rescue["failed_step"]) == (6, 11)
    assert steps_of(ended) == list(range(1, 25))
    assert [c.step for c in store.list_checkpoints(ended / "checkpoints")[0]] == [18, 24]


def test_loss_spike_rolls_back(home, spoilt) -> None:
    spoilt({14}, lambda found: replace(found, loss=found.loss + 5))
    run = home.train("bird", *SETTINGS)
    assert steps_of(run) == list(range(1, 25))
    [rescue] = events(run, "RolledBack")
    assert "jumped" in rescue["reason"]
    assert (rescue["step"], rescue["failed_step"]) == (12, 15)


def test_resume_after_rollback_is_bit_identical(home, spoilt, outcome_of) -> None:
    spoilt({8, 9, 10, 16})
    run = home.train("bird", *SETTINGS, "--train.keep_last", "9")
    whole = outcome_of(run)
    for step in (18, 12, 6):
        assert home.do("resume", f"bird@{step}") == 0
        assert outcome_of(run) == whole
        assert len(events(run, "RolledBack")) == 1


def test_without_rollback_it_ends_with_advice(home, spoilt, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt({8, 9, 10})
    assert home.do(*home.training("bird", *SETTINGS, "--train.rollback", "false")[:-2]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: the loss became nan")
    assert "step 9" in error
    assert "--optim.lr" in hint
    run = home.runs / "bird"
    assert store.find_checkpoint(run / "checkpoints")[0].step == 6
    assert [(each["step"], each["reason"]) for each in events(run, "Ended")] == [(10, "failed")]
    assert home.do("runs") == 0
    assert " failed " in capsys.readouterr().out


def test_failure_that_cannot_be_recorded_is_raised(home, spoilt, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = RunFile.append

    def append(self: RunFile, text: str) -> None:
        if '"Ended"' in text:
            raise UserError("the disk is full", "free some space")
        usual(self, text)

    monkeypatch.setattr(RunFile, "append", append)
    spoilt({8, 9, 10})
    assert home.do(*home.training("bird", *SETTINGS, "--train.rollback", "false")[:-2]) == 2
    assert "error: the loss became nan" in capsys.readouterr().err
    assert home.do("runs") == 0
    assert " killed " in capsys.readouterr().out


def test_repeated_rollback_ends_with_advice(home, spoilt, capsys: pytest.CaptureFixture[str]) -> None:
    spoilt(set(range(8, 1000)))
    assert home.do(*home.training("bird", *SETTINGS)[:-2]) == 2
    assert "--optim.lr" in capsys.readouterr().err.splitlines()[-1]
    run = home.runs / "bird"
    assert [rescue["step"] for rescue in events(run, "RolledBack")] == [6, 6, 6]
    assert store.find_checkpoint(run / "checkpoints")[0].step == 6


def test_non_finite_weights_are_never_saved(home, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrainStep.__call__
    poisoned: list[int] = []

    def poison(self: TrainStep, step: int) -> Any:
        result = usual(self, step)
        if step == 11 and not poisoned:  # once: as memory that fails would do it
            poisoned.append(step)
            with torch.no_grad():
                next(iter(self.model.parameters()))[0, 0] = math.nan
        return result

    monkeypatch.setattr(TrainStep, "__call__", poison)
    run = home.train("bird", *SETTINGS, "--train.eval_every", "12")
    assert len(events(run, "RolledBack")) == 1
    assert steps_of(run) == [0, *range(1, 25)]
    for found in store.complete_checkpoints(run / "checkpoints"):
        assert all(bool(torch.isfinite(weight).all()) for weight in store.load_weights(found).values())
