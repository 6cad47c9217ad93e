"""[model] refuses values that cannot be built, and the hints name values that can."""

from typing import Any

import pytest

from fledge.core.errors import UserError
from fledge.model.config import ModelConfig


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n_layer": 0}, "model.n_layer"),
        ({"context": -1}, "model.context"),
        ({"vocab_size": 0}, "model.vocab_size"),
        ({"head_dim": 0}, "model.head_dim"),
        ({"mlp_width": 0}, "model.mlp_width"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"dropout": float("nan")}, "model.dropout"),
        ({"n_embd": 100, "n_head": 6}, "model.n_embd = 100"),
        ({"n_head": 6, "n_kv_head": 4}, "model.n_kv_head = 4"),
        ({"n_head": 2, "n_kv_head": 4}, "model.n_kv_head = 4"),
        ({"n_head": 2, "n_embd": 6}, "rotary"),
        ({"norm_bias": True}, "model.norm_bias"),
        ({"n_embd": 33, "n_head": 3, "positions": "sinusoidal"}, "model.n_embd = 33"),
        ({"rotary_base": 1.0}, "model.rotary_base cannot be 1.0"),
        ({"rotary_base": float("inf")}, "model.rotary_base"),
        ({"norm_eps": 0.0}, "model.norm_eps cannot be 0.0"),
        ({"norm_eps": -1e-5}, "model.norm_eps"),
        ({"norm_eps": float("nan")}, "model.norm_eps"),
        ({"norm_eps": 1.0}, "model.norm_eps"),
        ({"softcap": 0.0}, "model.softcap cannot be 0.0"),
        ({"softcap": -15.0}, "model.softcap"),
        ({"softcap": float("inf")}, "model.softcap"),
        ({"softcap": float("nan")}, "model.softcap"),
        ({"window": 0}, "model.window cannot be 0"),
        ({"window": -4}, "model.window"),
        ({"window": 257}, "model.window cannot be 257 where model.context = 256"),
    ],
)
def test_invalid_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as refusal:
        ModelConfig(**wrong)
    assert refusal.value.hint


@pytest.mark.parametrize(
    "edge",
    [
        {"window": 1},
        {"window": 256},
        {"softcap": 1e-3},
        {"norm_eps": 1e-12},
        {"rotary_base": 1.5},
        {"n_embd": 34, "n_head": 2, "positions": "sinusoidal"},
        {"n_embd": 33, "n_head": 3, "positions": "learned"},
        {"head_dim": 4, "n_embd": 768, "n_head": 4},
        {"norm": "layernorm", "norm_bias": True, "head_bias": True, "tied": True},
    ],
)
def test_boundary_values_are_accepted(edge: dict[str, Any]) -> None:
    config = ModelConfig(**edge)
    assert {key: getattr(config, key) for key in edge} == edge


def test_window_hint_names_the_longest_window() -> None:
    with pytest.raises(UserError) as refusal:
        ModelConfig(context=64, window=300)
    assert "from 1 to 64" in refusal.value.hint


@pytest.mark.parametrize(
    ("norm", "norm_eps", "eps"), [("layernorm", None, 1e-5), ("rmsnorm", None, 1e-6), ("rmsnorm", 1e-5, 1e-5)]
)
def test_default_epsilon_depends_on_the_norm(norm: Any, norm_eps: float | None, eps: float) -> None:
    assert ModelConfig(norm=norm, norm_eps=norm_eps).eps == eps


def test_width_hint_suggests_valid_widths() -> None:
    with pytest.raises(UserError) as refusal:
        ModelConfig(n_embd=100, n_head=6, positions="learned")
    assert "96 or 102" in refusal.value.hint
    for width in (96, 102):
        ModelConfig(n_embd=width, n_head=6, positions="learned")


def test_mlps_have_about_equal_cost() -> None:
    plain, gated = (3 if kind == "swiglu" else 2 for kind in ("gelu", "swiglu"))
    for n_embd in (192, 384, 768):
        widths = [ModelConfig(n_embd=n_embd, mlp=kind).mlp_hidden_width for kind in ("gelu", "swiglu")]
        assert abs(gated * widths[1] / (plain * widths[0]) - 1) < 0.05
