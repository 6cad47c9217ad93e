from collections.abc import Callable

import pytest
import torch

from fledge.checkpoint.state import State, capture
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer

CONFIG = ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11, mlp_bias=True, dropout=0.3)


def one_update(model: GPT, optimizer: torch.optim.Optimizer) -> float:
    """With dropout, so that it matters where chance stands."""
    model.train()
    loss = model(torch.arange(8).unsqueeze(0)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.fixture
def trainer() -> Callable[[int], tuple[GPT, torch.optim.Optimizer]]:
    def make(seed: int) -> tuple[GPT, torch.optim.Optimizer]:
        model = build(CONFIG, seed)
        return model, build_optimizer(model, OptimConfig(), torch.float32)

    return make


@pytest.fixture
def update() -> Callable[[GPT, torch.optim.Optimizer], float]:
    return one_update


@pytest.fixture
def state_at(trainer: Callable[[int], tuple[GPT, torch.optim.Optimizer]]) -> Callable[..., State]:
    """A small real state, another one for every step."""

    def make(step: int, val_loss: float | None = None) -> State:
        model, optimizer = trainer(step)
        one_update(model, optimizer)
        return capture(model, optimizer, step, val_loss=val_loss)

    return make
