"""A run with train.minutes ends in time however fast the machine turns out to be, and repeats what was decided."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_clock import FakeClock
from fledge.core.errors import UserError
from fledge.optim.schedule import lr_multiplier
from fledge.recipes.sweep import train_trial
from fledge.runs.status import FINISHED, run_state
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events
from fledge.training import time_limit
from fledge.training.pace import Pace
from fledge.training.time_limit import EXIT_SECONDS
from fledge.training.trainer import Trainer

Make = Callable[..., Trainer]
Slow = Callable[..., FakeClock]
MINUTE = {"minutes": 1.0, "steps": 40, "eval_every": 10, "save_every": 10, "sample_every": 20}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Slow:
    """step → seconds, and those of an evaluation and a sample → the clock, which only they move from now on."""
    return lambda *seconds: FakeClock(monkeypatch.setattr, *seconds)


def timed(**train: Any) -> dict[str, Any]:
    return {"train": {**MINUTE, **train}, "optim": {"warmup_steps": 5, "schedule": "trapezoid"}}


def decisions_of(trainer: Trainer) -> dict[int, int]:
    events = [event for event in read_events(trainer.run.folder) if event["event"] == "StepsPlanned"]
    assert len({event["step"] for event in events}) == len(events)
    return {event["step"]: event["steps"] for event in events}


@pytest.mark.parametrize(
    "step_seconds",
    [
        lambda _: 4.0,  # as slow as never planned
        lambda _: 0.2,  # faster
        lambda step: 8.0 if step == 0 else 1.0,  # the first one compiles
        lambda step: 0.5 if step < 20 else 3.0,  # another program begins
        lambda step: 3.0 if step < 10 else 0.3,  # it ends
        lambda step: 1.0 + 0.8 * (step % 2),  # uneven
        lambda step: 9.0 if step == 7 else 0.7,  # once interrupted
        lambda step: 0.5 + 0.45 * math.sin(step / 7),
    ],
)
def test_run_ends_in_time(make_trainer: Make, clock: Slow, step_seconds: Callable[[int], float]) -> None:
    now = clock(step_seconds, 0.5, 0.8)
    trainer = make_trainer(timed())
    result, used = trainer.fit(), now.now - 1000
    step = max(step_seconds(each) for each in (result.step - 1, result.step))
    assert used == pytest.approx(60 - EXIT_SECONDS, abs=1.1 * step)
    assert result.step == trainer.pace.last_step == trainer.run.last_step() != 40
    assert run_state(trainer.run, result.step, trainer.run.last_step()) == FINISHED
    metrics = read_metrics(trainer.run.folder)
    assert metrics.last_step == result.step
    assert math.isfinite(metrics["val/loss"][-1])  # evaluated, saved, and a sample of it
    assert (trainer.run.checkpoints / f"step-{result.step:08}" / "optimizer.safetensors").exists()
    assert [event["step"] for event in read_events(trainer.run.folder) if event["event"] == "Sample"][-1] == result.step


@pytest.mark.parametrize("tokens", [64, 160])
def test_last_evaluations_fit_into_the_time(make_trainer: Make, clock: Slow, tokens: int) -> None:
    """Those of the whole split take a quarter of it."""
    now = clock(lambda _: 0.3, 15.0 * tokens / 264)
    still = {"optim": {"lr": 1e-9, "min_lr": 1e-9}}  # so all evaluations find the same, and the last is as good
    trainer = make_trainer({**timed(eval_every=200, steps=100, eval_tokens=tokens), **still})
    trainer.fit()
    assert trainer.evaluations.split_tokens > tokens
    assert trainer.whole_split.passes > 0
    metrics = read_metrics(trainer.run.folder)
    assert math.isfinite(metrics["val_whole/loss"][-1])
    assert metrics["val_best/step"][-1] == trainer.pace.last_step
    assert 60 - EXIT_SECONDS - 0.33 <= now.now - 1000 <= 60 - EXIT_SECONDS + 0.001


def test_planned_end_that_is_passed_is_an_ordinary_step(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 0.5)
    trainer = make_trainer(timed(steps=45, eval_every=30, save_every=None, keep_last=9))
    last = trainer.fit().step
    assert last > 60
    events = read_events(trainer.run.folder)
    evaluated = [event["step"] for event in events if "val/loss" in event.get("values", ())]
    assert evaluated == [*range(0, last, 30), last]
    saved = trainer.run.checkpoints.glob("step-*/optimizer.safetensors")
    assert sorted(int(file.parent.name[5:]) for file in saved) == [*range(30, last, 30), last]


def test_learning_rate_follows_what_was_decided(make_trainer: Make, clock: Slow) -> None:
    clock(lambda step: 2.0 if step < 12 else 0.4)
    trainer = make_trainer(timed())
    trainer.fit()
    decided = decisions_of(trainer)
    assert min(decided.values()) < 40 < max(decided.values())  # it was shortened, and extended
    pace, optim = Pace(40, decided), trainer.settings.optim
    expected = [optim.lr * lr_multiplier(optim, pace.position(step), 40) for step in range(pace.last_step)]
    assert read_metrics(trainer.run.folder)["train/lr"][1:] == pytest.approx(expected, rel=1e-12)


def test_decision_is_on_disk_before_it_counts(make_trainer: Make, clock: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(lambda _: 3.0)
    trainer, synced = make_trainer(timed()), []
    usual = time_limit.sync_file

    def sync(path: Path) -> None:
        usual(path)
        last = json.loads(path.read_text().splitlines()[-1])
        assert last["event"] == "StepsPlanned"
        assert last["step"] not in trainer.pace.decisions
        assert last["before"] == trainer.pace.last_step
        synced.append(last["step"])

    monkeypatch.setattr(time_limit, "sync_file", sync)
    trainer.fit()
    assert synced == list(trainer.pace.decisions) == list(decisions_of(trainer))


def test_time_that_is_up_at_the_start_still_gives_a_model(make_trainer: Make, clock: Slow, capsys: Any) -> None:
    now = clock(lambda _: 5.0)
    now.now += 100  # for preparing
    trainer = make_trainer(timed())
    trainer.time_limit._counted_until = 1000.0
    assert trainer.fit().step == 2
    said = capsys.readouterr().err
    assert said.count("the time is up: step 2 is the last one, not 40") == 1
    assert "instead of" not in said
    assert trainer.run.checkpoint().step == 2
    assert trainer.run.checkpoint().val_loss is not None


def test_begun_earlier_leaves_less_time(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 1.0)
    trainer = make_trainer(timed())
    later = Trainer(trainer.run, trainer.settings, trainer.machine, trainer.method, begun=970.0)
    assert later.fit().step == 29


def test_steps_have_a_limit(make_trainer: Make, clock: Slow, capsys: Any) -> None:
    now = clock(lambda _: 0.1)
    trainer = make_trainer(timed(step_limit=50))
    assert trainer.fit().step == 50
    assert now.now < 1010
    said = capsys.readouterr().err
    assert said.count("50 steps in all instead of 40: a step takes 0.1 s, and 5") == 1
    assert said.count("more passes over the text would mostly memorize it") == 1


def test_run_without_minutes_decides_nothing(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 100.0)
    trainer = make_trainer(timed(minutes=None))
    assert trainer.fit().step == 40
    assert not decisions_of(trainer)
    assert "time_limit" not in trainer.checkpointer.components


@pytest.mark.parametrize("start", [10, 20, 30])
def test_resumed_run_repeats_what_was_decided(make_trainer: Make, clock: Slow, start: int) -> None:
    """From any checkpoint, on a machine of another speed: the same bits, as all decisions are in events.jsonl."""
    clock(lambda step: 2.0 if step < 12 else 1.0)
    trainer = make_trainer(timed(keep_last=99))
    trainer.fit()
    clock(lambda _: 33.0)
    again = make_trainer(timed(keep_last=99))
    again.fit(again.checkpointer.load(f"step-{start:08}"))
    assert again.pace.decisions == trainer.pace.decisions == decisions_of(trainer)
    same_weights(trainer, again)


def test_run_that_was_killed_decides_anew_after_the_last_decision(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 2.0)
    trainer = make_trainer(timed(keep_last=99))
    trainer.fit()
    recorded = decisions_of(trainer)
    lost = max(step for step in recorded if step < 18)
    events = trainer.run.folder / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if '"StepsPlanned"' in line and json.loads(line)["step"] == lost)
    events.write_text("".join(lines[: at + 1]))  # killed here
    now = clock(lambda _: 0.5)
    again = make_trainer(timed(keep_last=99))
    again.fit(again.checkpointer.load("step-00000010"))
    kept = {step: steps for step, steps in again.pace.decisions.items() if step <= lost}
    assert kept == {step: steps for step, steps in recorded.items() if step <= lost}
    assert again.pace.last_step > trainer.pace.last_step
    used = again.time_limit.elapsed
    assert used == pytest.approx(60, abs=2)  # with what the first process had used until the checkpoint
    assert now.now - 1000 == pytest.approx(60 - 20, abs=2)


def test_checkpoint_has_what_was_decided_and_used_until_it(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 2.0)
    trainer = make_trainer(timed(keep_last=99))
    trainer.fit()
    state = trainer.checkpointer.load("step-00000010").component("time_limit")
    assert state["elapsed"] == pytest.approx(20)
    assert dict(state["decisions"]) == {step: steps for step, steps in decisions_of(trainer).items() if step <= 10}


def test_damaged_decisions_are_left_out(make_trainer: Make) -> None:
    trainer = make_trainer(timed())
    good = {"event": "StepsPlanned", "step": 3, "steps": 9, "before": 7, "seconds_left": 1.0, "step_seconds": 1.0}
    bad = [{**good, "steps": 3}, {**good, "steps": "9"}, {**good, "steps": None}, {**good, "step": 1}]
    text = "".join(json.dumps(event) + "\n" for event in (good, *bad))
    (trainer.run.folder / "events.jsonl").write_text(text)
    assert list(time_limit.recorded_decisions(trainer.run, 2)) == [(3, 9)]


def test_sweep_takes_a_run_that_ended_with_its_time_for_finished(make_trainer: Make, clock: Slow) -> None:
    clock(lambda _: 3.0)
    trainer = make_trainer(timed())
    trainer.fit()
    before = (trainer.run.folder / "events.jsonl").read_bytes()
    train_trial(trainer.run.folder.parent, trainer.run.name)
    assert (trainer.run.folder / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"minutes": 0}, "train.minutes cannot be 0"),
        ({"minutes": -1}, "train.minutes cannot be -1"),
        ({"minutes": math.inf}, "train.minutes cannot be inf"),
        ({"minutes": math.nan}, "train.minutes cannot be nan"),
        ({"minutes": None, "step_limit": 50}, "train.step_limit has no effect without train.minutes"),
        ({"step_limit": 39}, "train.step_limit = 39 is below train.steps = 40"),
        ({"step_limit": 0}, "train.step_limit cannot be 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_trainer: Make, train: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(timed(**train))


def same_weights(one: Trainer, other: Trainer) -> None:

    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
