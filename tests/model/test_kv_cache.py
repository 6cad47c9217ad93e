"""Rows of a cache are independent: lengths, positions and masks are their own."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.kv_cache import KVCache
from pairs import with_pairs

CONTEXT = 20
BASE = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context=CONTEXT, vocab_size=23)
POSITIONS = {
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": {"positions": "rotary"},
    "bigram": {"positions": "rotary", "bigram_rows": 23 * 23},
    "hashed bigram": {"positions": "learned", "bigram_rows": 50},
    "frequent bigram": {"bigram_rows": 100, "bigram_pairs": "frequent"},
}
WINDOWS = {"": None, "window": 5, "window of one": 1}
CONFIGS = {
    f"{kind} {wide} {attention}".replace("  ", " "): replace(BASE, **fields, window=window, attention=attention)
    for (kind, fields), (wide, window), attention in itertools.product(
        POSITIONS.items(), WINDOWS.items(), ("sdpa", "blocked", "readable")
    )
}


def make_model(config: ModelConfig) -> GPT:
    """Weights so large that a wrong position or mask changes the tokens."""
    model, generator = with_pairs(build(config, 1)).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.normal_(0, 0.3, generator=generator)
        model.embed.weight.mul_(3)
    return model


MODELS = {name: make_model(config) for name, config in CONFIGS.items()}
every_config = pytest.mark.parametrize("name", CONFIGS)


def make_cache(model: GPT, rows: int) -> KVCache:
    return KVCache.allocate(model.config, rows, torch.float32, "cpu")


def make_ids(length: int, seed: int) -> Tensor:
    return torch.randint(23, (length,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def greedy(model: GPT, prompt: Tensor, count: int) -> list[int]:
    """The reference: no cache, no batch; everything is computed again for every token."""
    ids = prompt.tolist()
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def decode(model: GPT, cache: KVCache, tokens: Tensor, count: int) -> Tensor:
    """Greedy decoding of all rows at once; `tokens` [B] are the last ones that the cache has not seen. [B, count]"""
    found = []
    for _ in range(count):
        tokens = model.next_token_logits(tokens[:, None], cache).argmax(-1)
        found.append(tokens)
    return torch.stack(found, dim=1)


@torch.no_grad()
def prefill(model: GPT, cache: KVCache, prompts: list[Tensor]) -> None:
    """All but the last token of each prompt, padded on the right, in one call."""
    lengths = [len(prompt) - 1 for prompt in prompts]
    ids = torch.nn.utils.rnn.pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True, padding_value=22)
    model(ids, cache)
    for row, length in enumerate(lengths):
        cache.truncate(row, length)


def last_tokens(prompts: list[Tensor]) -> Tensor:
    return torch.stack([prompt[-1] for prompt in prompts])


@every_config
def test_batched_unequal_rows_equal_each_alone(name: str) -> None:
    model, prompts = MODELS[name], [make_ids(length, length) for length in (9, 2, 5, 7)]
    cache = make_cache(model, 4)
    prefill(model, cache, prompts)
    assert cache.lengths.tolist() == [8, 1, 4, 6]
    together = decode(model, cache, last_tokens(prompts), 10)
    assert together.tolist() == [greedy(model, prompt, 10) for prompt in prompts]
    assert len(together.unique()) > 1


@every_config
def test_logits_of_unequal_rows_equal_each_alone(name: str) -> None:
    """Several tokens a row, in chunks, after rows of different lengths."""
    model, lengths = MODELS[name], (3, 8, 0)
    ids = torch.stack([make_ids(CONTEXT, seed) for seed in (1, 2, 3)])
    cache = make_cache(model, 3)
    with torch.no_grad():
        model(ids[:, :8], cache)
        for row, length in enumerate(lengths):
            cache.truncate(row, length)
        rest = torch.stack([row[length : length + 12] for row, length in zip(ids, lengths, strict=True)])
        chunks = torch.cat([model(rest[:, a:b], cache) for a, b in ((0, 5), (5, 6), (6, 12))], dim=1)
        for row, length in enumerate(lengths):
            alone = model(ids[row : row + 1, : length + 12])[0, length:]
            torch.testing.assert_close(chunks[row], alone, atol=2e-5, rtol=1e-4)


@every_config
def test_truncated_row_equals_one_that_never_went_on(name: str) -> None:
    model, prompts = MODELS[name], [make_ids(6, seed) for seed in (4, 5)]
    cache = make_cache(model, 2)
    prefill(model, cache, prompts)
    decode(model, cache, torch.tensor([1, 2]), 12)  # wrong tokens, far past every window
    for row in range(2):
        cache.truncate(row, 5)
    assert decode(model, cache, last_tokens(prompts), 8).tolist() == [greedy(model, p, 8) for p in prompts]


@every_config
def test_freed_row_is_reused_while_others_decode(name: str) -> None:
    model, old, new = MODELS[name], [make_ids(6, seed) for seed in (6, 7, 8)], make_ids(4, 9)
    cache = make_cache(model, 3)
    prefill(model, cache, old)
    first = decode(model, cache, last_tokens(old), 4)
    cache.free(1)
    assert cache.lengths.tolist() == [9, 0, 9]
    with torch.no_grad():
        model(new[None, :-1], cache.rows(1, 2))  # the others wait
    assert cache.lengths.tolist() == [9, 3, 9]
    tokens = torch.stack((first[0, -1], new[-1], first[2, -1]))
    found = decode(model, cache, tokens, 6).tolist()
    assert found[1] == greedy(model, new, 6)
    for row in (0, 2):
        assert [*first[row].tolist(), *found[row]] == greedy(model, old[row], 10)


@settings(max_examples=30)
@given(
    name=st.sampled_from(list(CONFIGS)),
    starts=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    cuts=st.sets(st.integers(1, 9)),
    seed=st.integers(0, 9),
)
@torch.no_grad()
def test_any_chunks_of_unequal_rows_equal_uncached(name: str, starts: list[int], cuts: set[int], seed: int) -> None:
    model, ids = MODELS[name], torch.stack([make_ids(18, seed + row) for row in range(len(starts))])
    cache = make_cache(model, len(starts))
    for row, start in enumerate(starts):
        if start:
            model(ids[row : row + 1, :start], cache.rows(row, row + 1))
    new = torch.stack([row[start : start + 10] for row, start in zip(ids, starts, strict=True)])
    logits = torch.cat([model(new[:, a:b], cache) for a, b in itertools.pairwise([0, *sorted(cuts), 10])], dim=1)
    for row, start in enumerate(starts):
        whole = model(ids[row : row + 1, : start + 10])[0, start:]
        torch.testing.assert_close(logits[row], whole, atol=2e-5, rtol=1e-4)


def test_refused_call_leaves_the_cache_unchanged() -> None:
    model = MODELS["rotary sdpa"]
    cache = make_cache(model, 2)
    with torch.no_grad():
        model(make_ids(18, 0)[None], cache.rows(1, 2))
        with pytest.raises(AssertionError, match="more tokens than the context holds"):
            model(torch.zeros(2, 3, dtype=torch.long), cache)
        assert cache.lengths.tolist() == [0, 18]
        model(torch.zeros(2, 2, dtype=torch.long), cache)
    assert cache.lengths.tolist() == [2, 20]


def test_truncate_cannot_lengthen_a_row() -> None:
    cache = make_cache(MODELS["rotary sdpa"], 2)
    with pytest.raises(AssertionError):
        cache.truncate(0, 1)


def test_batch_must_have_as_many_rows_as_the_cache() -> None:
    model = MODELS["rotary sdpa"]
    with pytest.raises(AssertionError, match="one row of tokens"), torch.no_grad():
        model(torch.zeros(3, 2, dtype=torch.long), make_cache(model, 2))


def test_rows_of_equal_length_need_no_mask() -> None:
    """The fused kernels are fastest without one."""
    model, cache = MODELS["rotary sdpa"], make_cache(MODELS["rotary sdpa"], 2)
    with torch.no_grad():
        model(torch.zeros(2, 4, dtype=torch.long), cache)
        assert cache.mask is None
        cache.truncate(0, 2)
        model(torch.zeros(2, 1, dtype=torch.long), cache)
    assert cache.mask is not None
    assert cache.mask[:, 0, 0].tolist() == [[True, True, True, False, False], [True] * 5]


def test_unequal_rows_in_bfloat16_are_near_float32() -> None:
    model, ids = MODELS["rotary window sdpa"], torch.stack([make_ids(12, seed) for seed in (1, 2)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cache = KVCache.allocate(model.config, 2, torch.bfloat16, "cpu")
        model(ids, cache)
        cache.truncate(0, 6)
        logits = model(ids[:, 6:8], cache)
    with torch.no_grad():
        exact = model(ids[:, :8])[0, 6:]
    assert float((logits[0] - exact).abs().max()) < 0.05 * float(exact.abs().max())
