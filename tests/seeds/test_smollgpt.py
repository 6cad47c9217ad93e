"""SmollGPT: the preset makes the updates that its program makes.

A block normalizes its input and its output, and nothing else is normalized. The learning rate is set after an update,
to that of its number; the gradient is clipped after every micro-batch, on what was accumulated so far.
"""

import math
from collections.abc import Iterable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.settings.pipeline import resolve
from update_rules import (
    C,
    Rows,
    T,
    V,
    check_dropout,
    check_initialization,
    check_updates,
    mean_loss,
    random_ids,
    sampled,
    set_rate,
    training,
)

PRESET = "smollgpt-130m"
STEPS, EPOCH, WARMUP, HEADS = 50, 40, 8, 2  # EPOCH: the updates of a pass, of which the warmup is a fifth


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in, self.norm_out, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), dropout
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).split(x.shape[-1], -1))
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        return self.drop(self.out((self.drop(weights) @ v).transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(x)
        x = x + self.attention(x)
        return self.norm_out(x + self.drop(self.down(F.gelu(self.up(x)))))


class SmollGPT(nn.Module):
    def __init__(self, width: int = C, vocabulary: int = V, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(T, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(2)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(ids) + self.places(torch.arange(ids.shape[1]))))


def named(model: SmollGPT) -> dict[str, Tensor]:
    found = {"embed.weight": model.tokens.weight, "positions.weight": model.places.weight}
    for n, block in enumerate(model.blocks):
        ours = {"attention_norm": block.norm_in, "mlp_norm": block.norm_out, "mlp.up": block.up, "mlp.down": block.down}
        for name, module in {**ours, "attention.output": block.out}.items():
            found |= {f"blocks.{n}.{name}.{kind}": weight for kind, weight in module.named_parameters()}
        for name, weight in zip(("query", "key", "value"), block.qkv.weight.chunk(3), strict=True):
            found[f"blocks.{n}.attention.{name}.weight"] = weight
    return {**found, "head.weight": model.head.weight, "head.bias": model.head.bias}


def rate_of(update: int) -> float:
    if update < WARMUP:
        return update / WARMUP * 1.2e-3
    if update > EPOCH:
        return 1.2e-4
    return 1.2e-4 + 0.5 * (1 + math.cos(math.pi * (update - WARMUP) / EPOCH)) * (1.2e-3 - 1.2e-4)


def updates(model: SmollGPT, batches: Iterable[list[Rows]]) -> Iterator[tuple[float, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.2e-3, betas=(0.9, 0.95))
    for number, micro_batches in enumerate(batches):
        total, rate = 0.0, optimizer.param_groups[0]["lr"]
        for inputs, targets in micro_batches:
            loss = mean_loss(model(inputs), targets) / len(micro_batches)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        set_rate(optimizer, rate_of(number))
        yield total, rate


def test_updates() -> None:
    sizes = {
        "data": {"stride": T + 1},
        "train": {"steps": STEPS, "batch": 4, "micro_batch": 2},
        "optim": {"warmup_steps": WARMUP, "decay_steps": EPOCH},
    }
    step = training(PRESET, random_ids(700), sizes)
    model = SmollGPT(dropout=0.0)
    assert check_updates(step, model, named, updates(model, sampled(step, STEPS))) == STEPS


def test_windows_share_no_token() -> None:
    preset = resolve(PRESET)
    assert preset.data.stride == preset.model.context + 1
    step = training(
        PRESET,
        torch.arange(53 * (T + 1)).numpy().astype("uint16"),
        {"data": {"stride": T + 1}, "train": {"batch": 48, "micro_batch": 16}},
    )
    rows = [torch.cat([inputs, targets[:, -1:]], dim=1) for inputs, targets in next(sampled(step))]
    windows = torch.cat(rows)
    assert windows.unique().numel() == windows.numel()


def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout(PRESET, monkeypatch, SmollGPT(), named)


def test_initialization() -> None:
    check_initialization(PRESET, SmollGPT(96, 400), named, n_embd=96, vocab_size=400)
