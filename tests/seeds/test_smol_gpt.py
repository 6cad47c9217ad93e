"""smol-GPT: the preset makes the updates that its program makes.

Pre-norm blocks without any bias, ReLU, an untied head. AdamW with one group for all parameters; windows at random.
"""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from update_rules import (
    STEPS,
    C,
    Rows,
    T,
    V,
    check_dropout,
    check_initialization,
    check_random_windows,
    check_updates,
    cosine,
    mean_loss,
    random_ids,
    sampled,
    set_rate,
    training,
)

PRESET = "smol-gpt-22m"
WARMUP, HEADS = 5, 2


class Attention(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.drop_weights, self.drop_out = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        return self.drop_out(self.out((self.drop_weights(weights) @ v).transpose(1, 2).flatten(2)))


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, dropout)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.drop(self.down(self.up(self.norm2(x)).relu()))


class SmolGPT(nn.Module):
    def __init__(self, width: int = C, vocabulary: int = V, dropout: float = 0.3) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(T, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def named(model: SmolGPT) -> dict[str, Tensor]:
    found = {"embed": model.tokens.weight, "positions": model.places.weight}
    for n, block in enumerate(model.blocks):
        query, key, value = block.attention.qkv.weight.chunk(3)
        found |= {
            f"blocks.{n}.attention_norm": block.norm1.weight,
            f"blocks.{n}.attention.query": query,
            f"blocks.{n}.attention.key": key,
            f"blocks.{n}.attention.value": value,
            f"blocks.{n}.attention.output": block.attention.out.weight,
            f"blocks.{n}.mlp_norm": block.norm2.weight,
            f"blocks.{n}.mlp.up": block.up.weight,
            f"blocks.{n}.mlp.down": block.down.weight,
        }
    found |= {"norm": model.norm.weight, "head": model.head.weight}
    return {f"{name}.weight": weight for name, weight in found.items()}


def updates(model: SmolGPT, batches: Iterable[list[Rows]]) -> Iterator[tuple[float, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)  # torch's weight decay and betas
    for step, micro_batches in enumerate(batches):
        ended = cosine(step - WARMUP, STEPS - WARMUP, 0.005, 0.00001)
        rate = 0.005 * step / WARMUP if step < WARMUP else ended
        set_rate(optimizer, rate)
        total = 0.0
        for inputs, targets in micro_batches:
            loss = mean_loss(model(inputs), targets) / len(micro_batches)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield total, rate


def test_updates() -> None:
    sizes = {"train": {"steps": STEPS, "batch": 4, "micro_batch": 2}, "optim": {"warmup_steps": WARMUP}}
    step = training(PRESET, random_ids(700), sizes)
    model = SmolGPT(dropout=0.0)
    assert check_updates(step, model, named, updates(model, sampled(step))) == STEPS


def test_windows_begin_anywhere_and_repeat() -> None:
    check_random_windows(PRESET)


def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout(PRESET, monkeypatch, SmolGPT(), named)


def test_initialization() -> None:
    check_initialization(PRESET, SmolGPT(96, 400), named, n_embd=96, vocab_size=400)
