"""Each MLP equals its formula."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fledge.model.config import ModelConfig
from fledge.model.mlp import MLPS

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=11, norm="layernorm")
X = torch.linspace(-4, 4, 48).view(1, 3, 16)


def by_hand(kind: str, mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    activations = {
        "gelu": lambda h: h * (1 + torch.erf(h / math.sqrt(2))) / 2,
        "gelu_tanh": lambda h: h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2,
        "relu": lambda h: h.clamp(min=0),
        "relu2": lambda h: h.clamp(min=0) ** 2,
    }
    h = x @ mlp.up.weight.T
    if kind == "swiglu":
        gate = x @ mlp.gate.weight.T
        return (gate * torch.sigmoid(gate) * h) @ mlp.down.weight.T
    return activations[kind](h) @ mlp.down.weight.T


@pytest.mark.parametrize("kind", MLPS)
def test_mlp_equals_its_formula(kind: str) -> None:
    torch.manual_seed(0)
    mlp = MLPS[kind](replace(SMALL, mlp=kind))
    torch.testing.assert_close(mlp(X), by_hand(kind, mlp, X), atol=1e-5, rtol=1e-5)


def test_gelu_and_gelu_tanh_differ_slightly() -> None:
    exact, tanh = (MLPS[kind](SMALL) for kind in ("gelu", "gelu_tanh"))
    tanh.load_state_dict(exact.state_dict())
    assert 1e-6 < (exact(X) - tanh(X)).abs().max() < 1e-2


@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("width", [5, 48, 160])
def test_mlp_width_can_be_any_number(kind: str, width: int) -> None:
    mlp = MLPS[kind](replace(SMALL, mlp=kind, mlp_width=width))
    assert mlp(X).shape == X.shape
    assert mlp.down.weight.shape == (16, width)
