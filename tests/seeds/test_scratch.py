"""GPT from scratch, its two small runs: the presets make the updates that its programs make.

Blocks in the order of the first transformer, every head with matrices of its own, a bias in the head. Characters: one
group of parameters and a constant rate. Web pages: decay of matrices only, and no clipping.
"""

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from fledge.settings.pipeline import resolve
from update_rules import (
    STEPS,
    C,
    Rows,
    T,
    V,
    check_initialization,
    check_updates,
    mean_loss,
    random_ids,
    sampled,
    training,
)

HEADS, HEAD = 2, 4  # heads, and the width of one
SHAPE = {"head_dim": HEAD}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        heads = range(HEADS)
        self.query = nn.ModuleList(nn.Linear(width, HEAD, bias=False) for _ in heads)
        self.key = nn.ModuleList(nn.Linear(width, HEAD, bias=False) for _ in heads)
        self.value = nn.ModuleList(nn.Linear(width, HEAD, bias=False) for _ in heads)
        self.out = nn.Linear(HEADS * HEAD, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def attention(self, x: Tensor) -> Tensor:
        hidden, found = torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), []
        for query, key, value in zip(self.query, self.key, self.value, strict=True):
            scores = torch.bmm(query(x), key(x).mT).masked_fill(hidden, float("-inf"))
            found.append(torch.bmm((scores / HEAD**0.5).softmax(-1), value(x)))
        return self.out(torch.cat(found, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class ScratchGPT(nn.Module):
    def __init__(self, width: int = C, vocabulary: int = V) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(T, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))))


def named(model: ScratchGPT) -> dict[str, Tensor]:
    found = {"embed.weight": model.tokens.weight, "positions.weight": model.places.weight}
    outer: dict[str, nn.Module] = {"norm": model.norm, "head": model.head}
    for n, block in enumerate(model.blocks):
        ours = {"attention_norm": block.norm1, "attention.output": block.out, "mlp_norm": block.norm2}
        ours |= {"mlp.up": block.mlp[0], "mlp.down": block.mlp[2]}
        outer |= {f"blocks.{n}.{name}": module for name, module in ours.items()}
        for name in ("query", "key", "value"):
            joined = torch.cat([head.weight for head in getattr(block, name)])
            found[f"blocks.{n}.attention.{name}.weight"] = joined
    return found | {
        f"{name}.{kind}": weight for name, module in outer.items() for kind, weight in module.named_parameters()
    }


def characters(model: ScratchGPT, batches: Iterable[list[Rows]]) -> Iterator[tuple[float, float]]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for ((inputs, targets),) in batches:
        loss = mean_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1)
        optimizer.step()
        yield loss.item(), 5e-4


def web_pages(model: ScratchGPT, batches: Iterable[list[Rows]]) -> Iterator[tuple[float, float]]:
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.95))
    for micro_batches in batches:
        total = 0.0
        for inputs, targets in micro_batches:
            loss = mean_loss(model(inputs), targets) / len(micro_batches)
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        yield total, 5e-4


def test_updates_of_the_character_model() -> None:
    step = training("scratch-char", random_ids(300), {"model": SHAPE, "train": {"steps": STEPS, "batch": 4}})
    model = ScratchGPT()
    assert check_updates(step, model, named, characters(model, sampled(step))) == STEPS


def test_updates_of_the_model_of_web_pages() -> None:
    """An epoch of 50 updates."""
    sizes = {"model": SHAPE, "train": {"batch": 4, "micro_batch": 2}}
    step = training("scratch-owt10k", random_ids(4 * STEPS + T + 1), sizes)
    model = ScratchGPT()
    assert check_updates(step, model, named, web_pages(model, sampled(step))) == STEPS
    preset = resolve("scratch-owt10k")
    assert (preset.train.epochs, preset.optim.min_lr) == (1.0, 6e-4)  # the rate would change in a second epoch


def test_an_epoch_has_every_window_once() -> None:
    ids = torch.arange(8 * 6 + T + 1).numpy().astype("uint16")
    step = training("scratch-char", ids, {"model": {**SHAPE, "vocab_size": 100}, "train": {"batch": 8}})
    starts = torch.cat([inputs[:, 0] for ((inputs, _),) in sampled(step, 6)])
    assert sorted(starts.tolist()) == list(range(48))
    assert starts.tolist() != sorted(starts.tolist())


@pytest.mark.parametrize("preset", ["scratch-char", "scratch-owt10k"])
def test_initialization(preset: str) -> None:
    check_initialization(preset, ScratchGPT(96, 400), named, n_embd=96, vocab_size=400, **SHAPE)
