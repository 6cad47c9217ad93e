"""A run ends when its evaluations do not become better; the count survives interruptions and rollbacks."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.evaluation.validation import Evaluation
from fledge.recipes.sweep import train_trial
from fledge.runs.status import FINISHED, run_state, stopped_early
from fledge.settings.complete import complete_settings
from fledge.studio.training import Training
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.divergence import Diverged
from fledge.training.early_stopping import EarlyStopping
from fledge.training.trainer import Trainer

EVERY_STEP = {"train": {"patience": 2, "eval_every": 1, "save_every": 1, "steps": 12, "sample_every": 0}}


def lightnings_stop(losses: list[float], patience: int) -> int | None:
    """The number of the evaluation after which its EarlyStopping(patience, min_delta=0, mode="min") ends training."""
    best, waited = math.inf, 0
    for number, loss in enumerate(losses):
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
            if waited >= patience:
                return number
    return None


@given(
    losses=st.lists(st.sampled_from([1.0, 2.0, 3.0, 3.5]), max_size=20), patience=st.integers(1, 4), cut=st.integers()
)
def test_stops_where_lightning_does_even_if_interrupted(losses: list[float], patience: int, cut: int) -> None:
    ours, stopped = EarlyStopping(patience), None
    for number, loss in enumerate(losses):
        ours.update(10 * number, loss)
        if cut % 3 == number % 3:
            state = json.loads(json.dumps(ours.state_dict()))
            ours = EarlyStopping(patience)
            ours.load_state_dict(state)
            ours.update(10 * number, loss)  # its hooks ran again
        if ours.stopped_at is not None:
            stopped = ours.stopped_at // 10
            break
    assert stopped == lightnings_stop(losses, patience)


def test_without_patience_or_evaluations_nothing_stops() -> None:
    never = EarlyStopping(None)
    for step in range(9):
        never.update(step, 1.0)
    assert never.stopped_at is EarlyStopping(1).stopped_at is None
    never.load_state_dict({})
    assert never == EarlyStopping(None)


class Scripted:
    """Evaluations with these losses, by step; a step that is evaluated again gets its next loss."""

    def __init__(self, trainer: Trainer, losses: dict[int, list[float]], metric: str = "val/loss") -> None:
        self.trainer, self.losses, self.metric = trainer, losses, metric
        self.every = min(step for step in losses if step)

    def notices(self) -> list[str]:
        return []

    def evaluate(self) -> Evaluation:
        step = self.trainer.train_step.current_step + 1 if self.trainer.train_step.optimizer.state else 0
        loss = self.losses[step].pop(0)
        return Evaluation(loss, {self.metric: -loss if self.metric == "val/reward" else loss})


def test_run_ends_as_a_finished_one(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(EVERY_STEP)
    trainer.evaluations = Scripted(trainer, {0: [9], 2: [4], 4: [3], 6: [3.2], 8: [3.1], 10: [1], 12: [1]})  # type: ignore
    result = trainer.fit()
    said = "stopped early at step 8: no better validation loss in 2 evaluations; the best is 3.0000 at step 4"
    assert (result.step, result.best_step, result.stopped_early) == (8, 4, said)
    assert stopped_early(trainer.run) == said
    assert run_state(trainer.run, 8, 12) == FINISHED
    kinds = [event["event"] for event in read_events(trainer.run.folder) if event["step"] == 8]
    told = kinds.index("StoppedEarly")
    assert kinds[told - 1] == "Metrics"
    assert told < kinds.index("Saved") < kinds.index("Ended") == len(kinds) - 1
    assert kinds.count("StoppedEarly") == 1
    studio = Training(trainer.run.folder.parent)
    with pytest.raises(UserError, match="is finished: stopped early at step 8"):
        studio.resume_words(trainer.run.name, None)
    assert "--train.patience=null" in studio.resume_words(trainer.run.name, 20)
    train_trial(trainer.run.folder.parent, trainer.run.name)  # a sweep that is continued takes it for finished


def test_reward_counts_where_answers_are_rewarded(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(EVERY_STEP)
    trainer.evaluations = Scripted(trainer, {0: [-1], 1: [-2], 2: [-1.5], 3: [-2], 4: [-9], 12: [0]}, "val/reward")  # type: ignore
    early = trainer.fit().stopped_early
    assert early == "stopped early at step 3: no better reward in 2 evaluations; the best is 2.0000 at step 1"


def test_last_step_is_not_an_early_stop(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(EVERY_STEP)
    trainer.evaluations = Scripted(trainer, {0: [1], 6: [2], 12: [2]})  # type: ignore[assignment]
    result = trainer.fit()
    assert (result.step, result.stopped_early) == (12, None)


def test_rollback_restores_the_count(make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(EVERY_STEP)
    # step 4: before and after the rollback
    losses = {0: [9], 1: [8], 2: [4], 3: [4.5], 4: [3.0, 4.2], 5: [1.0], 12: [1.0]}
    trainer.evaluations = Scripted(trainer, losses)  # type: ignore[assignment]
    check, failed = trainer.monitor.check, []

    def fail_once(result: Any) -> None:
        check(result)
        if result.step == 5 and not failed:
            failed.append(result.step)
            raise Diverged(5, "a test")

    monkeypatch.setattr(trainer.monitor, "check", fail_once)
    monkeypatch.setattr(trainer, "_saves_at", lambda step: step == 3)
    assert trainer.fit().step == 4
    assert failed
    assert trainer.early_stopping.best == 4


def test_patience_without_a_validation_split_is_refused(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(EVERY_STEP)
    dataset = trainer.method.dataset  # type: ignore[attr-defined]
    del dataset.splits["val"]
    with pytest.raises(UserError, match=r"train\.patience") as refusal:
        complete_settings(trainer.settings, dataset, trainer.machine)
    assert "--data.val" in refusal.value.hint
