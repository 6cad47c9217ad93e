"""A small Stepper for tests of what happens in one update."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from fledge.batches.loader import Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.training.loss_scaler import LOSS_SCALERS
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.parallel import wrap
from fledge.training.step import TrainStep

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
