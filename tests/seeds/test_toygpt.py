"""toyGPT: the presets make the updates that its program makes.

Sinusoidal positions, one matrix for embedding and head, no final norm. Dropout also acts on the projections to queries,
keys and values, and on the stream that attention is added to. No clipping; a short batch, and one micro-batch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.settings.pipeline import resolve
from update_rules import (
    STEPS,
    C,
    Rows,
    T,
    V,
    check_dropout,
    check_initialization,
    check_updates,
    cosine,
    mean_loss,
    random_ids,
    sampled,
    set_rate,
    training,
)

WARMUP, COSINE, HEADS = 5, 105, 2  # COSINE: longer than the run


def sinusoids(width: int) -> Tensor:
    angles = torch.arange(T)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.drop = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.drop(self.qkv(x)).chunk(3, dim=-1))
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        return self.drop(self.out((self.drop(weights) @ v).transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x) + self.attention(self.norm1(x))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class ToyGPT(nn.Module):
    def __init__(self, width: int = C, vocabulary: int = V, dropout: float = 0.1) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(width, vocabulary), nn.Dropout(dropout)
        self.places = sinusoids(width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(2)))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.head.weight) + self.places[: ids.shape[1]]
        return self.head(self.blocks(self.drop(x)))


def named(model: ToyGPT) -> dict[str, Tensor]:
    found = {"embed.weight": model.head.weight, "head.bias": model.head.bias}
    for n, block in enumerate(model.blocks):
        ours = {"attention_norm": block.norm1, "mlp_norm": block.norm2, "mlp.up": block.up, "mlp.down": block.down}
        for name, module in {**ours, "attention.output": block.out}.items():
            found |= {f"blocks.{n}.{name}.{kind}": weight for kind, weight in module.named_parameters()}
        for kind, joined in block.qkv.named_parameters():
            for name, weight in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                found[f"blocks.{n}.attention.{name}.{kind}"] = weight
    return found


def updates(model: ToyGPT, batches: Iterable[list[Rows]]) -> Iterator[tuple[float, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for number, ((inputs, targets),) in enumerate(batches):
        warmed = 1e-8 + (1 - 1e-8) * number / WARMUP  # begins just above 0
        ended = cosine(number - WARMUP, COSINE - WARMUP, 2.5e-4, 2.5e-5)
        rate = 2.5e-4 * warmed if number < WARMUP else ended
        set_rate(optimizer, rate)
        loss = mean_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item(), rate


def test_updates() -> None:
    sizes = {"train": {"steps": STEPS}, "optim": {"warmup_steps": WARMUP, "decay_steps": COSINE}}
    step = training("toygpt-small", random_ids(700), sizes)
    model = ToyGPT(dropout=0.0)
    assert all(rows[0][0].shape == (4, T) for rows in sampled(step, 2))
    assert check_updates(step, model, named, updates(model, sampled(step))) == STEPS


def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout("toygpt-small", monkeypatch, ToyGPT(), named)


def test_initialization() -> None:
    check_initialization("toygpt-small", ToyGPT(96, 400), named, n_embd=96, vocab_size=400)


@pytest.mark.parametrize(("size", "layers", "heads", "width"), [("medium", 16, 8, 1024), ("large", 24, 16, 2048)])
def test_larger_ones_differ_in_shape_only(size: str, layers: int, heads: int, width: int) -> None:
    small, larger = resolve("toygpt-small"), resolve(f"toygpt-{size}")
    assert larger == replace(small, model=replace(small.model, n_layer=layers, n_head=heads, n_embd=width))
