"""The readable attention is the reference; the fast implementations must agree with it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fledge.model import attention
from fledge.model.attention import ATTENTIONS, attention_weights, causal_mask, readable_attention, visible_blocks

CPU = torch.device("cpu")


def random_heads(B: int, H: int, K: int, T: int, S: int, D: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, heads, n, D, generator=generator) for heads, n in ((H, T), (K, S), (K, S)))


@pytest.mark.parametrize("name", ["sdpa", "blocked"])
@given(
    B=st.integers(1, 3),
    K=st.integers(1, 3),
    group=st.integers(1, 3),
    S=st.integers(1, 12),
    fewer=st.integers(0, 11),
    D=st.sampled_from([1, 4, 8]),
    window=st.integers(1, 14),
    seed=st.integers(0, 99),
)
def test_fast_attention_equals_the_reference(
    name: str, B: int, K: int, group: int, S: int, fewer: int, D: int, window: int, seed: int
) -> None:
    q, k, v = random_heads(B, K * group, K, max(1, S - fewer), S, D, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", 3)
        fast = ATTENTIONS[name](q, k, v, None, window, 0.0)
    readable = readable_attention(q, k, v, None, window)
    assert readable.shape == q.shape
    assert (readable - fast).abs().max() < 1e-5


@pytest.mark.parametrize(("T", "S", "window"), [(64, 64, 64), (64, 64, 9), (1, 64, 64), (7, 64, 64), (7, 64, 20)])
@pytest.mark.parametrize("K", [4, 2, 1])
def test_bfloat16_error_is_within_rounding(T: int, S: int, window: int, K: int) -> None:
    q, k, v = (t.bfloat16() for t in random_heads(2, 4, K, T, S, 32, seed=0))
    exact = readable_attention(q.double(), k.double(), v.double(), None, window)
    for attend in ATTENTIONS.values():
        answers = attend(q, k, v, None, window, 0.0)
        assert answers.dtype == torch.bfloat16
        assert (answers - exact).abs().max() < 0.025  # values of up to 4 have steps of 1/64


@pytest.mark.parametrize("K", [4, 2, 1])
@pytest.mark.parametrize("window", [9, 3])
def test_gradients_equal_the_reference(K: int, window: int) -> None:
    found = []
    for attend in ATTENTIONS.values():
        tensors = [t.requires_grad_() for t in random_heads(2, 4, K, 9, 9, 8, seed=0)]
        attend(*tensors, None, window, 0.0).square().sum().backward()
        found.append([t.grad for t in tensors])
    for one, other in (
        (gradient, reference) for each in found for gradient, reference in zip(each, found[-1], strict=True)
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@given(T=st.integers(1, 700), past=st.integers(0, 40), window=st.none() | st.integers(1, 800))
def test_blocks_cover_every_query_and_visible_key(T: int, past: int, window: int | None) -> None:
    blocks = list(visible_blocks(T, T + past, window))
    assert [row for start, stop, _, _ in blocks for row in range(start, stop)] == list(range(T))
    assert len(blocks) <= 4
    for start, stop, first, last in blocks:
        assert first == max(0, past + start + 1 - (window or T + past))
        assert last == past + stop


@given(S=st.integers(1, 10), fewer=st.integers(0, 9), window=st.integers(1, 12), seed=st.integers(0, 99))
def test_weights_are_causal_and_sum_to_one(S: int, fewer: int, window: int, seed: int) -> None:
    T = max(1, S - fewer)
    q, k, _ = random_heads(2, 4, 2, T, S, 8, seed)
    weights = attention_weights(q, k, None, window)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, T))
    for row in range(T):
        end = S - T + row + 1
        seen = range(max(0, end - window), end)
        for place in range(S):
            assert (weights[:, :, row, place] > 0).all() == (place in seen)


def test_causal_mask_with_and_without_window() -> None:
    assert causal_mask(2, 4, 4, CPU).tolist() == [[True, True, True, False], [True] * 4]
    assert causal_mask(2, 4, 2, CPU).tolist() == [[False, True, True, False], [False, False, True, True]]
    assert causal_mask(3, 3, 1, CPU).tolist() == torch.eye(3, dtype=torch.bool).tolist()


def test_window_of_one_returns_the_own_value() -> None:
    q, k, v = random_heads(2, 4, 2, 6, 6, 8, seed=0)
    for attend in ATTENTIONS.values():
        torch.testing.assert_close(attend(q, k, v, None, 1, 0.0), v.repeat_interleave(2, dim=1))


def test_grouped_query_heads_share_keys_and_values() -> None:
    q, k, v = random_heads(1, 4, 2, 5, 5, 8, seed=1)
    whole = readable_attention(q, k, v, None, 5)
    for head in range(4):
        alone = readable_attention(q[:, [head]], k[:, [head // 2]], v[:, [head // 2]], None, 5)
        torch.testing.assert_close(whole[:, [head]], alone)


@pytest.mark.parametrize("name", list(ATTENTIONS))
def test_dropout_keeps_the_mean(name: str) -> None:
    torch.manual_seed(0)
    q, k = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    v = torch.ones(1, 1, 4, 8)
    draws = torch.stack([ATTENTIONS[name](q, k, v, None, 4, 0.5) for _ in range(400)])
    assert len(draws.unique()) > 2
    assert abs(float(draws.mean()) - 1) < 0.1
