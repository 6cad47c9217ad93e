"""Parameter groups: which parameters decay, and the options they get."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.model.lora import freeze_base
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from tiny import GPT2_PARTS

CPU = Machine("cpu", "float32")
SHAPES = {
    "biased": ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11, **GPT2_PARTS),
    "plain": ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11, tied=True),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_parameter_is_in_one_group_and_vectors_do_not_decay(shape: str) -> None:
    model = build(SHAPES[shape], 0)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3), CPU.torch_dtype)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        is_vector = "norm" in name or name.endswith("bias")
        assert decay[id(p)] == (0.0 if is_vector else 0.3), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_weights_are_in_no_group(optimizer: Literal["adamw", "muon"]) -> None:
    model = freeze_base(build(replace(SHAPES["plain"], lora=2, value_head=True), 0))
    groups = build_optimizer(model, OptimConfig(optimizer=optimizer), CPU.torch_dtype).param_groups
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(trained)
    assert not any("momentum" in group for group in groups)  # Muon is for whole matrices


def test_weight_decay_shrinks_matrices_only() -> None:
    model = build(SHAPES["biased"], 0)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5), CPU.torch_dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if p.ndim >= 2 else before[name]
        torch.testing.assert_close(p.detach(), expected, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_decay_of_all_equals_adamw_on_all_parameters(shape: str) -> None:
    """As a program does that gives its parameters to AdamW as they are."""
    ours, theirs = build(SHAPES[shape], 0), build(SHAPES[shape], 0)
    config = OptimConfig(lr=0.1, weight_decay=0.5, decay="all")
    optimizers = [
        build_optimizer(ours, config, CPU.torch_dtype),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.9, 0.95), weight_decay=0.5),
    ]
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for p in model.parameters():
                p.grad = p.detach().sin()
            optimizer.step()
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decay_of_all_is_of_every_trained_parameter(optimizer: Literal["adamw", "muon"]) -> None:
    model = build(replace(SHAPES["biased"], value_head=True), 0)
    config = OptimConfig(optimizer=optimizer, weight_decay=0.3, decay="all")
    groups = build_optimizer(model, config, CPU.torch_dtype).param_groups
    assert {group["weight_decay"] for group in groups} == {0.3}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_settings_reach_the_optimizer() -> None:
    config = OptimConfig(lr=3e-4, min_lr=0.0, betas=(0.8, 0.7), eps=1e-6)
    optimizer = build_optimizer(build(SHAPES["plain"], 0), config, CPU.torch_dtype)
    for group in optimizer.param_groups:
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (3e-4, (0.8, 0.7), 1e-6)
