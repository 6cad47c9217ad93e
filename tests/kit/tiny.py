"""The smallest text, model and training that there can be, and what must remain of every run of them."""

import csv
import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fledge.datasets.shards import Split

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "it", "sleeps", "until"]
# The parts of a GPT-2 that are not the default: learned positions, LayerNorm, biases.
GPT2_PARTS: dict[str, Any] = {
    "positions": "learned",
    "norm": "layernorm",
    **dict.fromkeys(("norm_bias", "qkv_bias", "output_bias", "mlp_bias"), True),
}
TIMED = {"train/step_seconds", "train/tokens_per_second", "train/mfu", "val/seconds"}


def write_text(folder: Path, seed: int = 0) -> Path:
    """A folder of a few small text files."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    for number in range(4):
        lines = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(40)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


TINY_TOML = """
[data]
val = 0.1
[tokenizer]
kind = "char"
[model]
n_layer = 1
n_head = 2
n_embd = 16
context = 16
[optim]
lr = 0.01
min_lr = 0.001
warmup_steps = 2
[train]
steps = 12
batch = 4
device = "cpu"
dtype = "float32"
compile = false
log_every = 1
eval_every = 4
sample_every = 6
save_every = 3
keep_last = 2
save_seconds = 0
history = 0
[track]
sample_tokens = 12
"""


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.01)


def document_starts(split: Split) -> list[int]:
    """The positions where documents begin; each document must have at least one token."""
    numbers = [split.documents_in(position, 1)[0] for position in range(len(split))]
    return [at for at, number in enumerate(numbers) if at == 0 or number != numbers[at - 1]]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def remains(run: Path) -> dict[str, Any]:
    """Everything of a run that must not depend on how it came about."""
    newest = last_checkpoint(run)
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            {k: v for k, v in row.items() if k not in TIMED and not k.startswith("time/")}
            for row in csv.DictReader(file)
        ]
    state = json.loads((newest / "state.json").read_text())
    return {
        "newest": newest.name,
        "model": digest(newest / "model.safetensors"),
        "optimizer": digest(newest / "optimizer.safetensors"),
        "rng": state["rng"],
        "metrics": rows,
        "samples": (run / "samples.md").read_text(),
    }


def keep_columns(run: Path, *names: str) -> None:
    """Fewer metrics make fewer figures: each takes a third of a second."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{name: row[name] for name in names} for row in csv.DictReader(file)]
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
