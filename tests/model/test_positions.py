"""Position embeddings equal their formulas."""

import math
from dataclasses import replace

import pytest
import torch

from fledge.checkpoint.state import weights_of
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.positions import POSITIONS, ROTATIONS

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=11, norm="layernorm")


def test_sinusoidal_table_equals_its_formula() -> None:
    positions = POSITIONS["sinusoidal"](SMALL)
    table = positions(torch.zeros(1, 12, 16), slice(12))[0]
    for position in range(12):
        for i in range(8):
            angle = position / 10_000 ** (2 * i / 16)
            assert abs(float(table[position, 2 * i]) - math.sin(angle)) < 1e-6
            assert abs(float(table[position, 2 * i + 1]) - math.cos(angle)) < 1e-6


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_of_later_tokens_continue_the_table(kind: str) -> None:
    positions = build(replace(SMALL, positions=kind), 0).positions
    whole = positions(torch.zeros(1, 12, 16), slice(12))
    torch.testing.assert_close(positions(torch.zeros(1, 3, 16), slice(7, 10)), whole[:, 7:10])


def test_sinusoidal_table_is_neither_trained_nor_saved() -> None:
    model = GPT(replace(SMALL, positions="sinusoidal"))
    assert not [name for name in [*weights_of(model), *model.state_dict()] if name.startswith("positions")]


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rotary_equals_its_formula(base: float) -> None:
    rotate = ROTATIONS["rotary"](replace(SMALL, head_dim=8, rotary_base=base))
    x = torch.zeros(1, 1, 12, 8)
    x[..., :4] = 1  # each pair (i, i + 4) points along its first axis
    rotated = rotate(x, slice(12))[0, 0]
    for position in range(12):
        for i in range(4):
            angle = position / base ** (2 * i / 8)
            assert abs(float(rotated[position, i]) - math.cos(angle)) < 1e-6
            assert abs(float(rotated[position, i + 4]) - math.sin(angle)) < 1e-6
