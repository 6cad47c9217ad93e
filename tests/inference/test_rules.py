"""Each rule of sampling against transformers' own, and what is drawn against the probabilities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fledge.inference import rules
from fledge.inference.request import Sampling
from fledge.inference.slot_sampler import SlotSampler

transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")
V = 40
SEEDS = st.integers(0, 2**31)


def random_logits(seed: int, rows: int = 1, size: int = V) -> Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def column(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[value]], dtype=dtype)


def judged(name: str, logits: Tensor, *arguments: Any, ids: tuple[int, ...] = ()) -> Tensor:
    processor = getattr(transformers, name)(*arguments)
    found: Tensor = processor(torch.tensor([ids], dtype=torch.long), logits.clone())
    return found


@given(seed=SEEDS, k=st.integers(1, V))
def test_top_k(seed: int, k: int) -> None:
    logits = random_logits(seed)
    found = rules.keep_top_k(logits, column(k, torch.long), k)
    assert torch.equal(found, judged("TopKLogitsWarper", logits, k))


@given(seed=SEEDS, p=st.floats(0.01, 0.99))
def test_top_p(seed: int, p: float) -> None:
    logits = random_logits(seed)
    assert torch.equal(rules.keep_top_p(logits, column(p)), judged("TopPLogitsWarper", logits, p))


@pytest.mark.parametrize("p", [0.3, 0.9, 0.9999])
def test_top_p_of_a_large_vocabulary(p: float) -> None:
    """With more tokens than the candidates that are looked at first, and with fewer."""
    logits = random_logits(1, size=3 * rules.CANDIDATES) / 10
    assert torch.equal(rules.keep_top_p(logits, column(p)), judged("TopPLogitsWarper", logits, p))


@given(seed=SEEDS, p=st.floats(0.001, 1))
def test_min_p(seed: int, p: float) -> None:
    logits = random_logits(seed)
    assert torch.equal(rules.keep_min_p(logits, column(math.log(p))), judged("MinPLogitsWarper", logits, p))


@given(seed=SEEDS, penalty=st.floats(0.5, 2), ids=st.lists(st.integers(0, V - 1), min_size=1, max_size=8).map(tuple))
def test_repetition_penalty(seed: int, penalty: float, ids: tuple[int, ...]) -> None:
    logits = random_logits(seed)
    seen = torch.zeros(1, V, dtype=torch.bool)
    seen[0, list(ids)] = True
    found = rules.penalize_repetition(logits, seen, column(penalty))
    torch.testing.assert_close(found, judged("RepetitionPenaltyLogitsProcessor", logits, penalty, ids=ids))


@given(logits=st.lists(st.integers(-3, 3), min_size=1, max_size=12), k=st.integers(1, 12))
def test_ties_go_to_the_lowest_ids(logits: list[int], k: int) -> None:
    k = min(k, len(logits))
    best = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]
    found = rules.keep_top_k(torch.tensor([logits], dtype=torch.float32), column(k, torch.long), k)
    assert (found[0] > rules.NEG_INF).nonzero().flatten().tolist() == sorted(best)


# The sampler: rows with different settings in one call


def tokens_of(
    logits: Tensor, settings: list[Sampling], steps: int = 1, prompt: tuple[int, ...] = (1,)
) -> list[list[int]]:
    """steps × rows"""
    sampler = SlotSampler(len(settings), logits.shape[1], CPU)
    for slot, sampling in enumerate(settings):
        sampler.assign(slot, sampling, prompt)
    return [sampler.sample(logits, 0, [step] * len(settings)).tolist() for step in range(steps)]


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 1, 5, V]),
    top_p=st.sampled_from([None, 0.3, 0.9, 1.0]),
    min_p=st.sampled_from([None, 0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    logit_bias=st.sampled_from([{}, {2: -100}, {3: 5.0, 4: -1.0}]),
    seed=SEEDS,
)


@given(settings=st.lists(SAMPLINGS, min_size=2, max_size=5), seed=SEEDS)
def test_rows_do_not_influence_each_other(settings: list[Sampling], seed: int) -> None:
    logits = random_logits(seed, len(settings))
    together = tokens_of(logits, settings, steps=4)
    for row, sampling in enumerate(settings):
        alone = tokens_of(logits[row : row + 1], [sampling], steps=4)
        assert [tokens[row] for tokens in together] == [tokens[0] for tokens in alone]


@given(sampling=SAMPLINGS, seed=SEEDS)
def test_only_kept_tokens_are_drawn(sampling: Sampling, seed: int) -> None:
    """Against transformers' processors, in the same order."""
    logits = random_logits(seed)
    drawn = tokens_of(logits, [sampling], steps=5, prompt=(1, 2, 3))
    generated: list[int] = []
    for (token,) in drawn:
        expected = logits.clone()
        for biased, bias in sampling.logit_bias.items():
            expected[0, biased] += -math.inf if bias == -100 else bias
        seen = (1, 2, 3, *generated)
        if sampling.repetition_penalty != 1:
            expected = judged("RepetitionPenaltyLogitsProcessor", expected, sampling.repetition_penalty, ids=seen)
        counts = torch.bincount(torch.tensor(generated, dtype=torch.long), minlength=V)
        expected = expected - sampling.presence_penalty * (counts > 0) - sampling.frequency_penalty * counts
        if sampling.temperature == 0:
            assert token == int(expected.argmax())
        else:
            expected = judged("TemperatureLogitsWarper", expected, sampling.temperature)
            for name, value in (("TopK", sampling.top_k), ("TopP", sampling.top_p), ("MinP", sampling.min_p)):
                if value is not None:
                    expected = judged(f"{name}LogitsWarper", expected, value)
            assert expected[0, token] > rules.NEG_INF
        generated.append(token)


def test_tokens_follow_the_probabilities() -> None:
    """Chi-square with 9 degrees of freedom: 27.9 is exceeded once in a thousand, and the seeds are fixed."""
    count = 20_000
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(3))
    for by_seed in (True, False):  # many requests, and many tokens of one
        numbers = np.arange(count, dtype=np.uint64)
        same = np.full(count, 7, dtype=np.uint64)
        uniform = rules.uniform_numbers(*((numbers, same) if by_seed else (same, numbers)))
        tokens = rules.draw(logits.expand(count, -1), torch.from_numpy(uniform)[:, None])
        expected = count * logits.double().softmax(-1)[0]
        found = torch.bincount(tokens, minlength=10)
        assert float(((found - expected) ** 2 / expected).sum()) < 27.9


def test_uniform_numbers_are_uniform_and_independent() -> None:
    seeds = np.arange(300, dtype=np.uint64).repeat(300)
    numbers = rules.uniform_numbers(seeds, np.tile(np.arange(300, dtype=np.uint64), 300)).reshape(300, 300)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.003
    assert abs(numbers.var() - 1 / 12) < 0.001
    for one, other in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


@given(uniform=st.sampled_from([0.0, 2.0**-48, 0.5, 1 - 2.0**-48]), seed=SEEDS)
def test_dropped_tokens_are_never_drawn(uniform: float, seed: int) -> None:
    """At the ends of the interval, too."""
    logits = rules.keep_top_k(random_logits(seed), column(3, torch.long), 3)
    token = rules.draw(logits, column(uniform, torch.float64))
    assert logits[0, int(token)] > rules.NEG_INF


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_token(odd: float, temperature: float) -> None:
    logits = random_logits(0, 3)
    logits[1, 5] = odd
    tokens = tokens_of(logits, [Sampling(temperature, top_p=0.9, presence_penalty=1.0)] * 3)[0]
    assert [token == -1 for token in tokens] == [False, True, False]


def test_ids_beyond_the_vocabulary_are_never_drawn() -> None:
    logits = torch.zeros(2, V)
    logits[:, 30:] = 50
    sampler = SlotSampler(2, 30, CPU)
    sampler.assign(0, Sampling(1.0, repetition_penalty=1.2), (1, 35))
    assert all(0 <= token < 30 for step in range(30) for token in sampler.sample(logits, 0, [step, step]).tolist())
