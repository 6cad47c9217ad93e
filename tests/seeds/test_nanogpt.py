"""nanoGPT, and the large run of GPT from scratch, which has its model with biases: the presets make their updates.

Pre-norm blocks, one matrix for embedding and head, smaller initial weights where a branch ends, decay of matrices only.
They differ in the warmup, the order of windows, dropout, and in the shape of GELU.
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
    check_dropout,
    check_initialization,
    check_random_windows,
    check_updates,
    copy_weights,
    cosine,
    mean_loss,
    random_ids,
    sampled,
    set_rate,
    training,
)

WARMUP, HEADS = 5, 2
NANOGPT, FINEWEB = ["nanogpt-shakespeare-char", "nanogpt-shakespeare-cpu"], "scratch-fineweb"
SIZES = {"train": {"steps": STEPS, "batch": 4, "micro_batch": 2}, "optim": {"warmup_steps": WARMUP}}


class Block(nn.Module):
    def __init__(self, width: int, bias: bool, dropout: float, gelu: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.up, self.down = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)
        self.gelu, self.drop = nn.GELU(gelu), nn.Dropout(dropout)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        return self.drop(self.out((self.drop(weights) @ v).transpose(1, 2).flatten(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.drop(self.down(self.gelu(self.up(self.norm2(x)))))


class NanoGPT(nn.Module):
    def __init__(
        self, width: int = C, vocabulary: int = V, bias: bool = False, dropout: float = 0.0, gelu: str = "none"
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(T, width)
        self.blocks = nn.ModuleList(Block(width, bias, dropout, gelu) for _ in range(2))
        self.norm, self.drop = nn.LayerNorm(width, bias=bias), nn.Dropout(dropout)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.01 if ".out." in name or ".down." in name else 0.02)  # 0.02 / √(2 · 2)
            elif ".norm" not in name and not name.startswith("norm"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.drop(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


def named(model: NanoGPT) -> dict[str, Tensor]:
    modules: dict[str, nn.Module] = {"embed": model.tokens, "positions": model.places, "norm": model.norm}
    found = {}
    for n, block in enumerate(model.blocks):
        ours = {"attention_norm": block.norm1, "mlp_norm": block.norm2, "mlp.up": block.up, "mlp.down": block.down}
        modules |= {f"blocks.{n}.{name}": part for name, part in {**ours, "attention.output": block.out}.items()}
        for kind, joined in block.qkv.named_parameters():
            for name, weight in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                found[f"blocks.{n}.attention.{name}.{kind}"] = weight
    return found | {
        f"{name}.{kind}": weight for name, part in modules.items() for kind, weight in part.named_parameters()
    }


def updates(
    model: NanoGPT, batches: Iterable[list[Rows]], warmed: list[float], peak: float, beta2: float
) -> Iterator[tuple[float, float]]:
    """`warmed`: the share of the peak in each step of the warmup. The final rate is a tenth of the peak."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, beta2))
    for step, micro_batches in enumerate(batches):
        ended = cosine(step - WARMUP, STEPS - WARMUP, peak, peak / 10)
        rate = peak * warmed[step] if step < WARMUP else ended
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


@pytest.mark.parametrize("preset", NANOGPT)
def test_updates_of_nanogpt(preset: str) -> None:
    step, model = training(preset, random_ids(700), SIZES), NanoGPT()
    warmed = [(step + 1) / (WARMUP + 1) for step in range(WARMUP)]
    assert check_updates(step, model, named, updates(model, sampled(step), warmed, 1e-3, 0.99)) == STEPS


def test_updates_of_the_large_run_from_scratch() -> None:
    """Its windows are read in order: a pass of 50 updates."""
    ids = random_ids(4 * STEPS * T + 1)
    step, model = training(FINEWEB, ids, SIZES), NanoGPT(bias=True, gelu="tanh")
    windows = torch.from_numpy(ids.astype("int64")).unfold(0, T + 1, T)
    batches = [[(rows[:, :-1], rows[:, 1:]) for rows in batch.split(2)] for batch in windows.split(4)]
    warmed = [(step + 1) / WARMUP for step in range(WARMUP)]
    assert check_updates(step, model, named, updates(model, batches, warmed, 6e-4, 0.95)) == STEPS


@pytest.mark.parametrize(("preset", "bias", "gelu"), [(NANOGPT[0], False, "none"), (FINEWEB, True, "tanh")])
def test_shape_of_gelu(preset: str, bias: bool, gelu: str) -> None:
    """The two shapes differ by less than the tolerance of the updates: here the numbers are large."""
    model, ours = NanoGPT(bias=bias, gelu=gelu), training(preset, random_ids(400), SIZES).model
    copy_weights(named(model), ours)
    x, block = 50 * torch.randn(40, C), model.blocks[0]
    torch.testing.assert_close(ours.blocks[0].mlp(x), block.down(block.gelu(block.up(x))), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("preset", NANOGPT)
def test_windows_of_nanogpt_begin_anywhere_and_repeat(preset: str) -> None:
    check_random_windows(preset)


def test_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    check_dropout(NANOGPT[0], monkeypatch, NanoGPT(dropout=0.2), named)
    assert resolve(NANOGPT[1]).model.dropout == resolve(FINEWEB).model.dropout == 0


@pytest.mark.parametrize(("preset", "bias"), [(NANOGPT[0], False), (FINEWEB, True)])
def test_initialization(preset: str, bias: bool) -> None:
    check_initialization(preset, NanoGPT(96, 400, bias), named, n_embd=96, vocab_size=400)
