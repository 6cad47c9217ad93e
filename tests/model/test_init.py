"""Initial weights follow the table in init.py."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fledge.checkpoint.state import load_weights, weights_of
from fledge.model.config import ModelConfig
from fledge.model.init import build, build_for_loading, initialize
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


@pytest.mark.parametrize("tied", [True, False])
def test_normal_is_without_scaling_by_depth(tied: bool) -> None:
    for name, weight in weights_of(build(replace(WIDE, init="normal", tied=tied), 0)).items():
        if weight.ndim >= 2:
            assert abs(float(weight.std()) / 0.02 - 1) < 0.05, name
        else:
            assert (weight == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all(), name


@pytest.mark.parametrize("tied", [True, False])
def test_torch_gives_the_distributions_of_torchs_layers(tied: bool) -> None:
    """Linear layers, their biases, embeddings and norms, as a new layer of torch has them."""
    torch.manual_seed(0)
    model = build(replace(WIDE, init="torch", tied=tied, mlp="swiglu"), 0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not (tied and name == "head"):
            expect_alike(module.weight, nn.Linear(module.in_features, module.out_features).weight, 0.05, name)
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert 0.9 < float(module.bias.detach().abs().max()) * module.in_features**0.5 <= 1, name
        if isinstance(module, nn.Embedding):
            expect_alike(module.weight, nn.Embedding(*module.weight.shape).weight, 0.2, name)
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    expect_alike(model.get_parameter("positions.weight"), nn.Embedding(64, 128).weight, 0.2, "positions")


def expect_alike(ours: Tensor, theirs: Tensor, tolerance: float, name: str) -> None:
    """The same deviation, and the same largest value."""
    ours, theirs = ours.detach(), theirs.detach()
    assert abs(float(ours.std() / theirs.std()) - 1) < 0.05, name
    assert abs(float(ours.abs().max() / theirs.abs().max()) - 1) < tolerance, name
    assert not torch.equal(ours, theirs)


def test_torch_initialization_draws_from_its_own_generator() -> None:
    config = replace(WIDE, init="torch")
    before = torch.get_rng_state()
    one = build_for_loading(config)
    initialize(one, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    two = weights_of(build(config, 3))
    assert all(torch.equal(weight, two[name]) for name, weight in weights_of(one).items())
