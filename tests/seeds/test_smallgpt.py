"""SmallGPT: the preset makes the updates that its program makes.

Pre-norm blocks with a narrow MLP; queries, keys and values of a head lie together in one matrix. The rate is constant
in an epoch. Windows in order, and the last batch of an epoch has those that are left.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

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
    set_rate,
    training,
)

PRESET = "smallgpt-shakespeare"
EPOCHS, BATCH, HEADS = 15, 4, 2
IDS = random_ids(14 * T + 5)  # 14 windows: batches of 4, 4, 4 and 2


class Attention(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out, self.drop = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (HEADS, -1)).transpose(1, 2).chunk(3, dim=-1)
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = ((q @ k.mT).masked_fill(hidden, float("-inf")) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((self.drop(weights) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(width, dropout), nn.LayerNorm(width), nn.LayerNorm(width)
        hidden = 2 * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class SmallGPT(nn.Module):
    def __init__(self, width: int = C, vocabulary: int = V, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(T, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def named(model: SmallGPT) -> dict[str, Tensor]:
    found = {"embed.weight": model.tokens.weight, "positions.weight": model.places.weight}
    for n, block in enumerate(model.blocks):
        ours = {"attention_norm": block.norm1, "attention.output": block.attention.out, "mlp_norm": block.norm2}
        for name, module in {**ours, "mlp.up": block.mlp[0], "mlp.down": block.mlp[3]}.items():
            found |= {f"blocks.{n}.{name}.{kind}": weight for kind, weight in module.named_parameters()}
        for kind, joined in block.attention.qkv.named_parameters():
            by_head = joined.unflatten(0, (HEADS, 3, -1))
            for at, name in enumerate(("query", "key", "value")):
                found[f"blocks.{n}.attention.{name}.{kind}"] = by_head[:, at].flatten(0, 1)
    norm = {f"norm.{kind}": weight for kind, weight in model.norm.named_parameters()}
    return {**found, **norm, "head.weight": model.head.weight}


def epoch() -> Iterator[Rows]:
    """Windows without overlap, in order, in batches of which the last one may be smaller."""
    ids = torch.from_numpy(IDS.astype("int64"))
    starts = range(0, len(ids) - T, T)
    windows = torch.stack([ids[start : start + T + 1] for start in starts])
    for rows in windows.split(BATCH):
        yield rows[:, :-1], rows[:, 1:]


def updates(model: SmallGPT, epochs: int) -> Iterator[tuple[float, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    for number in range(epochs):
        rate = 3e-4 * (1 + math.cos(math.pi * number / EPOCHS)) / 2
        set_rate(optimizer, rate)
        for inputs, targets in epoch():
            optimizer.zero_grad()
            loss = mean_loss(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            yield loss.item(), rate


SIZES = {"train": {"batch": BATCH}, "model": {"mlp_width": 2 * C}}


def test_updates() -> None:
    model = SmallGPT(dropout=0.0)
    step = training(PRESET, IDS, SIZES)
    assert check_updates(step, model, named, updates(model, EPOCHS)) == 4 * EPOCHS


def test_windows_of_two_epochs() -> None:
    step = training(PRESET, IDS, SIZES)
    for number, (inputs, targets) in enumerate([*epoch(), *epoch()]):
        (batch,) = step.micro_batches(number)
        counted = (batch.targets >= 0).all(dim=1)
        assert torch.equal(batch.inputs[counted], inputs)
        assert torch.equal(batch.targets[counted], targets)
        assert (batch.targets[~counted] < 0).all()


def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout(PRESET, monkeypatch, SmallGPT(), named, mlp_width=2 * C)


def test_initialization() -> None:
    check_initialization(PRESET, SmallGPT(96, 400), named, n_embd=96, vocab_size=400, mlp_width=192)
