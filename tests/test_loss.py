"""The loss is a sum and a count, so that splitting the work never changes it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.loss import IGNORE, count_valid, summed_cross_entropy


def a_batch(B: int, T: int, V: int, seed: int, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, T, V, generator=generator)
    targets = torch.randint(V, (B, T), generator=generator)
    return logits, targets.masked_fill(torch.rand(B, T, generator=generator) < ignored, IGNORE)


@given(B=st.integers(1, 5), T=st.integers(1, 6), V=st.integers(1, 9), seed=st.integers(0, 99))
def test_it_is_the_sum_of_the_negative_log_probability_of_each_valid_target(B: int, T: int, V: int, seed: int) -> None:
    logits, targets = a_batch(B, T, V, seed)
    chances = logits.double().softmax(-1)
    by_hand = [
        -float(chances[b, t, targets[b, t]].log()) for b in range(B) for t in range(T) if targets[b, t] != IGNORE
    ]
    assert abs(float(summed_cross_entropy(logits, targets)) - sum(by_hand)) < 1e-3
    assert int(count_valid(targets)) == len(by_hand)


@given(cut=st.integers(1, 7), seed=st.integers(0, 99))
def test_parts_add_up_to_the_whole(cut: int, seed: int) -> None:
    logits, targets = a_batch(8, 5, 11, seed)
    parts = [(logits[:cut], targets[:cut]), (logits[cut:], targets[cut:])]
    torch.testing.assert_close(
        sum(summed_cross_entropy(*part) for part in parts), summed_cross_entropy(logits, targets), rtol=1e-6, atol=1e-5
    )
    assert sum(int(count_valid(part[1])) for part in parts) == int(count_valid(targets))


def test_what_is_ignored_costs_nothing_and_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    targets = torch.tensor([[2, IGNORE, 4]])
    summed_cross_entropy(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1] == 0).all()
    assert (logits.grad[0, 0] != 0).any()


def test_nothing_valid_costs_zero_and_not_nan() -> None:
    logits, targets = torch.randn(1, 3, 5), torch.full((1, 3), IGNORE)
    assert float(summed_cross_entropy(logits, targets)) == 0.0


def test_half_precision_scores_are_summed_in_full_precision() -> None:
    logits, targets = a_batch(4, 64, 32, seed=0, ignored=0)
    half = logits.bfloat16()
    loss = summed_cross_entropy(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, summed_cross_entropy(half.float(), targets), rtol=0, atol=0)
