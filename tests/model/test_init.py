"""Initial weights follow the table in init.py."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fledge.checkpoint.state import load_weights, weights_of
from fledge.model.config import ModelConfig
from fledge.model.init import build, build_for_loading
from tiny import GPT2_PARTS

WIDE = ModelConfig(
    n_layer=3,
    n_head=4,
    n_embd=128,
    context=64,
    vocab_size=200,
    head_bias=True,
    **GPT2_PARTS,
)


def test_weights_depend_on_the_seed_only() -> None:
    one = weights_of(build(WIDE, 5))
    torch.rand(100)
    two = weights_of(build(WIDE, 5))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_gives_other_weights() -> None:
    one, two = weights_of(build(WIDE, 5)), weights_of(build(WIDE, 6))
    assert not any(torch.equal(one[name], two[name]) for name in one if one[name].ndim >= 2)


@pytest.mark.parametrize("mlp", ["gelu", "relu2", "swiglu"])
@pytest.mark.parametrize("tied", [True, False])
def test_distributions_match_the_table(mlp: str, tied: bool) -> None:
    model = build(replace(WIDE, mlp=mlp, tied=tied), 0)
    residual = 0.02 / (2 * 3) ** 0.5
    for name, weight in weights_of(model).items():
        if weight.ndim >= 2:
            expected = residual if name.endswith(("output.weight", "down.weight")) else 0.02
            assert abs(float(weight.std()) / expected - 1) < 0.05, name
            assert abs(float(weight.mean())) < expected * 0.06, name
        else:
            assert (weight == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all(), name


def test_norms_without_bias() -> None:
    model = build(replace(WIDE, norm_bias=False), 0)
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.LayerNorm))


def test_every_weight_is_initialized() -> None:
    """Whatever torch had filled the modules with, the table decides."""
    torch.manual_seed(1)
    one = weights_of(build(replace(WIDE, mlp="swiglu", qk_norm=True), 0))
    torch.manual_seed(2)
    two = weights_of(build(replace(WIDE, mlp="swiglu", qk_norm=True), 0))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_model_for_loading_draws_no_random_numbers() -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=11)
    before = torch.get_rng_state()
    empty, whole = build_for_loading(config), build(config, 0)
    load_weights(empty, weights_of(whole))
    ids = torch.arange(8)[None]
    assert torch.equal(empty(ids), whole(ids))
    torch.set_rng_state(before)
    build_for_loading(config)
    assert torch.equal(torch.get_rng_state(), before)
