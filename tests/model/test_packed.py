"""Packed rows: the same loss and gradients as with every text in a row of its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fledge.losses.cross_entropy import IGNORE, full_logits_loss
from fledge.losses.logprobs import token_logprobs
from fledge.model.attention import ATTENTIONS
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.packed import PackedCache
from pairs import with_pairs

BASE = ModelConfig(n_layer=2, n_head=4, n_embd=16, context=600, vocab_size=23)
PARTS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "bigram": {"bigram_rows": 23 * 23},
    "hashed bigram": {"bigram_rows": 50, "positions": "learned"},
    "frequent bigram": {"bigram_rows": 100, "bigram_pairs": "frequent"},
    "grouped heads": {"n_kv_head": 2},
    "window": {"window": 5},
    "window of one": {"window": 1},
    "post-norm": {"block": "post_norm", "positions": "learned", "final_norm": False},
}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def make_model(attention: str, parts: dict[str, Any]) -> GPT:
    """Weights so large that a wrong position, mask or previous token changes the loss."""
    model = with_pairs(build(replace(BASE, attention=attention, **parts), 1)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(0, 0.5, generator=generator)
    return model


def make_texts(lengths: list[int]) -> list[Tensor]:
    return [torch.randint(23, (n + 1,), generator=torch.Generator().manual_seed(n)) for n in lengths]


def packed(texts: list[Tensor], padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, targets and positions of one row, with padding at its end."""
    ids = torch.cat([*(text[:-1] for text in texts), torch.zeros(padding, dtype=torch.long)])
    targets = torch.cat([*(text[1:] for text in texts), torch.full((padding,), IGNORE)])
    positions = torch.cat([torch.arange(n) for n in (*(len(text) - 1 for text in texts), padding)])
    return ids[None], targets[None], positions[None]


def gradients(model: GPT, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


def check_equal(model: GPT, texts: list[Tensor], padding: int) -> None:
    alone = sum(model.forward_loss(text[None, :-1], text[None, 1:], full_logits_loss) for text in texts)
    assert isinstance(alone, Tensor)
    ids, targets, positions = packed(texts, padding)
    together = model.forward_loss(ids, targets, full_logits_loss, PackedCache(model.config, positions))
    torch.testing.assert_close(together, alone)
    for found, expected in zip(gradients(model, together), gradients(model, alone), strict=True):
        torch.testing.assert_close(found, expected)


@every_attention
@pytest.mark.parametrize("parts", PARTS)
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), padding=st.integers(0, 4))
def test_packed_equals_every_text_alone(attention: str, parts: str, lengths: list[int], padding: int) -> None:
    check_equal(make_model(attention, PARTS[parts]), make_texts(lengths), padding)


@every_attention
def test_long_rows_that_are_computed_in_blocks(attention: str) -> None:
    check_equal(make_model(attention, {"window": 70}), make_texts([100, 129, 3, 256, 60]), 20)


def test_rows_are_packed_independently() -> None:
    model = make_model("sdpa", {"bigram_rows": 50})
    rows = [packed(make_texts(lengths), padding) for lengths, padding in (([3, 4], 2), ([9], 0), ([1, 1, 7], 0))]
    ids, targets, positions = (torch.cat(each) for each in zip(*rows, strict=True))
    together = model.forward_loss(ids, targets, token_logprobs, PackedCache(model.config, positions))
    for row, (one_ids, one_targets, one_positions) in enumerate(rows):
        alone = model.forward_loss(one_ids, one_targets, token_logprobs, PackedCache(model.config, one_positions))
        torch.testing.assert_close(together[row], alone[0])


def test_without_the_cache_texts_see_each_other() -> None:
    """The comparison above can fail."""
    model = make_model("sdpa", {})
    ids, targets, positions = packed(make_texts([6, 7]), 0)
    separate = model.forward_loss(ids, targets, full_logits_loss, PackedCache(model.config, positions))
    assert not torch.isclose(model.forward_loss(ids, targets, full_logits_loss), separate)
