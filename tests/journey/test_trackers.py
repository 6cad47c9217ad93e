"""Training with loggers, and with loggers that fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.tracking.events import Event, Metrics
from fledge.training import recorder

Outcome = Callable[[Path], dict[str, Any]]


class Broken:
    def record(self, event: Event) -> None:
        if isinstance(event, Metrics) and event.step == 5:
            raise RuntimeError("no more disk")

    def close(self) -> None: ...


def test_failing_logger_does_not_change_training(
    home, outcome_of: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = outcome_of(home.train("plain"))
    build_sinks = recorder.build_sinks
    monkeypatch.setattr(recorder, "build_sinks", lambda *args: [Broken(), *build_sinks(*args)])
    assert outcome_of(home.train("logged")) == plain
    assert "Broken failed and is switched off: no more disk" in capsys.readouterr().err


def test_logger_that_cannot_start_does_not_stop_training(
    home, outcome_of: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    plain = outcome_of(home.train("plain"))
    run = home.train("logged", "--track.loggers", "wandb", "--track.project", "not/a#project?")  # W&B refuses this name
    assert outcome_of(run) == plain
    assert "warning: the logger 'wandb' could not start" in capsys.readouterr().err


def test_tensorboard_does_not_change_training(home, outcome_of: Outcome) -> None:
    pytest.importorskip("tensorboard")
    plain = outcome_of(home.train("plain"))
    run = home.train("watched", "--track.loggers", "tensorboard")
    assert outcome_of(run) == plain
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_shows_each_step_once_after_resume(home) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = home.train("watched", "--track.loggers", "tensorboard", "--train.keep_last", "9")
    assert home.do("resume", "watched@6") == 0
    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    assert [e.step for e in read.Scalars("train/loss")] == list(range(1, 13))


def test_missing_package_leaves_no_run_folder(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)  # as where it was never installed
    assert (
        home.do("train", str(home.toml), "--run", "bird", "--data.corpus", str(home.text), "--track.loggers", "wandb")
        == 2
    )
    assert "pip install 'fledge[wandb]'" in capsys.readouterr().err
    assert not (home.runs / "bird").exists()
