"""The fit to n-gram counts: what is counted, how near the model comes to it, and what it leaves as it was."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fledge.checkpoint.state import weights_of
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated
from fledge.training import ngram_fit
from fledge.training.ngram_fit import (
    Counts,
    check_ngram_fit,
    count_ngrams,
    fit_ngrams,
    ngram_state,
    unvisited_part,
)
from fledge.training.setup import window_sampler
from tiny import WORDS

CPU = Machine("cpu", "float32")
CONTEXT, STEPS, SEED = 8, 80, 3
TEXT = " ".join(random.Random(0).choices(WORDS, k=1500))
LETTERS = sorted(set(TEXT))
IDS = np.array([LETTERS.index(letter) for letter in TEXT])
MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=32, context=CONTEXT, vocab_size=len(LETTERS))
EXACT, HASHED = {"bigram_rows": 10_000}, {"bigram_rows": 200}
FREQUENT: dict[str, Any] = {"bigram_rows": 101, "bigram_pairs": "frequent"}
FITTED = {"embed.weight", "head.weight", "head.bias", "bigram.weight"}


def split_of(ids: Sequence[int] | NDArray[Any]) -> Split:
    return Split("train", [np.array(ids, np.uint16)], [np.zeros(1)])


def fitted(config: ModelConfig, ids: Any = IDS, steps: int = STEPS, machine: Machine = CPU, seed: int = SEED) -> GPT:
    model = build(config, seed)
    fit_ngrams(model, split_of(ids), steps, seed, machine)
    return model


@torch.no_grad()
def nats_without_blocks(model: GPT, ids: NDArray[Any] = IDS) -> float:
    """The loss of the model on whole windows of the text, where its blocks add nothing. By numpy."""
    for block in model.blocks:
        block.attention.output.weight.zero_()
        block.mlp.down.weight.zero_()
    count = (len(ids) - 1) // CONTEXT
    inputs, targets = ids[: count * CONTEXT].reshape(count, CONTEXT), ids[1 : count * CONTEXT + 1]
    logits = model.eval()(torch.from_numpy(inputs)).double().numpy().reshape(len(targets), -1)
    logits -= logits.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]))


def entropy(ids: NDArray[Any], given: int) -> float:
    """Nats of a token of the text, where the `given` tokens before it are known and all is counted."""
    ngrams = Counter(tuple(ids[at : at + given + 1].tolist()) for at in range(len(ids) - given))
    contexts: Counter[tuple[int, ...]] = Counter()
    for ngram, count in ngrams.items():
        contexts[ngram[:-1]] += count
    return -sum(n * np.log(n / contexts[ngram[:-1]]) for ngram, n in ngrams.items()) / sum(ngrams.values())


UNIGRAM, BIGRAM, TRIGRAM = (entropy(IDS, given) for given in range(3))


def as_dict(counts: Counts) -> dict[int, dict[int, int]]:
    borders = zip(counts.contexts.tolist(), counts.starts[:-1], counts.starts[1:], strict=True)
    found = {
        c: dict(zip(counts.following[a:b].tolist(), counts.counts[a:b].tolist(), strict=True)) for c, a, b in borders
    }
    assert counts.totals.tolist() == [sum(each.values()) for each in found.values()]
    return found


@given(ids=st.lists(st.integers(0, 4), min_size=1, max_size=60), rows=st.data())
def test_counts_and_shares_are_those_of_a_dictionary(ids: list[int], rows: st.DataObject) -> None:
    expected: dict[int, Counter[int]] = defaultdict(Counter)
    for a, b, c in zip(ids, ids[1:], ids[2:], strict=False):
        expected[5 * a + b][c] += 1
    array = np.array(ids, np.int64)
    counts = count_ngrams(5 * array[:-2] + array[1:-1], array[2:], 5)
    assert as_dict(counts) == expected
    assert list(expected) == [] or counts.contexts.tolist() == sorted(expected)
    which = rows.draw(st.lists(st.sampled_from(range(len(expected))), max_size=9) if expected else st.just([]))
    row, following, values = counts.shares(np.array(which, np.int64))
    dense = np.zeros((len(which), 5))
    dense[row, following] = values
    for place, number in enumerate(which):
        after = expected[int(counts.contexts[number])]
        assert dense[place] == pytest.approx([after[token] / after.total() for token in range(5)])
    assert dense.sum(1) == pytest.approx(np.ones(len(which)))


PAIRS = count_ngrams(IDS[:-2] * len(LETTERS) + IDS[1:-1], IDS[2:], len(LETTERS))


@pytest.mark.parametrize(("rows", "least"), [(11, 8), (101, 2), (101, 20), (300, 8)])
def test_the_most_frequent_pairs_have_rows(rows: int, least: int) -> None:
    model = build(replace(MODEL, bigram_rows=rows, bigram_pairs="frequent"), SEED)
    fit_ngrams(model, split_of(IDS), 1, SEED, CPU, least if least > 2 else 0.3)
    counts = Counter(zip(IDS[:-2].tolist(), IDS[1:-1].tolist(), strict=True))
    chosen = [divmod(pair, len(LETTERS)) for pair in model.bigram.pairs.tolist() if pair < len(LETTERS) ** 2]
    often = [pair for pair, count in counts.items() if count >= least]
    assert len(chosen) == min(rows - 1, len(often))
    assert chosen == sorted(chosen)
    assert min(counts[pair] for pair in chosen) >= max(
        (counts[pair] for pair in often if pair not in chosen), default=0
    )
    row = model.bigram.row(torch.arange(len(LETTERS) ** 2))
    numbers = {first * len(LETTERS) + second: place for place, (first, second) in enumerate(chosen)}
    assert row.tolist() == [numbers.get(pair, rows - 1) for pair in range(len(LETTERS) ** 2)]


@pytest.mark.parametrize("least", [1, 2])
def test_all_contexts_are_used_where_they_fit(least: int) -> None:
    rows, weights = PAIRS.draw(np.random.default_rng(0), least)
    assert rows.tolist() == [n for n, total in enumerate(PAIRS.totals) if total >= least]
    assert weights == pytest.approx(PAIRS.totals[rows] / PAIRS.totals[rows].sum())


@pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_ENTRIES"])
def test_contexts_are_drawn_without_replacement(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(ngram_fit, limit, 20 if limit == "MAX_ROWS" else 20 * len(LETTERS))
    generator, drawn = np.random.default_rng(0), set()
    for _ in range(60):
        rows, weights = PAIRS.draw(generator, least=2)
        assert len(set(rows.tolist())) == len(rows) == 20
        assert weights == pytest.approx(np.full(20, 1 / 20))
        drawn |= set(rows.tolist())
    assert drawn == {n for n, total in enumerate(PAIRS.totals) if total >= 2}


def test_contexts_are_drawn_in_proportion_to_their_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_fit, "MAX_ROWS", 1)
    totals = np.array([1, 2, 3, 10])
    counts = count_ngrams(np.repeat(np.arange(4), totals), np.zeros(16, np.int64), 2)
    generator = np.random.default_rng(0)
    drawn = np.bincount([int(counts.draw(generator, least=2)[0][0]) for _ in range(4000)], minlength=4)
    assert drawn / 4000 == pytest.approx(np.array([0, 2, 3, 10]) / 15, abs=0.04)


# What the model is made of, the loss that counts cannot fall below, and the loss that it must reach.
PARTS: dict[str, tuple[dict[str, Any], float, float]] = {
    "plain": ({}, BIGRAM, BIGRAM + 0.03),
    "bias": ({"head_bias": True, "norm": "layernorm", "norm_bias": True}, BIGRAM, BIGRAM + 0.03),
    "softcap": ({"softcap": 10.0}, BIGRAM, BIGRAM + 0.03),
    "dropout": ({"dropout": 0.5}, BIGRAM, BIGRAM + 0.03),
    "learned positions": ({"positions": "learned"}, BIGRAM, BIGRAM + 0.05),
    "sinusoidal positions": ({"positions": "sinusoidal"}, BIGRAM, BIGRAM + 0.3),
    "exact pairs": (EXACT, TRIGRAM, TRIGRAM + 0.2),
    "hashed pairs": (HASHED, TRIGRAM, TRIGRAM + 0.2),
    "frequent pairs": (FREQUENT, TRIGRAM, TRIGRAM + 0.2),
    "pairs, softcap": ({**EXACT, "softcap": 10.0, "head_bias": True}, TRIGRAM, TRIGRAM + 0.2),
    "pairs, learned positions": ({**EXACT, "positions": "learned"}, TRIGRAM, TRIGRAM + 0.2),
    "frequent pairs, tokens added": ({**FREQUENT, "bigram_vocab": 20}, TRIGRAM, TRIGRAM + 0.25),
    "pairs, tokens added": ({**HASHED, "bigram_vocab": 20}, TRIGRAM, TRIGRAM + 0.25),
    "tied": ({"tied": True}, BIGRAM, UNIGRAM - 0.3),  # one matrix: what follows is nearly what comes before
    "tied, pairs": ({**EXACT, "tied": True}, TRIGRAM, BIGRAM + 0.4),
}


@pytest.mark.parametrize("parts", PARTS)
def test_model_without_blocks_reaches_the_entropy_of_the_text(parts: str) -> None:
    changes, lowest, highest = PARTS[parts]
    loss = nats_without_blocks(fitted(replace(MODEL, **changes)))
    assert lowest < loss < highest, (UNIGRAM, BIGRAM, TRIGRAM)


@pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_ENTRIES"])
@pytest.mark.parametrize("pairs", [{}, EXACT], ids=["tokens", "pairs"])
def test_batches_of_few_rows_reach_it_in_more_steps(
    monkeypatch: pytest.MonkeyPatch, limit: str, pairs: dict[str, Any]
) -> None:
    """A vocabulary that is larger than a batch; most of it does not occur."""
    config = replace(MODEL, vocab_size=300, **pairs)
    monkeypatch.setattr(ngram_fit, limit, 20 if limit == "MAX_ROWS" else 20 * 300)
    loss = nats_without_blocks(fitted(config, 10 * IDS, steps=300), 10 * IDS)
    assert loss < (TRIGRAM + 0.25 if pairs else BIGRAM + 0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pairs", [{}, EXACT], ids=["tokens", "pairs"])
def test_other_precision_reaches_the_same(dtype: Any, pairs: dict[str, Any]) -> None:
    config = replace(MODEL, **pairs)
    settings = validated({"model": vars(config), "train": {"ngram_steps": STEPS, "seed": SEED}})
    state = ngram_state(settings, Machine("cpu", dtype), split_of(IDS))
    model = build(config, SEED)
    model.load_state_dict(state.weights)
    assert {tensor.dtype for tensor in state.weights.values()} == {torch.float32}
    assert nats_without_blocks(model) == pytest.approx(nats_without_blocks(fitted(config)), abs=0.03)


@pytest.mark.parametrize(
    "ids", [[1, 0], [0, 1, 2], [3, 1, 2, 0], [0, 1, 2, 3, 4], [7] * 5, [7] * 400, range(25)], ids=str
)
@pytest.mark.parametrize("steps", [1, 2, STEPS])
@pytest.mark.parametrize("pairs", [{}, EXACT, HASHED, FREQUENT], ids=str)
def test_shortest_texts(ids: Sequence[int], steps: int, pairs: dict[str, Any]) -> None:
    config = replace(MODEL, **pairs)
    model = fitted(config, list(ids), steps)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    follows = torch.from_numpy(np.array(ids, np.int64))
    inputs, targets = follows[None, :-1][:, :CONTEXT], follows[1 : CONTEXT + 1]
    before, after = (F.cross_entropy(each(inputs)[0], targets) for each in (build(config, SEED), model))
    assert after < before
    if steps == STEPS:
        assert after < 0.1


def test_text_without_a_repeated_pair_leaves_the_table_alone() -> None:
    table = fitted(replace(MODEL, **EXACT), np.arange(25)).bigram.weight
    assert isinstance(table, torch.Tensor)
    assert not table.any()


@pytest.mark.parametrize("changes", [{}, EXACT, {"tied": True, "head_bias": True, **HASHED}], ids=str)
def test_same_seed_gives_the_same_bits_and_other_weights_stay_new(changes: dict[str, Any]) -> None:
    settings = validated({"model": {**vars(MODEL), **changes}, "train": {"ngram_steps": 10, "seed": SEED}})
    torch.rand(5)
    state = ngram_state(settings, CPU, split_of(IDS))
    again = ngram_state(settings, CPU, split_of(IDS))
    other = ngram_state(replace(settings, train=replace(settings.train, seed=4)), CPU, split_of(IDS))
    new = weights_of(build(settings.model, SEED))
    assert (state.step, state.pending_hooks, state.rng) == (0, {}, again.rng)
    assert state.weights.keys() == new.keys()
    for name, weight in state.weights.items():
        assert torch.equal(weight, again.weights[name])
        assert torch.equal(weight, new[name]) == (name not in FITTED), name
        assert not torch.equal(weight, other.weights[name]) or name.endswith("norm.weight"), name


@pytest.mark.parametrize("changes", [{"block": "post_norm"}, {"block": "norm_in_out"}, {"final_norm": False}], ids=str)
def test_model_that_needs_its_blocks_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"train\.ngram_steps") as refused:
        check_ngram_fit(replace(MODEL, **changes))
    assert "--train.ngram_steps 0" in refused.value.hint
    check_ngram_fit(MODEL)


def test_vocabulary_whose_triples_have_no_number_is_refused() -> None:
    check_ngram_fit(replace(MODEL, vocab_size=2**21))
    with pytest.raises(UserError, match=r"up to 2,097,152 tokens"):
        check_ngram_fit(replace(MODEL, vocab_size=2**21 + 1))
    largest = np.full(3, 2**21 - 1)
    counts = count_ngrams(largest[:1] * 2**21 + largest[1:2], largest[2:], 2**21)
    assert as_dict(counts) == {2**42 - 1: {2**21 - 1: 1}}


@pytest.mark.parametrize("steps", [0.3, 0.9])
def test_visited_windows_are_not_counted(steps: float) -> None:
    ids = np.arange(3000)
    settings = validated(read_preset("text")[0], {"model": {"context": 10}, "train": {"batch": 4}})
    sampler = window_sampler(settings, len(ids))
    settings = replace(settings, train=replace(settings.train, steps=int(steps * sampler.windows_per_epoch / 4)))
    visited = sampler.starts(0, 4 * settings.train.steps)
    inputs = {int(id) for start in visited for id in range(start, start + 10)}
    part = unvisited_part(settings, split_of(ids))
    counted = part.read(0, len(part)).tolist()
    assert len(set(counted)) == len(counted) == 10 * (sampler.windows_per_epoch - len(visited))
    assert not inputs & set(counted)


def test_what_is_counted_of_a_long_text_is_not_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is counted than the share of the text that must be unvisited."""
    monkeypatch.setattr(ngram_fit, "MAX_TOKENS", 100)
    ids, changes = np.arange(3000), {"model": {"context": 10}, "train": {"batch": 4, "steps": 30}}
    settings = validated(read_preset("text")[0], changes)
    starts = window_sampler(settings, len(ids)).starts(0, 120)
    inputs = {int(id) for start in starts for id in range(start, start + 10)}
    part = unvisited_part(settings, split_of(ids))
    counted = part.read(0, len(part)).tolist()
    assert len(set(counted)) == len(counted) == 100
    assert not inputs & set(counted)


def test_all_is_counted_where_all_is_visited() -> None:
    split = split_of(np.arange(3000))
    alone = {"train": {"steps": 1}}
    for changes in (
        {"train": {"steps": 1000}},
        {"data": {"order": "random"}, **alone},
        {"data": {"order": "sequential"}, **alone},
        {"data": {"stride": 5}, **alone},  # what one window leaves is in the next
    ):
        settings = validated(read_preset("text")[0], {"model": {"context": 10}}, changes)
        assert unvisited_part(settings, split) is split
