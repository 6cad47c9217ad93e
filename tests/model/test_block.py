"""Where norms stand, against torch's own encoder layer; what is dropped, against a model in plain functions."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.core.errors import UserError
from fledge.model.config import DROPOUT_ON, DropoutPlace, ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.positions import sinusoids
from tiny import GPT2_PARTS

L, H, C, T, V = 3, 4, 24, 10, 17
RATE = 0.3
CONFIG = ModelConfig(
    n_layer=L, n_head=H, n_embd=C, context=T, vocab_size=V, qk_norm=False, head_bias=True, init="torch", **GPT2_PARTS
)
STYLES = {
    "pre_norm": replace(CONFIG, block="pre_norm", mlp="gelu"),
    "pre_norm, no final norm": replace(CONFIG, block="pre_norm", mlp="gelu", final_norm=False),
    "post_norm": replace(CONFIG, block="post_norm", mlp="relu"),
    "norm_in_out": replace(CONFIG, block="norm_in_out", mlp="gelu", final_norm=False),
}


class Restated(nn.Module):
    """The model made of torch's encoder layers, which normalize before attention and MLP, or after each."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        config = self.config = model.config
        self.embed, self.positions = model.embed.weight, model.positions.weight
        self.layers = nn.ModuleList(self.layer() for _ in range(L))
        self.inner = nn.ModuleList(nn.ModuleList((nn.LayerNorm(C), nn.LayerNorm(C))) for _ in range(L))
        self.norm = nn.LayerNorm(C) if config.final_norm else nn.Identity()
        self.head = nn.Linear(C, V)
        with torch.no_grad():
            for p, name in self.named_like(model):
                p.copy_(name)

    def layer(self) -> nn.TransformerEncoderLayer:
        before = self.config.block != "post_norm"
        layer = nn.TransformerEncoderLayer(C, H, 4 * C, 0.0, self.config.mlp, batch_first=True, norm_first=before)
        if self.config.block == "norm_in_out":  # the two norms stand around it
            layer.norm1, layer.norm2 = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        return layer

    def named_like(self, model: GPT) -> list[tuple[Tensor, Tensor]]:
        """Each parameter here, and the same of the model; of gradients, too."""
        pairs: list[tuple[Any, Any]] = [(self.head, model.head)]
        pairs += [(self.norm, model.norm)] * self.config.final_norm
        found: list[tuple[Tensor, Tensor]] = []
        for layer, inner, block in zip(self.layers, self.inner, model.blocks, strict=True):
            norms = inner if self.config.block == "norm_in_out" else (layer.norm1, layer.norm2)
            attention, own = layer.self_attn, block.attention
            qkv = (own.query, own.key, own.value)
            found.append((attention.in_proj_weight, torch.cat([each.weight for each in qkv])))
            found.append((attention.in_proj_bias, torch.cat([each.bias for each in qkv])))
            pairs += [(attention.out_proj, own.output), (layer.linear1, block.mlp.up), (layer.linear2, block.mlp.down)]
            pairs += [(norms[0], block.attention_norm), (norms[1], block.mlp_norm)]
        return found + [(getattr(a, name), getattr(b, name)) for a, b in pairs for name in ("weight", "bias")]

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.embed) + self.positions[: ids.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for layer, (first, last) in zip(self.layers, self.inner, strict=True):
            if self.config.block == "norm_in_out":
                x = last(layer(first(x), mask, is_causal=True))
            else:
                x = layer(x, mask, is_causal=True)
        return self.head(self.norm(x))


def random_model(config: ModelConfig) -> GPT:
    """Norms, too, have weights that show."""
    model, generator = build(config, 1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model


def random_ids() -> Tensor:
    return torch.randint(V, (3, T), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("style", STYLES)
def test_logits_and_gradients_equal_torchs_layers(style: str) -> None:
    model, ids, logits = random_model(STYLES[style]), random_ids(), []
    theirs = Restated(model)
    for each in (model, theirs):
        logits.append(each(ids))
        F.cross_entropy(logits[-1].flatten(0, 1), ids.flatten()).backward()
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    shadow = build(STYLES[style], 1)
    with torch.no_grad():
        for name, p in shadow.named_parameters():
            p.copy_(gradients[name])  # type: ignore[arg-type]
    pairs = theirs.named_like(shadow)
    assert len(pairs) >= 12 * L
    for theirs_p, gradient in pairs:
        assert theirs_p.grad is not None
        torch.testing.assert_close(theirs_p.grad, gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_attention_input_is_what_attention_reads(style: str) -> None:
    model, read = random_model(STYLES[style]), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, args: read.append(block.attention_input(args[0])))
        block.attention.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(random_ids())
    assert len(read) == 2 * L
    assert all(torch.equal(expected, found) for expected, found in zip(read[::2], read[1::2], strict=True))


PLACES: dict[str, tuple[DropoutPlace, ...]] = {
    "toyGPT": ("embedding", "qkv", "attention", "residual", "stream"),
    "SmallGPT": ("attention", "mlp", "residual"),
    "GPT-2": DROPOUT_ON,
}


def restated_with_dropout(w: dict[str, Tensor], ids: Tensor, places: tuple[DropoutPlace, ...]) -> Tensor:
    """A pre-norm model with sines and cosines for positions, without a final norm."""

    def drop(x: Tensor, place: DropoutPlace) -> Tensor:
        return F.dropout(x, RATE) if place in places else x

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    cos, sin = sinusoids(T, C, 10_000.0)
    x = drop(w["embed.weight"][ids] + torch.stack((sin, cos), -1).flatten(1), "embedding")
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    for n in range(L):
        b = f"blocks.{n}"
        kept, y = drop(x, "stream"), norm(x, f"{b}.attention_norm")
        q, k, v = (drop(linear(y, f"{b}.attention.{name}"), "qkv") for name in ("query", "key", "value"))
        q, k, v = (each.view(len(ids), T, H, C // H).transpose(1, 2) for each in (q, k, v))
        scores = (q @ k.transpose(2, 3) / math.sqrt(C // H)).masked_fill(later, -math.inf)
        mixed = (drop(scores.softmax(-1), "attention") @ v).transpose(1, 2).reshape(len(ids), T, C)
        x = kept + drop(linear(mixed, f"{b}.attention.output"), "residual")
        hidden = drop(F.gelu(linear(norm(x, f"{b}.mlp_norm"), f"{b}.mlp.up")), "mlp")
        x = x + drop(linear(hidden, f"{b}.mlp.down"), "residual")
    return x @ w["embed.weight"].T + w["head.bias"]


@pytest.mark.parametrize("program", PLACES)
def test_dropout_in_the_places_of_another_program(program: str) -> None:
    """The same random numbers, drawn in the same order and used in the same places."""
    places, ids = PLACES[program], random_ids()
    parts: Any = {"positions": "sinusoidal", "final_norm": False, "tied": True, "mlp": "gelu", "attention": "readable"}
    model = random_model(replace(CONFIG, **parts, dropout=RATE, dropout_on=places))
    weights, outputs = dict(model.named_parameters()), []
    for compute in (model, lambda ids: restated_with_dropout(weights, ids, places)):
        torch.manual_seed(3)
        outputs.append(compute(ids))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.eval()(ids), restated_with_dropout(weights, ids, ()), atol=1e-5, rtol=0)


def test_what_is_not_named_is_not_dropped() -> None:
    for place in ("embedding", "qkv", "attention", "mlp", "residual", "stream"):
        model = build(replace(CONFIG, mlp="relu", dropout=0.5, dropout_on=(place,)), 0)
        rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
        attention = [block.attention.dropout for block in model.blocks]  # type: ignore[union-attr]
        expected = {"embedding": 1, "attention": 0}.get(place, L)
        assert rates == [0.5] * expected
        assert attention == [0.5 if place == "attention" else 0.0] * L


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dropout_on": ()}, "names no place"),
        ({"dropout_on": ("mlp", "mlp")}, "names a place twice"),
        ({"dropout": 1.0}, "cannot be 1.0"),
    ],
)
def test_impossible_dropout_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        replace(CONFIG, **{"dropout": 0.1, **changed})
    assert caught.value.hint
