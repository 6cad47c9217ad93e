"""The loss is a sum and a count; the fast implementations equal the reference."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fledge.losses.cross_entropy import (
    IGNORE,
    ChunkedLoss,
    SampledLoss,
    count_valid,
    cross_entropy_sum,
    full_logits_loss,
)
from fledge.model.config import ModelConfig
from fledge.model.gpt import HeadLoss
from fledge.model.head import Head
from fledge.model.head import make_head as head_of


def random_batch(B: int, T: int, V: int, seed: int, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, T, V, generator=generator)
    targets = torch.randint(V, (B, T), generator=generator)
    return logits, targets.masked_fill(torch.rand(B, T, generator=generator) < ignored, IGNORE)


@given(B=st.integers(1, 5), T=st.integers(1, 6), V=st.integers(1, 9), seed=st.integers(0, 99))
def test_loss_equals_summed_negative_logprobs(B: int, T: int, V: int, seed: int) -> None:
    logits, targets = random_batch(B, T, V, seed)
    probabilities = logits.double().softmax(-1)
    by_hand = [
        -float(probabilities[b, t, targets[b, t]].log()) for b in range(B) for t in range(T) if targets[b, t] != IGNORE
    ]
    assert abs(float(cross_entropy_sum(logits, targets)) - sum(by_hand)) < 1e-3
    assert int(count_valid(targets)) == len(by_hand)


@given(cut=st.integers(1, 7), seed=st.integers(0, 99))
def test_losses_of_parts_add_up(cut: int, seed: int) -> None:
    logits, targets = random_batch(8, 5, 11, seed)
    parts = [(logits[:cut], targets[:cut]), (logits[cut:], targets[cut:])]
    torch.testing.assert_close(
        sum(cross_entropy_sum(*part) for part in parts), cross_entropy_sum(logits, targets), rtol=1e-6, atol=1e-5
    )
    assert sum(int(count_valid(part[1])) for part in parts) == int(count_valid(targets))


def test_ignored_targets_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    targets = torch.tensor([[2, IGNORE, 4]])
    cross_entropy_sum(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad[0, 1] == 0).all()
    assert (logits.grad[0, 0] != 0).any()


def test_no_valid_target_gives_zero_not_nan() -> None:
    logits, targets = torch.randn(1, 3, 5), torch.full((1, 3), IGNORE)
    assert float(cross_entropy_sum(logits, targets)) == 0.0


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, targets = random_batch(4, 64, 32, seed=0, ignored=0)
    half = logits.bfloat16()
    loss = cross_entropy_sum(half, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy_sum(half.float(), targets), rtol=0, atol=0)


def make_head(V: int, C: int, bias: bool, softcap: float | None, seed: int) -> Head:
    config = ModelConfig(n_head=1, n_embd=2 * C, vocab_size=V, head_bias=bias, softcap=softcap)
    head, generator = head_of(config), torch.Generator().manual_seed(seed)
    for p in head.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return head


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A few hidden vectors, a head, and a chunk size that need not divide their number."""
    N, C = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    V, seed = draw(st.sampled_from([1, 2, 9, 63, 64, 65, 130])), draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(V, (1, N), generator=generator)
    return {
        "head": make_head(V, C, draw(st.booleans()), draw(st.sampled_from([None, 2.0])), seed),
        "hidden": torch.randn(1, N, 2 * C, generator=generator),
        "targets": targets.masked_fill(torch.rand(1, N, generator=generator) < 0.3, IGNORE),
        "chunk": draw(st.integers(1, 10)),
    }


def reference_loss(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    return cross_entropy_sum(head(hidden), targets)


def loss_and_gradients(loss: HeadLoss, case: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    """Gradients of three times the loss, as a loss may be scaled before its backward pass."""
    hidden, head = case["hidden"].clone().requires_grad_(), case["head"]
    head.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = loss(hidden, head, case["targets"])
    (3 * found).backward()
    assert hidden.grad is not None
    return [found.detach(), hidden.grad, *(p.grad.clone() for p in head.parameters() if p.grad is not None)]


@pytest.mark.parametrize("loss", ["chunked", "full", "all sampled"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@given(case=cases())
def test_fast_losses_equal_the_reference(loss: str, dtype: torch.dtype, near: float, case: dict[str, Any]) -> None:
    chunked, sampled = ChunkedLoss(case["chunk"], dtype), SampledLoss(case["head"].out_features, case["chunk"], dtype)
    fast = {"chunked": chunked, "full": full_logits_loss, "all sampled": sampled}[loss]
    pairs = zip(loss_and_gradients(fast, case, dtype), loss_and_gradients(reference_loss, case, dtype), strict=True)
    for ours, reference in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, reference, rtol=near, atol=near * float(reference.abs().max()) + near)


@pytest.mark.parametrize("V", [1, 63, 64, 65, 50_257, 65_537])
def test_padded_head_equals_the_plain_head(V: int) -> None:
    head, hidden = make_head(V, 2, True, None, 0), torch.randn(1, 5, 4)
    targets = torch.randint(V, (1, 5))
    assert head.padded(hidden).shape == (1, 5, V)
    case = {"head": head, "hidden": hidden, "targets": targets}
    ours, reference = (loss_and_gradients(loss, case, torch.float32) for loss in (full_logits_loss, reference_loss))
    for one, other in zip(ours, reference, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= 1e-5 * float(other.norm())


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has its own from 2.13 on")
def test_chunked_loss_equals_torch_linear_cross_entropy() -> None:
    hidden, weight, targets = torch.randn(50, 8), torch.randn(100, 8), torch.randint(100, (50,))
    case = {"head": make_head(100, 4, False, None, 0), "hidden": hidden.unsqueeze(0), "targets": targets.unsqueeze(0)}
    case["head"].weight.data = weight.clone()
    ours = loss_and_gradients(ChunkedLoss(16, torch.float32), case, torch.float32)
    hidden.requires_grad_(), weight.requires_grad_()
    loss = F.linear_cross_entropy(hidden, weight, targets, reduction="sum")
    (3 * loss).backward()
    for one, other in zip(ours, (loss.detach(), hidden.grad.unsqueeze(0), weight.grad), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_chunked_loss_gives_ignored_targets_no_gradient() -> None:
    hidden = torch.randn(1, 3, 4, requires_grad=True)
    head, targets = make_head(5, 2, False, None, 0), torch.tensor([[2, IGNORE, 1]])
    ChunkedLoss(2, torch.float32)(hidden, head, targets).backward()
    assert hidden.grad is not None
    assert (hidden.grad[0, 1] == 0).all()
    assert (hidden.grad[0, 0] != 0).any()


def test_sampled_loss_estimates_the_sum_over_the_vocabulary() -> None:
    """Of 500 tokens with logits from -2 to 2, 63 are drawn beside each target."""
    head, hidden = make_head(500, 2, True, None, 0), torch.randn(1, 1, 4)
    assert head.bias is not None
    logits = head(hidden)[0, 0].clamp(-2, 2)
    head.bias.data += logits - head(hidden)[0, 0]
    sampled, estimates = SampledLoss(63, 8, torch.float32), []
    for target in range(500):
        loss = sampled(hidden, head, torch.tensor([[target]]))
        estimates.append(float(((loss + logits[target]).exp() / logits.exp().sum()).detach()))
    assert sum(estimates) / 500 == pytest.approx(1, abs=0.02)
    assert max(estimates) < 2


def test_sampled_loss_repeats_itself_and_moves_only_what_it_has_drawn() -> None:
    head, hidden, targets = make_head(1000, 2, False, None, 0), torch.randn(1, 3, 4), torch.tensor([[7, IGNORE, 990]])
    case, sampled = {"head": head, "hidden": hidden, "targets": targets}, SampledLoss(100, 2, torch.float32)
    first, again = (loss_and_gradients(sampled, case, torch.float32) for _ in range(2))
    assert all(map(torch.equal, first, again))
    _, d_hidden, d_weight = first
    assert (d_hidden[0, 1] == 0).all()
    moved = d_weight.abs().sum(1).nonzero().squeeze(1).tolist()
    assert len(moved) == 128  # two targets and 100 others, up to a multiple of 64
    assert {7, 990} <= set(moved)
    case["targets"] = torch.full((1, 3), IGNORE)
    assert not any(bool(each.any()) for each in loss_and_gradients(sampled, case, torch.float32))
