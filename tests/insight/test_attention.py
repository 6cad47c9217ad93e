"""Attention weights of whole models: what the fast path computes, what transformers says, and the scores of heads."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from families import BASE, CONTEXT, FAMILIES, MODELS, V, make_model
from fledge.core.errors import UserError
from fledge.insight.attention import attention_heads, attention_weights, head_scores, thumbnails
from fledge.insight.residual_stream import encode_text, residual_stream, whole_stream
from fledge.model.block import Block
from fledge.model.gpt import GPT
from fledge.tokenizers.char import CharTokenizer

IDS = torch.randint(V, (CONTEXT,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> GPT:
    return MODELS[request.param]


@torch.no_grad()
def test_residual_stream_ends_with_the_hidden_vectors(model: GPT) -> None:
    *_, last = residual_stream(model, IDS[None])
    assert torch.equal(model.norm(last), model.hidden(IDS[None]))


def test_weights_are_causal_and_sum_to_one(model: GPT) -> None:
    weights = attention_weights(model, IDS)
    config = model.config
    assert weights.shape == (config.n_layer, config.n_head, CONTEXT, CONTEXT)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    seen = torch.ones(CONTEXT, CONTEXT).tril().triu(1 - (config.window or CONTEXT)).bool()
    assert torch.equal(weights != 0, seen.expand_as(weights))


@torch.no_grad()
def test_fast_path_gives_the_output_of_these_weights(model: GPT) -> None:
    """Weights times values, projected: what the attention of the block returns, by its fused kernel."""
    fast = replace(model.config, attention="sdpa")
    checked = make_model(fast)
    weights, past = attention_weights(checked, IDS), checked.no_cache
    for layer, (block, x) in enumerate(zip(checked.blocks, residual_stream(checked, IDS[None]), strict=False)):
        assert isinstance(block, Block)
        x = block.attention_input(x)
        _, _, v = block.attention.project(x, slice(CONTEXT))
        mixed = weights[layer] @ v[0].repeat_interleave(fast.n_head // fast.kv_heads, 0)
        rebuilt = block.attention.output(mixed.transpose(0, 1).flatten(1))
        torch.testing.assert_close(rebuilt, block.attention(x, slice(CONTEXT), past.layers[layer])[0])


def test_queries_and_keys_give_the_same_weights(model: GPT) -> None:
    heads, weights = attention_heads(model, IDS), attention_weights(model, IDS)
    assert all(torch.equal(heads.weights(layer), each) for layer, each in enumerate(weights))
    last = model.config.n_head - 1
    torch.testing.assert_close(heads.head(1, last), weights[1, last])
    reused = attention_heads(model, IDS, stream=whole_stream(model, IDS))
    assert torch.equal(reused.keys, heads.keys)


def test_thumbnails_keep_the_largest_weights() -> None:
    weights = torch.rand(3, 10, 10)
    small = thumbnails(weights, 5)
    assert torch.equal(small, weights.view(3, 5, 2, 5, 2).amax((2, 4)))
    assert torch.equal(thumbnails(weights, 64), weights)


def test_a_later_token_changes_no_row_before_it(model: GPT) -> None:
    longer, shorter = attention_weights(model, IDS), attention_weights(model, IDS[:-5])
    torch.testing.assert_close(longer[..., :-5, :-5], shorter, atol=1e-6, rtol=1e-5)


def test_dropout_is_refused() -> None:
    with pytest.raises(AssertionError, match="eval"):
        attention_weights(make_model(replace(BASE, dropout=0.5)).train(), IDS)


@pytest.mark.parametrize(
    ("text", "message"), [("", "the text is empty"), ("ab" * 13, "26 tokens, and the model sees 25")]
)
def test_texts_that_cannot_be_shown_are_refused(text: str, message: str) -> None:
    tokenizer = CharTokenizer(["a", "b"])
    with pytest.raises(UserError, match=message):
        encode_text(tokenizer, text, 25)
    assert encode_text(tokenizer, "aba", 25).tolist() == [0, 1, 0]


def hand_made(score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Weights of a model with one head that attends where `score` (query, key positions) is 1."""

    def weights(q: torch.Tensor, *_: object) -> torch.Tensor:
        index = torch.arange(q.shape[2])
        pattern = score(index[:, None], index).float()
        return (pattern / pattern.sum(-1, keepdim=True).clamp(min=1)).expand(*q.shape[:2], -1, -1)

    return weights


HALF = CONTEXT // 2


@pytest.mark.parametrize(
    ("pattern", "induction", "previous"),
    [
        (lambda query, key: key == query - 1, 0.0, 1.0),
        (lambda query, key: key == query - HALF + 1, 1.0, 0.0),
        (lambda query, key: (key == query - HALF + 1) | (key == query - 1), 0.5, 0.5),
        (lambda query, key: key == query, 0.0, 0.0),
    ],
    ids=["previous", "induction", "both", "self"],
)
def test_head_scores_of_known_patterns(
    monkeypatch: pytest.MonkeyPatch, pattern: Callable[..., torch.Tensor], induction: float, previous: float
) -> None:
    monkeypatch.setattr("fledge.model.attention.attention_weights", hand_made(pattern))
    scores = head_scores(MODELS["gpt2"])
    assert scores.induction.shape == (BASE.n_layer, BASE.n_head)
    assert scores.induction.unique().item() == pytest.approx(induction)
    assert scores.previous_token.mean() == pytest.approx(previous, abs=0.3 if 0 < previous < 1 else 1e-6)
    assert scores.entropy.mean() < (0.7 if 0 < previous < 1 else 1e-6)


def test_head_scores_depend_on_the_seed_only() -> None:
    one, same, other = (head_scores(MODELS["window"], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.entropy, same.entropy)
    assert not torch.equal(one.entropy, other.entropy)
    assert float(one.induction.max()) == 0  # the window ends before the token was seen


def test_context_too_short_for_scores_is_refused() -> None:
    with pytest.raises(UserError, match="context of 4 tokens"):
        head_scores(make_model(replace(BASE, context=3)))
