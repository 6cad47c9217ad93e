"""Each part against its definition, written down here once more and in another way."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fledge.checkpoint.state import weights_of
from fledge.model.bigram import HashedBigram, make_bigram
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.head import make_head
from fledge.model.init import build
from fledge.model.mlp import MLPS
from fledge.model.norms import make_norm
from fledge.model.positions import POSITIONS, ROTATIONS

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
def test_an_mlp_is_its_formula(kind: str) -> None:
    torch.manual_seed(0)
    mlp = MLPS[kind](replace(SMALL, mlp=kind))
    torch.testing.assert_close(mlp(X), by_hand(kind, mlp, X), atol=1e-5, rtol=1e-5)


def test_the_two_gelus_are_near_each_other_and_not_the_same() -> None:
    exact, tanh = (MLPS[kind](SMALL) for kind in ("gelu", "gelu_tanh"))
    tanh.load_state_dict(exact.state_dict())
    assert 1e-6 < (exact(X) - tanh(X)).abs().max() < 1e-2


@pytest.mark.parametrize("kind", MLPS)
@pytest.mark.parametrize("width", [5, 48, 160])
def test_an_mlp_may_have_any_width(kind: str, width: int) -> None:
    mlp = MLPS[kind](replace(SMALL, mlp=kind, mlp_width=width))
    assert mlp(X).shape == X.shape
    assert mlp.down.weight.shape == (16, width)


def test_sines_and_cosines_stand_where_the_formula_says() -> None:
    positions = POSITIONS["sinusoidal"](SMALL)
    table = positions(torch.zeros(1, 12, 16), slice(12))[0]
    for place in range(12):
        for i in range(8):
            angle = place / 10_000 ** (2 * i / 16)
            assert abs(float(table[place, 2 * i]) - math.sin(angle)) < 1e-6
            assert abs(float(table[place, 2 * i + 1]) - math.cos(angle)) < 1e-6


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_what_is_added_depends_on_where_the_first_token_stands(kind: str) -> None:
    positions = build(replace(SMALL, positions=kind), 0).positions
    whole = positions(torch.zeros(1, 12, 16), slice(12))
    torch.testing.assert_close(positions(torch.zeros(1, 3, 16), slice(7, 10)), whole[:, 7:10])


def test_fixed_positions_are_neither_trained_nor_saved() -> None:
    model = GPT(replace(SMALL, positions="sinusoidal"))
    assert not [name for name in [*weights_of(model), *model.state_dict()] if name.startswith("positions")]


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rotary_turns_each_pair_by_its_own_speed(base: float) -> None:
    rotate = ROTATIONS["rotary"](replace(SMALL, head_dim=8, rotary_base=base))
    x = torch.zeros(1, 1, 12, 8)
    x[..., :4] = 1  # each pair (i, i + 4) points along its first axis
    turned = rotate(x, slice(12))[0, 0]
    for place in range(12):
        for i in range(4):
            angle = place / base ** (2 * i / 8)
            assert abs(float(turned[place, i]) - math.cos(angle)) < 1e-6
            assert abs(float(turned[place, i + 4]) - math.sin(angle)) < 1e-6


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("eps", [None, 1e-2])
def test_a_norm_is_its_formula_with_its_epsilon(norm: str, eps: float | None) -> None:
    x = X / 100  # so small that the epsilon shows
    used = eps or {"layernorm": 1e-5, "rmsnorm": 1e-6}[norm]
    centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
    expected = centred / (centred.square().mean(-1, keepdim=True) + used).sqrt()
    torch.testing.assert_close(make_norm(replace(SMALL, norm=norm, norm_eps=eps))(x), expected, atol=1e-5, rtol=1e-5)


def test_queries_and_keys_are_normalised_with_the_same_epsilon() -> None:
    attention = GPT(replace(SMALL, norm="rmsnorm", norm_eps=1e-3)).blocks[0].attention
    assert attention.query_norm.eps == attention.key_norm.eps == 1e-3


BIASED = {
    "qkv_bias": ("attention.query.bias", "attention.key.bias", "attention.value.bias"),
    "output_bias": ("attention.output.bias",),
    "mlp_bias": ("mlp.up.bias", "mlp.gate.bias", "mlp.down.bias"),
    "norm_bias": ("attention_norm.bias", "mlp_norm.bias"),
}


@pytest.mark.parametrize("bias", BIASED)
def test_each_bias_is_asked_for_on_its_own(bias: str) -> None:
    names = set(weights_of(GPT(replace(SMALL, **{bias: True})))) - set(weights_of(GPT(SMALL)))
    last = {"norm.bias"} if bias == "norm_bias" else set()
    assert names == {f"blocks.{i}.{name}" for i in range(2) for name in BIASED[bias]} | last


@pytest.mark.parametrize("tied", [True, False])
def test_a_biased_head_adds_a_number_to_each_tokens_score(tied: bool) -> None:
    plain, biased = (build(replace(SMALL, tied=tied, head_bias=bias), 0).eval() for bias in (False, True))
    ids = torch.arange(6).unsqueeze(0)
    with torch.no_grad():
        biased.head.bias.copy_(torch.arange(11.0))
        torch.testing.assert_close(biased(ids), plain(ids) + torch.arange(11.0))


@pytest.mark.parametrize(("vocab_size", "rows"), [(1024, 4096), (32_768, 32_768), (65_536, 4097), (50_257, 65_536)])
def test_pairs_that_share_a_token_share_no_row_more_often_than_others(vocab_size: int, rows: int) -> None:
    pairs = make_bigram(replace(SMALL, vocab_size=vocab_size, bigram_rows=rows))
    assert isinstance(pairs, HashedBigram)
    every = torch.arange(vocab_size)
    many = min(vocab_size, rows)
    for pair in (every * vocab_size + 7, 7 * vocab_size + every):  # the second token, or the first, is always 7
        row = pairs.row(pair)
        assert row.min() >= 0
        assert row.max() < rows
        assert len(row.unique()) > 0.5 * many


def test_a_soft_cap_bounds_scores_and_leaves_small_ones_alone() -> None:
    plain, capped = make_head(SMALL), make_head(replace(SMALL, softcap=15.0))
    capped.load_state_dict(plain.state_dict())
    for scale in (0.01, 1.0, 100.0):
        expected = 15 * torch.tanh(plain(scale * X) / 15)
        torch.testing.assert_close(capped(scale * X), expected)
        assert capped(scale * X).abs().max() <= 15
    torch.testing.assert_close(capped(0.01 * X), plain(0.01 * X), atol=1e-5, rtol=1e-4)
