"""SFT against pretraining: tokens per second of a step on packed conversations, and on plain rows of the same shape.

    python bench/sft.py [--dtypes float32 bfloat16] [--rounds 25] [--compile] [--batch 8]

The model of the preset `demo` (3.7M parameters, context 256), the same tokens, the two in turns in one process. Both
must learn, and the loss of a packed batch must be that of its conversations one by one.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch

from common import machine, versions
from fledge.alignment.sft import answer_objective
from fledge.batches.loader import Batch
from fledge.batches.packing import Conversation, PackedReader
from fledge.core.config import build
from fledge.core.device import DTYPES, Machine, has_bf16_units
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.training.attention_speed import fastest_attention
from fledge.training.config import Settings
from fledge.training.objective import Objective, next_token_objective
from fledge.training.setup import build_training, loaded_batches
from fledge.training.step import MicroBatches, TrainStep

MODEL = {"n_layer": 4, "n_head": 4, "n_embd": 256, "context": 256, "vocab_size": 1024}
CONVERSATIONS, SHORTEST, LONGEST = 400, 20, 160  # tokens
WARM_UP = 3  # steps of each that are not counted
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
MOST_LOSS_LEFT = 0.95  # after the last step, of the loss before the first


@dataclass(frozen=True)
class Bench:
    """A method that trains on what `read` gives."""

    settings: Settings
    machine: Machine
    loss: Objective
    read: Callable[[int, int], Batch]

    def transform(self, model: GPT) -> GPT:
        return model

    def objective(self, *, compile: bool) -> Objective:  # noqa: ARG002
        return self.loss

    def batches(self, model: GPT, objective: Objective) -> MicroBatches:
        return loaded_batches(self.settings, self.machine, self.read, model, objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="*", choices=list(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(machine(), torch.cuda.get_device_name() if device == "cuda" else "", "|", versions("torch"))
    for dtype in args.dtypes:
        if dtype == "bfloat16" and not has_bf16_units(device):
            print(f"bfloat16: this {device} has no bf16 units; not measured")
            continue
        compare(Machine(device, dtype), args.batch, args.rounds, compile=args.compile)


def compare(here: Machine, batch: int, rounds: int, *, compile: bool) -> None:
    train = {"steps": 1000, "batch": batch, "device": here.device, "dtype": here.dtype, "compile": compile}
    settings = build(Settings, {"model": MODEL, "optim": {"lr": 1e-3, "warmup_steps": 0}, "train": train})
    model = replace(settings.model, attention=fastest_attention(settings.model, batch, here))
    settings = replace(settings, model=model)
    reader = PackedReader(make_conversations(), model.context, seed=1)
    methods = {
        "SFT": Bench(settings, here, answer_objective(here, compile=compile), reader),
        "pretraining": Bench(settings, here, next_token_objective(here, compile=compile), plain_rows(reader)),
    }
    steps = {name: build_training(settings, here, method) for name, method in methods.items()}
    check_packed_loss(steps["SFT"], reader, here)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + WARM_UP):
        for name, step in steps.items():
            begun = time.perf_counter()
            losses[name].append(step(number).loss)  # waits for the GPU
            seconds[name] += [time.perf_counter() - begun] * (number >= WARM_UP)
    tokens = batch * model.context
    answers = float((reader(0, batch).targets != IGNORE).float().mean())
    print(
        f"{here.dtype}{', compiled' * compile}, attention {model.attention}: rows {reader.filled:.1%} full,"
        f" {answers:.0%} of the places are answers"
    )
    for name, spent in seconds.items():
        first, last = losses[name][0], losses[name][-1]
        if last > MOST_LOSS_LEFT * first:
            raise SystemExit(f"{name} did not learn: loss {first:.3f} → {last:.3f}")
        print(f"  {name:<12} {tokens / median(spent):10,.0f} tokens/s   loss {first:.3f} → {last:.3f}", flush=True)
    ratios = [theirs / ours for ours, theirs in zip(seconds["SFT"], seconds["pretraining"], strict=True)]  # of a turn
    print(f"  SFT reaches {median(ratios):.1%} of pretraining", flush=True)


def make_conversations() -> list[Conversation]:
    """Sequences that count in steps, so that there is something to learn; the second half of each is the answer."""
    chance, found = np.random.default_rng(0), []
    for _ in range(CONVERSATIONS):
        length, stride = chance.integers(SHORTEST, LONGEST), chance.integers(1, 4)
        ids = (chance.integers(MODEL["vocab_size"]) + stride * np.arange(length + 1)) % MODEL["vocab_size"]
        found.append(Conversation(ids.astype(np.int32), np.arange(length + 1) > length // 2))
    return found


def plain_rows(reader: PackedReader) -> Callable[[int, int], Batch]:
    """The same inputs, each with the next one as its target, as a window of a text has."""

    def read(first: int, count: int) -> Batch:
        inputs = reader(first, count).inputs
        return Batch(inputs, inputs.roll(-1, dims=1))

    return read


def check_packed_loss(step: TrainStep, reader: PackedReader, here: Machine) -> None:
    """Against its conversations, each alone in a row."""
    batch, numbers = reader.batch([0, 1]), [number for row in reader.rows[:2] for number in row]
    alone = [PackedReader([reader.conversations[number]], reader.context, 0).batch([0]) for number in numbers]
    with torch.no_grad():
        packed = step.loss(batch.to(here.device)).total.item()
        separate = sum(step.loss(each.to(here.device)).total.item() for each in alone)
    if not abs(packed / separate - 1) < TOLERANCE[here.dtype]:
        raise SystemExit(f"the loss of packed conversations is {packed}, and {separate} of the same one by one")


if __name__ == "__main__":
    main()
