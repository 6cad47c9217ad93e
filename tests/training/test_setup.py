"""Training is built from settings, with a hook for the plain model before anything wraps it."""

import numpy as np
import pytest
import torch
from torch import nn

from fledge.core.config import merge
from fledge.core.device import Machine, find_compiler
from fledge.datasets.shards import Split
from fledge.model.gpt import GPT
from fledge.settings.pipeline import validated
from fledge.training.config import Settings
from fledge.training.setup import NextToken, build_training

CPU = Machine("cpu", "float32")
SPLIT = Split("train", [np.tile(np.arange(13), 40).astype(np.uint16)], [np.zeros(1)])
LAYER = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 8, "vocab_size": 13},
    "train": {"batch": 4, "steps": 3, "compile": False, "chunked_loss": False},
}


def settings(**train: object) -> Settings:
    return validated(merge(LAYER, {"train": train}))


class LowRank(nn.Module):
    """A frozen linear layer plus a trained low-rank product, as LoRA has it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, 2, bias=False)
        self.up = nn.Linear(2, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.up(self.down(x))


class LowRankTraining(NextToken):
    def transform(self, model: GPT) -> GPT:
        model.blocks[0].mlp.up = LowRank(model.blocks[0].mlp.up)
        return model


@pytest.mark.parametrize(
    "compile",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not find_compiler("cpu").value, reason="torch.compile needs a C++ compiler")
        ),
    ],
)
def test_transform_changes_the_plain_model_before_it_is_wrapped(compile: bool) -> None:
    step = build_training(settings(compile=compile), CPU, LowRankTraining(settings(), CPU, SPLIT))
    layer = step.model.blocks[0].mlp.up
    frozen, up = layer.linear.weight.clone(), layer.up.weight.clone()
    for number in range(3):
        step(number)
    assert torch.equal(layer.linear.weight, frozen)
    assert not torch.equal(layer.up.weight, up)
    assert "blocks.0.mlp.up.down.weight" in dict(step.model.named_parameters())
