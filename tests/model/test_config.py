"""[model] checks itself: what cannot be built is refused with a word on what can."""

from typing import Any

import pytest

from fledge.base.errors import UserError
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
    ],
)
def test_an_impossible_shape_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as refusal:
        ModelConfig(**wrong)
    assert refusal.value.hint


def test_the_hint_for_an_indivisible_width_is_a_width_that_works() -> None:
    with pytest.raises(UserError) as refusal:
        ModelConfig(n_embd=100, n_head=6, positions="learned")
    assert "96 or 102" in refusal.value.hint
    for width in (96, 102):
        ModelConfig(n_embd=width, n_head=6, positions="learned")


def test_all_mlps_cost_about_the_same() -> None:
    plain, gated = (3 if kind == "swiglu" else 2 for kind in ("gelu", "swiglu"))
    for n_embd in (192, 384, 768):
        widths = [ModelConfig(n_embd=n_embd, mlp=kind).hidden_width for kind in ("gelu", "swiglu")]
        assert abs(gated * widths[1] / (plain * widths[0]) - 1) < 0.05
