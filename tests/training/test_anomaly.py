"""The first non-finite weight, layer output or gradient is named."""

import math

import pytest
import torch

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.training.anomaly import NOT_REPRODUCED, find_anomaly
from fledge.training.objective import NextTokenObjective

CPU = Machine("cpu", "float32")
OBJECTIVE = NextTokenObjective()
BATCH = Batch(torch.arange(8).reshape(1, 8), torch.arange(1, 9).reshape(1, 8))


@pytest.fixture
def model() -> GPT:
    return build(ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=13, dropout=0.2), 1).train()


def test_finite_model_has_no_anomaly(model: GPT) -> None:
    assert find_anomaly(model, OBJECTIVE, [BATCH], CPU) == NOT_REPRODUCED


@pytest.mark.parametrize("name", ["embed.weight", "blocks.1.attention.output.weight", "norm.weight"])
def test_weight_is_named(model: GPT, name: str) -> None:
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = math.nan
    assert find_anomaly(model, OBJECTIVE, [BATCH], CPU) == f"weight {name}"


def test_innermost_layer_that_overflows_is_named(model: GPT) -> None:
    with torch.no_grad():
        model.blocks[1].mlp.get_submodule("up").weight.fill_(3e38)
    assert find_anomaly(model, OBJECTIVE, [BATCH], CPU) == "output of blocks.1.mlp.up"


def test_all_micro_batches_are_searched(model: GPT) -> None:
    with torch.no_grad():
        model.embed.weight[12] = 3e38
    high = Batch(torch.full((1, 8), 12), torch.full((1, 8), 1))
    assert find_anomaly(model, OBJECTIVE, [BATCH, high], CPU).startswith("output of ")
    assert find_anomaly(model, OBJECTIVE, [BATCH], CPU) == NOT_REPRODUCED


def test_gradient_is_named(model: GPT) -> None:
    model.blocks[0].mlp.register_full_backward_hook(lambda *_: (torch.full((1, 8, 16), math.inf),))
    assert find_anomaly(model, OBJECTIVE, [BATCH], CPU).startswith("gradient of blocks.0.")


def test_search_changes_neither_rng_nor_weights(model: GPT) -> None:
    before, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    find_anomaly(model, OBJECTIVE, [BATCH], CPU)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
