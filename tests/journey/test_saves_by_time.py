"""Saves by time, and weights for looking back: they change nothing of a run, and each can be used."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.checkpoint import async_saver, save_timer, store
from fledge.tracking.sinks.jsonl import read_events

Outcome = Callable[[Path], dict[str, Any]]
SETTINGS = ("--train.steps", "24", "--train.save_every", "6", "--train.eval_every", "0", "--train.log_every", "1")
TIMED = ("--train.save_seconds", "1e-9", "--train.history", "9")
ALL = ("--train.keep_last", "99")
SPOILT = {8, 9, 10, 16}  # three in a row, and one


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """No save is still being written when the next is due, and none is too dear."""
    monkeypatch.setattr(async_saver, "free_memory", lambda _: 0)
    monkeypatch.setattr(save_timer, "SAVE_SHARE", math.inf)


def by_time(run: Path) -> list[int]:
    found = store.complete_checkpoints(run / "checkpoints")
    return [each.step for each in found if not each.scheduled and not each.weights_only]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


def rollbacks(run: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name != "time"} for each in events(run, "RolledBack")]


def outcome(run: Path, outcome_of: Outcome) -> tuple[dict[str, Any], list[Any]]:
    return outcome_of(run), [{**each, "run": None} for each in rollbacks(run)]


@pytest.mark.usefixtures("at_every_step")
@pytest.mark.parametrize("batches", [set(), SPOILT], ids=["plain", "rolled back"])
def test_saves_by_time_change_nothing(home, spoilt, outcome_of: Outcome, batches: set[int]) -> None:
    spoilt(batches)
    words = (*SETTINGS, "--model.dropout", "0.3", "--train.eval_every", "8")
    expected = outcome(home.train("plain", *words), outcome_of)
    assert len(expected[1]) == bool(batches)
    assert by_time(home.runs / "plain") == []
    assert outcome(home.train("few", *words, *TIMED, "--train.keep_last", "1"), outcome_of) == expected
    run = home.train("timed", *words, *TIMED, *ALL)
    assert outcome(run, outcome_of) == expected
    steps = by_time(run)
    assert len(steps) > 12
    for step in (steps[-2], steps[len(steps) // 2], steps[1]):  # as if it was killed after that
        assert home.do("resume", f"timed@{step}") == 0
        assert outcome(run, outcome_of) == expected


@pytest.mark.usefixtures("at_every_step")
def test_rollbacks_are_counted_over_restarts(home, spoilt) -> None:
    spoilt(set(range(8, 1000)))
    assert home.do(*home.training("bird", *SETTINGS, *TIMED)[:-2]) == 2
    run = home.runs / "bird"
    assert by_time(run)[-1] > 6, "it would be resumed after the checkpoint that it was rolled back to"
    assert home.do("resume", "bird") == 2
    assert [each["step"] for each in rollbacks(run)] == [6, 6, 6]


def test_stop_signal_saves_nothing_to_roll_back_to(home, ended: Callable[..., tuple[int, str]]) -> None:
    words = ("--train.steps", "4000", "--train.save_every", "4000", "--train.eval_every", "0")
    code, said = ended(home.start(home.training("bird", *words)), home.runs / "bird", 9, signal.SIGTERM)
    assert code == 143, said
    [saved] = store.complete_checkpoints(home.runs / "bird" / "checkpoints")
    assert not saved.scheduled


def test_kill_after_a_save_by_time_loses_little(home, ended: Callable[..., tuple[int, str]]) -> None:
    words = ("--train.steps", "40000", "--train.save_every", "40000", "--train.eval_every", "0", *TIMED)
    run = home.runs / "bird"
    # The first save is of step 1. The next is due when it costs little of the time: that differs between machines.
    ended(home.start(home.training("bird", *words)), run, 40, ready=lambda: bool(by_time(run)) and by_time(run)[-1] > 1)
    found, damaged = store.find_checkpoint(run / "checkpoints")
    assert damaged == []
    assert found.step > 1
    assert home.do("resume", "bird", "--train.steps", str(found.step + 20), "--allow-changes") == 0
    saved = events(run, "Saved")
    assert {each["weights_only"] for each in saved} == {True, False}
    assert all(each["seconds"] > 0 for each in saved)


def test_history_has_twenty_steps_of_weights(home, capsys: pytest.CaptureFixture[str]) -> None:
    run = home.train("bird", "--train.steps", "48", "--train.eval_every", "16", "--train.history", "20")
    found = store.complete_checkpoints(run / "checkpoints")
    alone = [each.step for each in found if each.weights_only]
    assert len(found) >= 20
    assert alone[:6] == [1, 2, 3, 4, 5, 6]
    assert sum(not each.weights_only for each in found) <= 4
    size = {each.step: sum(file.stat().st_size for file in each.folder.iterdir()) for each in found}
    assert size[1] < 0.5 * size[48]
    for words in (("generate", "bird@3", "--tokens", "3"), ("eval", "bird@3"), ("resume", "bird@3", "--verify")):
        assert home.do(*words) == 0
    assert home.do("generate", "bird@latest", "--tokens", "3") == 0
    capsys.readouterr()
    assert home.do("resume", "bird@3") == 2
    said = capsys.readouterr().err
    assert "step 3 holds weights only" in said
    assert f"fledge train --init {run}@3" in said
    assert home.do("train", "--init", "bird@3", "--train.steps", "2", "--data.corpus", str(home.text)) == 0


def test_run_with_weights_alone_starts_from_the_beginning(
    home, outcome_of: Outcome, ended: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--train.steps", "160", "--train.save_every", "160", "--train.eval_every", "0", "--train.history", "9")
    expected = outcome_of(home.train("whole", *words))
    run = home.runs / "bird"
    ended(home.start(home.training("bird", *words)), run, 9)
    assert all(each.weights_only for each in store.complete_checkpoints(run / "checkpoints"))
    assert home.do("resume", "bird") == 0
    assert "starting 'bird' from the beginning" in capsys.readouterr().err
    assert outcome_of(run) == expected
