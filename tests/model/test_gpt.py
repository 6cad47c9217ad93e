"""The whole model: cached = uncached, causal, dropout only in training."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.kv_cache import KVCache
from pairs import with_pairs

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
    "frequent pairs": replace(SMALL, bigram_rows=100, bigram_pairs="frequent"),
    "post-norm": replace(SMALL, block="post_norm", positions="learned", norm="layernorm", norm_bias=True),
    "post-norm, rotary": replace(SMALL, block="post_norm", n_kv_head=2, final_norm=False),
    "norm in and out": replace(SMALL, block="norm_in_out", final_norm=False, norm="layernorm"),
    "wide heads": replace(SMALL, head_dim=12, mlp="relu2", tied=True),
}


def make_model(config: ModelConfig, seed: int = 3) -> GPT:
    """A model whose weights are large enough that an error shows."""
    model = with_pairs(build(config, seed)).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(6)
                if not p.any():  # zeros would hide every error
                    p.normal_(0, 0.1, generator=generator)
    return model


def random_ids(config: ModelConfig, B: int, T: int, seed: int = 0) -> torch.Tensor:
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
def test_decoding_token_by_token_equals_uncached(kind: str) -> None:
    model, ids = make_model(KINDS[kind]), random_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        whole = model(ids)
    torch.testing.assert_close(in_chunks(model, ids, list(range(1, 24))), whole, atol=2e-5, rtol=1e-4)


MODELS = {kind: make_model(config) for kind, config in KINDS.items()}


@settings(max_examples=40)
@given(kind=st.sampled_from(list(KINDS)), cuts=st.sets(st.integers(1, 23)), seed=st.integers(0, 9))
def test_prefill_in_any_chunks_equals_uncached(kind: str, cuts: set[int], seed: int) -> None:
    ids = random_ids(KINDS[kind], 1, 24, seed)
    with torch.no_grad():
        whole = MODELS[kind](ids)
    torch.testing.assert_close(in_chunks(MODELS[kind], ids, sorted(cuts)), whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_causal(kind: str) -> None:
    model, ids = make_model(KINDS[kind]), random_ids(KINDS[kind], 1, 16)
    other = ids.clone()
    other[:, 9:] = (other[:, 9:] + 1) % 29
    with torch.no_grad():
        one, two = model(ids), model(other)
    torch.testing.assert_close(one[:, :9], two[:, :9], atol=1e-6, rtol=1e-5)
    assert (one[:, 9] - two[:, 9]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary"])
def test_token_order_matters(kind: str) -> None:
    model, ids = make_model(KINDS[kind]), random_ids(KINDS[kind], 1, 16)
    swapped = ids.clone()
    ids[0, 2], ids[0, 7], swapped[0, 2], swapped[0, 7] = 1, 2, 2, 1
    with torch.no_grad():
        assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-4


def test_rotary_scores_depend_on_distance_only() -> None:
    rotate = build(replace(SMALL, context=64), 0).blocks[0].attention.rotate
    q, k = torch.randn(2, 1, 1, 1, 8)

    def score(query: int, key: int) -> float:
        return float((rotate(q, slice(query, query + 1)) * rotate(k, slice(key, key + 1))).sum())

    scores = {start: score(start + 5, start) for start in (0, 1, 17, 58)}
    assert max(scores.values()) - min(scores.values()) < 1e-4
    assert abs(scores[0] - score(9, 0)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_sdpa_model_equals_readable_model(kind: str) -> None:
    fast, readable = (make_model(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = random_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        assert (fast(ids) - readable(ids)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["window", "learned window"])
def test_window_limits_the_receptive_field(kind: str) -> None:
    """Two blocks look back two windows: information travels one window per block."""
    model, ids = make_model(KINDS[kind]), random_ids(KINDS[kind], 1, 24)
    back = 2 * (model.config.attention_span - 1)
    for change, differs in ((23 - back, True), (23 - back - 1, False)):
        other = ids.clone()
        other[:, change] = (other[:, change] + 1) % 29
        with torch.no_grad():
            assert bool((model(ids)[:, -1] - model(other)[:, -1]).abs().max() > 1e-6) == differs


def test_window_of_the_whole_context_equals_no_window() -> None:
    ids = random_ids(SMALL, 2, 24)
    with torch.no_grad():
        assert torch.equal(make_model(SMALL)(ids), make_model(replace(SMALL, window=24))(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_cached_sdpa_equals_cached_readable_attention(kind: str) -> None:
    fast, readable = (make_model(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = random_ids(KINDS[kind], 2, 24)
    cuts = [9, 10, 11, 20]
    assert (in_chunks(fast, ids, cuts) - in_chunks(readable, ids, cuts)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_logits_are_near_float32(kind: str) -> None:
    fast, readable = (make_model(replace(KINDS[kind], attention=name)) for name in ("sdpa", "readable"))
    ids = random_ids(KINDS[kind], 2, 24)
    with torch.no_grad():
        exact = fast(ids)
        with torch.autocast("cpu", torch.bfloat16):
            for model in (fast, readable):
                assert (model(ids) - exact).abs().max() < 0.04 * exact.abs().max()


def test_dropout_only_in_training() -> None:
    model, ids = make_model(replace(SMALL, dropout=0.5)), random_ids(SMALL, 1, 8)
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        model.train()
        assert not torch.equal(model(ids), model(ids))


def test_cache_lengths_count_appended_tokens() -> None:
    model, cache = make_model(SMALL), empty_cache(SMALL, 2)
    assert cache.lengths.tolist() == [0, 0]
    with torch.no_grad():
        model(random_ids(SMALL, 2, 5), cache)
        model(random_ids(SMALL, 2, 3), cache)
    assert cache.lengths.tolist() == [8, 8]


def test_window_limits_the_keys_that_are_read() -> None:
    model, cache = make_model(KINDS["window"]), empty_cache(KINDS["window"], 2)
    with torch.no_grad():
        for _ in range(20):
            model(random_ids(SMALL, 2, 1), cache)
    keys, _ = cache.layers[0].append(*torch.zeros(2, 2, 2, 1, 8))
    assert keys.shape[2] == 5


@pytest.mark.parametrize("kind", ["learned", "rotary"])
@pytest.mark.parametrize(("held", "new"), [(24, 1), (23, 2), (0, 25), (20, 24)])
def test_more_tokens_than_the_context_are_refused(kind: str, held: int, new: int) -> None:
    model, cache = make_model(KINDS[kind]), empty_cache(KINDS[kind], 1)
    with torch.no_grad():
        if held:
            model(random_ids(SMALL, 1, held), cache)
        with pytest.raises((AssertionError, RuntimeError, UserError)):
            model(random_ids(SMALL, 1, new), cache)


def test_context_of_one_refuses_two_tokens() -> None:
    model = make_model(replace(KINDS["learned"], context=1))
    with pytest.raises((AssertionError, RuntimeError, UserError)), torch.no_grad():
        model(random_ids(SMALL, 1, 2))


def test_tied_head_shares_the_embedding() -> None:
    model = build(replace(SMALL, tied=True), 0)
    assert model.head.weight is model.embed.weight
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    assert build(SMALL, 0).head.weight is not build(SMALL, 0).embed.weight


BIASED = {
    "qkv_bias": ("attention.query.bias", "attention.key.bias", "attention.value.bias"),
    "output_bias": ("attention.output.bias",),
    "mlp_bias": ("mlp.up.bias", "mlp.gate.bias", "mlp.down.bias"),
    "norm_bias": ("attention_norm.bias", "mlp_norm.bias"),
}


@pytest.mark.parametrize("bias", BIASED)
def test_each_bias_setting_adds_its_own_parameters(bias: str) -> None:
    plain = replace(SMALL, norm="layernorm")
    names = set(weights_of(GPT(replace(plain, **{bias: True})))) - set(weights_of(GPT(plain)))
    last = {"norm.bias"} if bias == "norm_bias" else set()
    assert names == {f"blocks.{i}.{name}" for i in range(2) for name in BIASED[bias]} | last
