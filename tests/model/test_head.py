"""The head: bias, soft cap and the gradient of the soft cap."""

from dataclasses import replace

import pytest
import torch

from fledge.model.config import ModelConfig
from fledge.model.head import make_head
from fledge.model.init import build

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=12, vocab_size=11, norm="layernorm")
X = torch.linspace(-4, 4, 48).view(1, 3, 16)


@pytest.mark.parametrize("tied", [True, False])
def test_head_bias_is_added_to_the_logits(tied: bool) -> None:
    plain, biased = (build(replace(SMALL, tied=tied, head_bias=bias), 0).eval() for bias in (False, True))
    ids = torch.arange(6).unsqueeze(0)
    with torch.no_grad():
        biased.head.bias.copy_(torch.arange(11.0))
        torch.testing.assert_close(biased(ids), plain(ids) + torch.arange(11.0))


def test_softcap_equals_its_formula() -> None:
    plain, capped = make_head(SMALL), make_head(replace(SMALL, softcap=15.0))
    capped.load_state_dict(plain.state_dict())
    for scale in (0.01, 1.0, 100.0):
        expected = 15 * torch.tanh(plain(scale * X) / 15)
        torch.testing.assert_close(capped(scale * X), expected)
        assert capped(scale * X).abs().max() <= 15
    torch.testing.assert_close(capped(0.01 * X), plain(0.01 * X), atol=1e-5, rtol=1e-4)


def test_softcap_gradient_equals_autograd() -> None:
    capped, logits = make_head(replace(SMALL, softcap=2.0)), X.clone().requires_grad_()
    d_capped = torch.linspace(-1, 1, 48).view(1, 3, 16)
    capped.cap(logits).backward(d_capped)
    assert logits.grad is not None
    torch.testing.assert_close(capped.cap_gradient(d_capped, capped.cap(X)), logits.grad, atol=1e-6, rtol=1e-5)
