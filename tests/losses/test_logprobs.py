"""Log-probabilities of tokens against the plain formula, and against transformers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fledge.exchange.names import HF_GPT2
from fledge.exchange.parity import reference_model
from fledge.exchange.tensors import convert_weights
from fledge.losses import logprobs
from fledge.losses.cross_entropy import IGNORE, cross_entropy_sum
from fledge.losses.logprobs import logits_logprobs, token_logprobs
from fledge.model.config import ModelConfig
from fledge.model.head import Head, make_head
from tiny import GPT2_PARTS

GPT2 = ModelConfig(
    n_layer=2,
    n_head=4,
    n_embd=32,
    context=24,
    vocab_size=97,
    mlp="gelu_tanh",
    qk_norm=False,
    tied=True,
    **GPT2_PARTS,
)


@pytest.fixture(params=["whole", "chunks"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "chunks":
        monkeypatch.setattr(logprobs, "LARGE_VOCABULARY", 1)
        monkeypatch.setattr(logprobs, "LOSS_CHUNK_TOKENS", 7)
    return request.param == "chunks"


def random_targets(B: int, T: int, V: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(V, (B, T), generator=generator)
    return targets.masked_fill(torch.rand(B, T, generator=generator) < 0.3, IGNORE)


def random_head(V: int, softcap: float | None, bias: bool) -> Head:
    head = make_head(ModelConfig(n_head=1, n_embd=8, vocab_size=V, softcap=softcap, head_bias=bias))
    generator = torch.Generator().manual_seed(V)
    for p in head.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return head


def plain_formula(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    logprobs = head(hidden).log_softmax(-1).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return logprobs.masked_fill(targets == IGNORE, 0.0)


@given(B=st.integers(1, 4), T=st.integers(1, 6), V=st.integers(1, 9), seed=st.integers(0, 99))
def test_reference_sums_to_the_cross_entropy(B: int, T: int, V: int, seed: int) -> None:
    logits = 3 * torch.randn(B, T, V, generator=torch.Generator().manual_seed(seed))
    targets = random_targets(B, T, V, seed)
    found = logits_logprobs(logits, targets)
    assert found.shape == (B, T)
    assert (found[targets == IGNORE] == 0).all()
    torch.testing.assert_close(-found.sum(), cross_entropy_sum(logits, targets))


@pytest.mark.parametrize("V", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("chunked")
def test_values_and_gradients_equal_the_plain_formula(V: int, softcap: float | None, bias: bool) -> None:
    head, targets = random_head(V, softcap, bias), random_targets(3, 10, V)
    weights = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))  # as advantages would be
    found = []
    for function in (token_logprobs, plain_formula):
        hidden = torch.randn(3, 10, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
        head.zero_grad()
        values = function(hidden, head, targets)
        (values * weights).sum().backward()
        assert hidden.grad is not None
        found.append([values.detach(), hidden.grad, *(p.grad for p in head.parameters())])
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_chunks_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "LARGE_VOCABULARY", 1)
    monkeypatch.setattr(logprobs, "LOSS_CHUNK_TOKENS", 8)
    head, hidden = random_head(640, None, False), torch.randn(4, 16, 8, requires_grad=True)
    largest = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(hidden, head, torch.zeros(4, 16, dtype=torch.long)).sum().backward()
    assert largest < 4 * 16 * 640 / 2


@pytest.mark.usefixtures("chunked")
def test_logprobs_equal_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
        )
    ).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(4)
    ours = reference_model(GPT2, convert_weights(theirs.state_dict(), GPT2, HF_GPT2, "transformers"))
    ids = torch.randint(97, (3, 25), generator=torch.Generator().manual_seed(3))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    with torch.no_grad():
        expected = theirs(inputs).logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        targets[:, :5] = IGNORE  # a prompt
        found = ours.forward_loss(inputs, targets, token_logprobs)
    assert expected.std() > 0.1
    assert (found[:, :5] == 0).all()
    torch.testing.assert_close(found[:, 5:], expected[:, 5:], rtol=0, atol=1e-5)
