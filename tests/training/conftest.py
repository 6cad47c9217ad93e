"""A small TrainStep for tests of what happens in one update, and a small Trainer."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fledge.batches.loader import Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.core.config import Layer, merge, to_toml
from fledge.core.device import Machine
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.shards import Split
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.runs.metadata import training_metadata
from fledge.runs.run_folder import RunFolder, create_run
from fledge.settings.complete import complete_settings
from fledge.settings.pipeline import validated
from fledge.training.loss_scaler import LOSS_SCALERS
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.parallel import wrap
from fledge.training.pretraining import Pretraining
from fledge.training.step import TrainStep
from fledge.training.trainer import Trainer

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=13)
IDS = np.tile(np.arange(13), 40).astype(np.uint16)
STEPS, BATCH = 30, 4


def build_stepper(dtype: str, optimizer: str = "adamw") -> TrainStep:
    machine = Machine("cpu", dtype)  # type: ignore[arg-type]
    optim = OptimConfig(optimizer=optimizer, lr=0.02, min_lr=0.002, warmup_steps=2)  # type: ignore[arg-type]
    model, sampler = build(MODEL, 1), WindowSampler(len(IDS), MODEL.context, 3, 1)
    windows = WindowReader(Split("train", [IDS], [np.zeros(1)]), sampler)
    return TrainStep(
        model=model,
        loss=wrap(model, machine, compile=False),
        optimizer=build_optimizer(model, optim, machine.torch_dtype),
        batches=FixedMicroBatch(Loader(windows, BATCH, machine), 2),
        multiplier=partial(lr_multiplier, optim, steps=STEPS),
        initial_lr=optim.lr,
        grad_clip=1.0,
        loss_scaler=LOSS_SCALERS[dtype](),
    )


@pytest.fixture
def stepper() -> Callable[..., TrainStep]:
    """dtype, optimizer → a new TrainStep, on batches of four sequences, two at once."""
    return build_stepper


LAYER = {
    "data": {"val": 0.2},
    "tokenizer": {"kind": "char"},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 8},
    "optim": {"lr": 0.01, "min_lr": 0.001, "warmup_steps": 0},
    "train": {"steps": 6, "batch": 4, "save_every": 3, "eval_every": 3, "log_every": 1, "compile": False},
    "track": {"sample_tokens": 4},
}


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """More settings, method → the Trainer of the run with these settings, which is created where there is none yet."""
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60)
    machine = Machine("cpu", "float32")

    def make(layer: Layer | None = None, method: type[Pretraining] = Pretraining) -> Trainer:
        settings = validated(merge(merge(LAYER, layer or {}), {"data": {"corpus": str(tmp_path / "text.txt")}}))
        dataset = ensure_dataset(settings.data, settings.tokenizer)
        complete = complete_settings(settings, dataset, machine)
        text = to_toml(complete)
        folder = tmp_path / "runs" / hashlib.sha256(text.encode()).hexdigest()[:8]
        if not folder.exists():
            create_run(folder, text, training_metadata(dataset, machine), dataset.tokenizer)
        return Trainer(RunFolder(folder), complete, machine, method(complete, machine, dataset))

    return make
