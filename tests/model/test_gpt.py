"""The whole model: with a cache as without, positions that matter, dropout only in training."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.kv_cache import KVCache

SMALL = ModelConfig(n_layer=2, n_head=4, n_embd=32, context=24, vocab_size=29)
KINDS = {
    "learned": replace(SMALL, positions="learned", norm="layernorm", norm_bias=True, mlp_bias=True, mlp="gelu"),
    "sinusoidal": replace(SMALL, positions="sinusoidal", qkv_bias=True, tied=True, head_bias=True, mlp="gelu_tanh"),
    "rotary": SMALL,
    "grouped": replace(SMALL, n_kv_head=2),
    "one kv head": replace(SMALL, n_kv_head=1, positions="learned", qk_norm=False),
    "readable": replace(SMALL, attention="readable", n_kv_head=2),
    "window": replace(SMALL, window=5, n_kv_head=2),
    "window of one": replace(SMALL, window=1),
    "window of all": replace(SMALL, window=24, attention="readable"),
    "learned window": replace(SMALL, window=7, positions="learned", attention="readable"),
    "sinusoidal window": replace(SMALL, window=7, positions="sinusoidal", mlp="relu"),
    "capped": replace(SMALL, softcap=2.0, output_bias=True, rotary_base=500.0),
    "pairs": replace(SMALL, bigram_rows=29 * 29),
    "hashed pairs": replace(SMALL, bigram_rows=100, window=5, tied=True),
    "wide heads": replace(SMALL, head_dim=12, mlp="relu2", tied=True),
}


def lively(config: ModelConfig, seed: int = 3) -> GPT:
    """A model whose weights are large enough that a mistake shows."""
    model = build(config, seed).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(6)
                if not p.any():  # what begins at zero would hide every mistake
                    p.normal_(0, 0.1, generator=generator)
    return model


def some_ids(config: ModelConfig, B: int, T: int, seed: int = 0) -> torch.Tensor:
    assert config.vocab_size
    return torch.randint(config.vocab_size, (B, T), generator=torch.Generator().manual_seed(seed))


def empty_cache(config: ModelConfig, rows: int) -> KVCache:
    return KVCache.allocate(config, rows, torch.float32, "cpu")


@torch.no_grad()
def in_chunks(model: GPT, ids: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    cache = empty_cache(model.config, len(ids))
    ends = [0, *cuts, ids.shape[1]]
    return torch.cat([model(ids[:, a:b], cache) for a, b in itertools.pairwise(ends)], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_at_a_time_gives_the_logits_of_the_whole(kind: str) -> None:
    model, ids = lively(KINDS[kind]), some_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        whole = model(ids)
    torch.testing.assert_close(in_chunks(model, ids, list(range(1, 24))), whole, atol=2e-5, rtol=1e-4)


MODELS = {kind: lively(config) for kind, config in KINDS.items()}


@settings(max_examples=40)
@given(kind=st.sampled_from(list(KINDS)), cuts=st.sets(st.integers(1, 23)), seed=st.integers(0, 9))
def test_any_way_to_cut_the_prompt_gives_the_logits_of_the_whole(kind: str, cuts: set[int], seed: int) -> None:
    ids = some_ids(KINDS[kind], 1, 24, seed)
    with torch.no_grad():
        whole = MODELS[kind](ids)
    torch.testing.assert_close(in_chunks(MODELS[kind], ids, sorted(cuts)), whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_sees_what_comes_after_it(kind: str) -> None:
    model, ids = lively(KINDS[kind]), some_ids(KINDS[kind], 1, 16)
    other = ids.clone()
    other[:, 9:] = (other[:, 9:] + 1) % 29
    with torch.no_grad():
        one, two = model(ids), model(other)
    torch.testing.assert_close(one[:, :9], two[:, :9], atol=1e-6, rtol=1e-5)
    assert (one[:, 9] - two[:, 9]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary"])
def test_the_order_of_earlier_tokens_matters(kind: str) -> None:
    model, ids = lively(KINDS[kind]), some_ids(KINDS[kind], 1, 16)
    swapped = ids.clone()
    ids[0, 2], ids[0, 7], swapped[0, 2], swapped[0, 7] = 1, 2, 2, 1
    with torch.no_grad():
        assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-4


def test_rotary_scores_depend_on_distance_alone() -> None:
    rotate = build(replace(SMALL, context=64), 0).blocks[0].attention.rotate
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(query: int, key: int) -> float:
        return float((rotate(q, slice(query, query + 1)) * rotate(k, slice(key, key + 1))).sum())

    scores = {start: score(start + 5, start) for start in (0, 1, 17, 58)}
    assert max(scores.values()) - min(scores.values()) < 1e-4
    assert abs(scores[0] - score(9, 0)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_both_attentions_make_the_same_model(kind: str) -> None:
    fast, readable = (lively(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = some_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        assert (fast(ids) - readable(ids)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["window", "learned window"])
def test_what_lies_before_every_window_is_forgotten(kind: str) -> None:
    """Two blocks look back twice a window: one token sees another through one that both can see."""
    model, ids = lively(KINDS[kind]), some_ids(KINDS[kind], 1, 24)
    back = 2 * (model.config.reach - 1)
    for change, differs in ((23 - back, True), (23 - back - 1, False)):
        other = ids.clone()
        other[:, change] = (other[:, change] + 1) % 29
        with torch.no_grad():
            assert bool((model(ids)[:, -1] - model(other)[:, -1]).abs().max() > 1e-6) == differs


def test_a_window_as_long_as_the_context_is_none() -> None:
    ids = some_ids(SMALL, 2, 24)
    with torch.no_grad():
        assert torch.equal(lively(SMALL)(ids), lively(replace(SMALL, window=24))(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_both_attentions_make_the_same_model_with_a_cache_too(kind: str) -> None:
    fast, readable = (lively(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = some_ids(KINDS[kind], 2, 24)
    cuts = [9, 10, 11, 20]
    assert (in_chunks(fast, ids, cuts) - in_chunks(readable, ids, cuts)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_both_attentions_make_the_same_model_in_bfloat16(kind: str) -> None:
    fast, readable = (lively(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = some_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        exact = fast(ids)
        with torch.autocast("cpu", torch.bfloat16):
            for model in (fast, readable):
                assert (model(ids) - exact).abs().max() < 0.04 * exact.abs().max()


def test_dropout_acts_in_training_only() -> None:
    model, ids = lively(replace(SMALL, dropout=0.5)), some_ids(SMALL, 1, 8)
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


def test_the_cache_counts_what_it_holds() -> None:
    model, cache = lively(SMALL), empty_cache(SMALL, 2)
    assert cache.lengths.tolist() == [0, 0]
    with torch.no_grad():
        model(some_ids(SMALL, 2, 5), cache)
        model(some_ids(SMALL, 2, 3), cache)
    assert cache.lengths.tolist() == [8, 8]


def test_a_window_limits_the_keys_that_are_read() -> None:
    model, cache = lively(KINDS["window"]), empty_cache(KINDS["window"], 2)
    with torch.no_grad():
        for _ in range(20):
            model(some_ids(SMALL, 2, 1), cache)
    keys, _ = cache.layers[0].append(*torch.zeros(2, 2, 2, 1, 8))
    assert keys.shape[2] == 5


@pytest.mark.parametrize("kind", ["learned", "rotary"])
@pytest.mark.parametrize(("held", "new"), [(24, 1), (23, 2), (0, 25), (20, 24)])
def test_more_tokens_than_the_context_are_refused_and_never_answered_wrongly(kind: str, held: int, new: int) -> None:
    model, cache = lively(KINDS[kind]), empty_cache(KINDS[kind], 1)
    with torch.no_grad():
        if held:
            model(some_ids(SMALL, 1, held), cache)
        with pytest.raises((AssertionError, RuntimeError, UserError)):
            model(some_ids(SMALL, 1, new), cache)


def test_a_model_of_one_place_refuses_two() -> None:
    model = lively(replace(KINDS["learned"], context=1))
    with pytest.raises((AssertionError, RuntimeError, UserError)), torch.no_grad():
        model(some_ids(SMALL, 1, 2))


def test_a_tied_head_is_the_embedding() -> None:
    model = build(replace(SMALL, tied=True), 0)
    assert model.head.weight is model.embed.weight
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    assert build(SMALL, 0).head.weight is not build(SMALL, 0).embed.weight
