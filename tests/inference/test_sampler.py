"""What each sampling strategy keeps, and what is drawn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.inference.sampler import NEG_INF, Greedy, Temperature, TopK, TopP, sample, sampling_strategies

SCORES = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12)
DIFFERENT = st.lists(st.integers(-40, 40), min_size=1, max_size=12, unique=True).map(lambda v: [x / 4 for x in v])


def kept(logits: torch.Tensor) -> list[bool]:
    return (logits != NEG_INF).tolist()


@given(scores=DIFFERENT, k=st.integers(1, 15))
def test_top_k_keeps_the_k_best(scores: list[float], k: int) -> None:
    best = set(sorted(scores)[-k:])
    assert kept(TopK(k)(torch.tensor(scores))) == [score in best for score in scores]


@given(scores=SCORES, k=st.integers(1, 15))
def test_top_k_keeps_k_tokens_in_case_of_ties(scores: list[float], k: int) -> None:
    keeps = kept(TopK(k)(torch.tensor(scores)))
    assert sum(keeps) == min(k, len(scores))
    dropped = [s for s, keep in zip(scores, keeps, strict=True) if not keep]
    assert all(s >= max(dropped, default=-math.inf) for s, keep in zip(scores, keeps, strict=True) if keep)


@given(scores=SCORES, p=st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_sufficient_set(scores: list[float], p: float) -> None:
    probabilities = torch.tensor(scores).double().softmax(-1).tolist()
    keeps = kept(TopP(p)(torch.tensor(scores)))
    chosen = sorted((c for c, keep in zip(probabilities, keeps, strict=True) if keep), reverse=True)
    dropped = [c for c, keep in zip(probabilities, keeps, strict=True) if not keep]
    assert len(chosen) >= 1
    assert sum(chosen) >= p - 1e-5  # they reach p
    assert sum(chosen[:-1]) < p + 1e-5  # one fewer does not
    assert min(chosen) >= max(dropped, default=0) * (1 - 1e-5)  # no better token was dropped


@given(scores=SCORES)
def test_kept_tokens_keep_their_logits(scores: list[float]) -> None:
    logits = torch.tensor(scores)
    for strategy in (TopK(3), TopP(0.7)):
        after = strategy(logits)
        assert torch.equal(after[after != NEG_INF], logits[after != NEG_INF])


@given(scores=SCORES, seed=st.integers(0, 99))
def test_greedy_takes_the_first_of_the_best(scores: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    assert int(sample(torch.tensor([scores]), (Greedy(),), generator)) == scores.index(max(scores))


@given(scores=DIFFERENT, temperature=st.sampled_from([1e-3, 1e-6, 1e-30, 1e-40, 1e-300]), seed=st.integers(0, 9))
def test_low_temperatures_are_greedy(scores: list[float], temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = sample(torch.tensor([scores]), sampling_strategies(temperature), generator)
    assert int(chosen) == scores.index(max(scores))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_non_finite_logits_are_refused(odd: float, temperature: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        sample(torch.tensor([[1.0, odd, 2.0]]), sampling_strategies(temperature), torch.Generator())


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, 4.0]])
    ratio = torch.log_softmax(Temperature(2.0)(logits), -1)
    torch.testing.assert_close(ratio, torch.log_softmax(logits / 2, -1))


def test_samples_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    generator = torch.Generator().manual_seed(0)
    drawn = sample(probabilities.log().expand(20_000, 3), sampling_strategies(1.0), generator)
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)


@given(seed=st.integers(0, 2**31), top_k=st.integers(1, 5), top_p=st.floats(0.1, 1))
def test_only_kept_tokens_are_drawn(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    row = sampling_strategies(1.3, top_k, top_p)
    allowed = logits
    for strategy in row:
        allowed = strategy(allowed)
    drawn = sample(logits.expand(50, 12), row, torch.Generator().manual_seed(seed))
    assert all(kept(allowed[0])[token] for token in drawn.tolist())


def test_same_seed_draws_the_same() -> None:
    logits = torch.zeros(64, 50)
    one, two, other = (
        sample(logits, sampling_strategies(1.0), torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.01}, "top-p"),
        ({"top_p": float("nan")}, "top-p"),
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        sampling_strategies(**wrong)


def test_temperature_zero_is_greedy() -> None:
    assert sampling_strategies(0.0, top_k=5, top_p=0.5) == (Greedy(),)
