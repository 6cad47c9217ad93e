"""The logit lens and the loss of each token: the last layer is the model itself."""

import pytest
import torch

from families import CONTEXT, FAMILIES, MODELS, V
from fledge.insight import logit_lens as module
from fledge.insight.logit_lens import logit_lens
from fledge.insight.residual_stream import whole_stream
from fledge.insight.token_loss import token_loss

IDS = torch.randint(V, (CONTEXT,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_last_layer_is_the_prediction_of_the_model(name: str) -> None:
    model = MODELS[name]
    lens, probabilities = logit_lens(model, IDS, top=V), model(IDS[None])[0].softmax(-1)
    exact = torch.zeros(CONTEXT, V).scatter(1, lens.top_ids[-1], lens.top_probabilities[-1])
    torch.testing.assert_close(exact, probabilities, atol=1e-6, rtol=1e-5)
    following = probabilities[:-1].gather(1, IDS[1:, None])[:, 0]
    torch.testing.assert_close(lens.next_probability[-1], following, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(token_loss(model, IDS), -following.log(), atol=1e-5, rtol=1e-5)
    assert lens.kl[-1].max() < 1e-5
    stream = whole_stream(model, IDS)
    assert torch.equal(logit_lens(model, IDS, top=V, stream=stream).kl, lens.kl)
    assert torch.equal(token_loss(model, IDS, stream=stream), token_loss(model, IDS))
    assert lens.kl[0].mean() > 1e-3


@torch.no_grad()
def test_earlier_layers_are_norm_and_head_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOGITS", 7 * V)  # chunks of seven positions; 24 is no multiple of it
    model = MODELS["modern"]
    lens = logit_lens(model, IDS, top=3)
    x, positions = model.embedded(IDS[None], model.no_cache)
    first = model.blocks[0](x, positions, model.no_cache.layers[0])
    logits = model.head(model.norm(first))[0]
    assert torch.equal(lens.top_ids[0], logits.topk(3).indices)
    order = logits[:-1].argsort(descending=True)
    assert lens.next_rank[0].tolist() == [
        1 + row.tolist().index(id) for row, id in zip(order, IDS[1:].tolist(), strict=True)
    ]
    final = model(IDS[None])[0].softmax(-1)
    kl = torch.nn.functional.kl_div(logits.log_softmax(-1), final, reduction="none").sum(-1)
    torch.testing.assert_close(lens.kl[0], kl, atol=1e-5, rtol=1e-4)


def test_text_of_one_token_has_no_next() -> None:
    lens = logit_lens(MODELS["gpt2"], IDS[:1], top=2)
    assert (lens.top_ids.shape, lens.next_rank.shape) == ((2, 1, 2), (2, 0))
    assert token_loss(MODELS["gpt2"], IDS[:1]).shape == (0,)
