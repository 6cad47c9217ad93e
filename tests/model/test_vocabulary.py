"""Added tokens change nothing for the old ones, and each has a row of its own."""

from dataclasses import replace

import pytest
import torch

from fledge.checkpoint.state import load_weights, weights_of
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.vocabulary import grow_vocabulary, with_vocabulary
from pairs import with_pairs

V, ADDED = 29, 4
BASE = ModelConfig(n_layer=1, n_head=2, n_embd=32, context=16, vocab_size=V)
KINDS = {
    "untied": replace(BASE, head_bias=True),
    "tied": replace(BASE, tied=True),
    "a row for each pair": replace(BASE, bigram_rows=V * V),
    "more rows than pairs": replace(BASE, bigram_rows=V * V + 50),
    "hashed pairs": replace(BASE, bigram_rows=100),
    "frequent pairs": replace(BASE, bigram_rows=100, bigram_pairs="frequent"),
    "padded": replace(BASE, vocab_size=64),
    "padded too little": replace(BASE, vocab_size=V + 1),
}
IDS = torch.randint(V, (2, 16), generator=torch.Generator().manual_seed(1))


def grown(config: ModelConfig) -> tuple[GPT, GPT]:
    old = with_pairs(build(config, 0))
    with torch.no_grad():
        for p in old.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)), alpha=0.1)
    larger = with_vocabulary(config, V + ADDED)
    new = build(larger, 3)
    load_weights(new, grow_vocabulary(weights_of(old), weights_of(build(larger, 3)), V, V + ADDED))
    return old, new


@pytest.mark.parametrize("kind", KINDS)
def test_old_tokens_keep_their_logits(kind: str) -> None:
    old, new = grown(KINDS[kind])
    assert new.config.vocab_size == max(KINDS[kind].vocab_size or 0, V + ADDED)
    torch.testing.assert_close(new(IDS)[..., :V], old(IDS)[..., :V], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_are_the_mean_and_a_little_noise(kind: str) -> None:
    old, new = grown(KINDS[kind])
    for layer, before in ((new.embed, old.embed), (new.head, old.head)):
        rows, mean = layer.weight[V : V + ADDED], before.weight[:V].mean(0)
        assert 0.01 < float((rows - mean).detach().std()) < 0.03
        assert len({tuple(row.tolist()) for row in rows}) == ADDED
    new(torch.arange(V, V + ADDED)[None])  # the new tokens can be read, and make pairs


def test_noise_depends_on_the_seed_only() -> None:
    one, two = grown(BASE)[1], grown(BASE)[1]
    assert torch.equal(one.embed.weight, two.embed.weight)


def test_enough_room_changes_nothing() -> None:
    assert with_vocabulary(KINDS["padded"], V + ADDED) == KINDS["padded"]


def test_adding_twice_keeps_the_numbers_of_hashed_pairs() -> None:
    once = with_vocabulary(KINDS["hashed pairs"], V + 2)
    assert (once.bigram_vocab, once.vocab_size) == (V, V + 2)
    assert with_vocabulary(once, V + 4).bigram_vocab == V


@pytest.mark.parametrize("changes", [{"bigram_vocab": 20}, {"bigram_vocab": 31, "bigram_rows": 50}])
def test_pair_vocabulary_without_use_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="bigram_vocab cannot be"):
        replace(BASE, **changes)
