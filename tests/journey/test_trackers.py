"""Training with listeners, and with listeners that fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.tracking.events import Event, Stepped
from fledge.training import trainer

Outcome = Callable[[Path], dict[str, Any]]


class Broken:
    def record(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            raise RuntimeError("no more disk")

    def close(self) -> None: ...


def test_a_listener_that_fails_changes_nothing_about_the_training(
    home, outcome_of: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = outcome_of(home.train("plain"))
    usual = trainer.build_sinks
    monkeypatch.setattr(trainer, "build_sinks", lambda *about: [Broken(), *usual(*about)])
    assert outcome_of(home.train("shaken")) == plain
    assert "Broken failed and is switched off: no more disk" in capsys.readouterr().err


def test_a_listener_that_cannot_begin_does_not_stop_the_training(
    home, outcome_of: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    plain = outcome_of(home.train("plain"))
    run = home.train("shaken", "--track.wandb", "true", "--track.project", "not/a#project?")  # W&B refuses this name
    assert outcome_of(run) == plain
    assert "warning: a tracker could not begin" in capsys.readouterr().err


def test_tensorboard_changes_nothing_about_the_training(home, outcome_of: Outcome) -> None:
    pytest.importorskip("tensorboard")
    plain = outcome_of(home.train("plain"))
    run = home.train("watched", "--track.tensorboard", "true")
    assert outcome_of(run) == plain
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_after_resuming_tensorboard_shows_each_step_once(home) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = home.train("watched", "--track.tensorboard", "true", "--train.keep_last", "9")
    assert home.do("resume", "watched@6") == 0
    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    assert [e.step for e in read.Scalars("train/loss")] == list(range(1, 13))


def test_a_missing_package_is_told_before_a_run_folder_is_made(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)  # as where it was never installed
    assert (
        home.do("train", str(home.toml), "--run", "bird", "--data.corpus", str(home.text), "--track.wandb", "true") == 2
    )
    assert "pip install 'fledge[wandb]'" in capsys.readouterr().err
    assert not (home.runs / "bird").exists()
