"""Another objective or a changed model is passed to the Trainer; everything else stays as it is."""

import numpy as np
import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.model.gpt import GPT
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.objective import LossSum, NextTokenObjective, Objective
from fledge.training.pretraining import Pretraining
from fledge.training.trainer import Trainer

CPU = Machine("cpu", "float32")


class DoubledObjective:
    """Twice the cross-entropy, and a metric of its own."""

    plain = NextTokenObjective()

    def count(self, batch: Batch) -> Tensor:
        return self.plain.count(batch)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        found = self.plain(model, batch)
        return LossSum(2 * found.total, found.count, {"train/plain_loss": (found.total, found.count)})


class DoubledLoss(Pretraining):
    def objective(self, *, compile: bool) -> Objective:
        assert not compile
        return DoubledObjective()


class FrozenEmbedding(Pretraining):
    def transform(self, model: GPT) -> GPT:
        model.embed.weight.requires_grad_(False)
        return model


def test_objective_is_trained_logged_and_resumed(make_trainer) -> None:
    trainer = make_trainer(method=DoubledLoss)
    assert trainer.fit().step == 6
    rows = read_metrics(trainer.run.folder)
    losses, plain = (np.array(rows[name][1:]) for name in ("train/loss", "train/plain_loss"))
    assert np.allclose(losses, 2 * plain)
    again = make_trainer(method=DoubledLoss)
    again.fit(again.checkpointer.load("step-00000003"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_transform_is_trained_and_resumed(make_trainer) -> None:
    trainer = make_trainer(method=FrozenEmbedding)
    before = trainer.model.embed.weight.clone()
    assert trainer.fit().step == 6
    assert torch.equal(trainer.model.embed.weight, before)
    again = make_trainer(method=FrozenEmbedding)
    again.fit(again.checkpointer.load("step-00000003"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_run_is_evaluated_regularly_and_after_the_last_step(make_trainer) -> None:
    def evaluated(trainer: Trainer) -> list[int]:
        return [step for step in range(trainer.pace.last_step + 1) if trainer._evaluates_at(step)]

    trainer = make_trainer({"train": {"steps": 10, "eval_every": 4}})
    assert evaluated(trainer) == [0, 4, 8, 10]
    trainer.pace.decisions[5] = 14  # the planned end is a step as any other
    assert evaluated(trainer) == [0, 4, 8, 12, 14]
    assert evaluated(make_trainer({"train": {"eval_every": 0}})) == []
