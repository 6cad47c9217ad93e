"""Another objective or a changed model is passed to the Trainer; everything else stays as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.config import merge, to_toml
from fledge.core.device import Machine
from fledge.datasets.cache import ensure_dataset
from fledge.model.gpt import GPT
from fledge.runs.metadata import training_metadata
from fledge.runs.run_folder import RunFolder, create_run
from fledge.settings.complete import complete_settings
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.objective import LossSum, NextTokenObjective
from fledge.training.trainer import Trainer

CPU = Machine("cpu", "float32")
LAYER = {
    "data": {"val": 0.2},
    "tokenizer": {"kind": "char"},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 8},
    "optim": {"lr": 0.01, "min_lr": 0.001, "warmup_steps": 0},
    "train": {"steps": 6, "batch": 4, "save_every": 3, "eval_every": 3, "log_every": 1, "compile": False},
    "track": {"sample_tokens": 4},
}


class DoubledObjective:
    """Twice the cross-entropy, and a metric of its own."""

    plain = NextTokenObjective()

    def count(self, batch: Batch) -> Tensor:
        return self.plain.count(batch)

    def __call__(self, model: GPT, batch: Batch) -> LossSum:
        found = self.plain(model, batch)
        return LossSum(2 * found.total, found.count, {"train/plain_loss": (found.total, found.count)})


def freeze_embedding(model: GPT) -> GPT:
    model.embed.weight.requires_grad_(False)
    return model


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    settings = validated(merge(LAYER, {"data": {"corpus": str(tmp_path / "text.txt")}}))
    dataset = ensure_dataset(settings.data, settings.tokenizer)
    complete = complete_settings(settings, dataset, CPU)
    folder = tmp_path / "runs" / "run"
    create_run(folder, to_toml(complete), training_metadata(dataset, CPU), dataset.tokenizer)
    return lambda **changes: Trainer(RunFolder(folder), complete, CPU, dataset, **changes)


def test_objective_is_trained_logged_and_resumed(make_trainer) -> None:
    trainer = make_trainer(objective=DoubledObjective())
    assert trainer.fit().step == 6
    rows = read_metrics(trainer.run.folder)
    losses, plain = (np.array(rows[name][1:]) for name in ("train/loss", "train/plain_loss"))
    assert np.allclose(losses, 2 * plain)
    again = make_trainer(objective=DoubledObjective())
    again.fit(again.checkpointer.load("step-00000003"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_transform_is_trained_and_resumed(make_trainer) -> None:
    trainer = make_trainer(transform=freeze_embedding)
    before = trainer.model.embed.weight.clone()
    assert trainer.fit().step == 6
    assert torch.equal(trainer.model.embed.weight, before)
    again = make_trainer(transform=freeze_embedding)
    again.fit(again.checkpointer.load("step-00000003"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
