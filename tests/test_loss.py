"""The loss is a sum and a count, so that splitting the work never changes it."""

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fledge.loss import IGNORE, Capped, Portions, Straight, count_valid, loss_in_portions, summed_cross_entropy


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


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    """Some tokens before a head, and a portion that need not divide them."""
    N, C, V = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    targets = torch.randint(V, (1, N), generator=generator)
    return {
        "hidden": torch.randn(1, N, C, generator=generator),
        "weight": torch.randn(V, C, generator=generator),
        "bias": torch.randn(V, generator=generator) if draw(st.booleans()) else None,
        "targets": targets.masked_fill(torch.rand(1, N, generator=generator) < 0.3, IGNORE),
        "rows": draw(st.integers(1, 10)),
        "cap": draw(st.sampled_from([None, 2.0])),
    }


def learned(case: dict[str, Any], dtype: torch.dtype, *, portions: bool) -> list[torch.Tensor]:
    """The loss, and what it teaches: three times it, as a loss is scaled on its way back."""
    hidden, weight = case["hidden"].clone().requires_grad_(), case["weight"].clone().requires_grad_()
    bias = None if case["bias"] is None else case["bias"].clone().requires_grad_()
    shape = Straight() if case["cap"] is None else Capped(case["cap"])
    if portions:
        loss = loss_in_portions(hidden, weight, bias, case["targets"], Portions(case["rows"], dtype, shape))
    else:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            scores = F.linear(hidden, weight, bias)
        loss = summed_cross_entropy(scores if case["cap"] is None else 2.0 * (scores / 2.0).tanh(), case["targets"])
    (3 * loss).backward()
    return [
        loss.detach(),
        *(each.grad for each in (hidden, weight, bias) if each is not None and each.grad is not None),
    ]


@given(heads())
def test_portions_say_and_teach_what_the_whole_does(case: dict[str, Any]) -> None:
    pairs = zip(learned(case, torch.float32, portions=True), learned(case, torch.float32, portions=False), strict=True)
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6 * float(plain.abs().max()) + 1e-6)


@given(heads())
def test_portions_in_half_precision_are_as_near_as_it_is(case: dict[str, Any]) -> None:
    pairs = zip(
        learned(case, torch.bfloat16, portions=True), learned(case, torch.bfloat16, portions=False), strict=True
    )
    for ours, plain in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02 * float(plain.abs().max()) + 0.02)


def test_portions_keep_the_gradients_of_what_is_ignored_at_nothing() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    targets = torch.tensor([[2, IGNORE, 1]])
    loss_in_portions(hidden, torch.randn(5, 4), None, targets, Portions(2, torch.float32, Straight())).backward()
    assert hidden.grad is not None
    assert (hidden.grad[0, 1] == 0).all()
    assert (hidden.grad[0, 0] != 0).any()
