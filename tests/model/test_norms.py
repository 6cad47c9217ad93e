"""Norms equal their formulas."""

from dataclasses import replace

import pytest
import torch

from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.norms import make_norm

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=11, norm="layernorm")
X = torch.linspace(-4, 4, 48).view(1, 3, 16)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("eps", [None, 1e-2])
def test_norm_equals_its_formula(norm: str, eps: float | None) -> None:
    x = X / 100  # so small that the epsilon shows
    used = eps or {"layernorm": 1e-5, "rmsnorm": 1e-6}[norm]
    centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
    expected = centred / (centred.square().mean(-1, keepdim=True) + used).sqrt()
    torch.testing.assert_close(make_norm(replace(SMALL, norm=norm, norm_eps=eps))(x), expected, atol=1e-5, rtol=1e-5)


def test_qk_norm_uses_the_epsilon_of_the_config() -> None:
    attention = GPT(replace(SMALL, norm="rmsnorm", norm_eps=1e-3)).blocks[0].attention
    assert attention.query_norm.eps == attention.key_norm.eps == 1e-3
