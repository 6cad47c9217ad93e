"""The program: `train` learns from a text, `generate` writes one.

An ejected file (eject.py) begins here: it holds what is used below, what that uses, and so on, for one model. It
leaves out what watches over a real run: validation, checkpoints, resuming, the exact order of the data.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fledge.base.machine import Machine
from fledge.batches.loader import Batch
from fledge.datasets.config import DataConfig
from fledge.generate.engine import generate
from fledge.generate.sampling import Greedy, Strategy, Temperature, TopK
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import multiplier
from fledge.train.config import TrainConfig
from fledge.train.parallel import LossModel
from fledge.train.step import Stepper

Ids = NDArray[Any]


@dataclass(frozen=True)
class Windows:
    """Update number → its micro-batches: windows that begin anywhere in the text, the same ones whenever it is asked."""

    ids: Ids
    context: int
    machine: Machine

    def __call__(self, step: int) -> list[Batch]:
        plan = TrainConfig()
        chance = np.random.default_rng((plan.seed, step))
        starts = chance.integers(len(self.ids) - self.context, size=plan.batch)
        rows = np.stack([self.ids[start : start + self.context + 1] for start in starts])  # [B, T + 1]
        tokens = torch.from_numpy(rows.astype(np.int64)).to(self.machine.device)
        return [Batch(piece[:, :-1], piece[:, 1:]) for piece in tokens.split(plan.micro_batch or plan.batch)]


def updates(tokens: int) -> int:
    """How many updates the whole training has."""
    plan, data, shape = TrainConfig(), DataConfig(), ModelConfig()
    if plan.epochs is not None:
        windows = (tokens - 1) // (data.stride or shape.context)
        return max(1, round(plan.epochs * windows / plan.batch))
    return plan.steps


def train(model: GPT, ids: Ids, steps: int, machine: Machine) -> None:
    plan, optim = TrainConfig(), OptimConfig()
    torch.manual_seed(plan.seed)  # dropout draws from torch's own generator
    stepper = Stepper(
        model=model,
        loss=LossModel(model, machine),
        optimizer=build_optimizer(model, optim, machine),
        batches=Windows(ids, model.config.context, machine),
        multiplier=partial(multiplier, optim, steps=steps),
        peak=optim.lr,
        clip=plan.clip,
    )
    for step in range(steps):
        result = stepper(step)
        if result.step % 10 == 0 or result.step == steps:
            speed = result.tokens / result.seconds
            print(
                f"step {result.step:,} of {steps:,}: loss {result.loss:.4f}, {speed:,.0f} tokens a second", flush=True
            )


def load(weights: Path | None) -> GPT:
    """Weights from a file, or new ones."""
    from safetensors.torch import load_model

    if weights is None:
        return build(ModelConfig(), TrainConfig().seed)
    model = GPT(ModelConfig())
    load_model(model, weights)
    return model


def save(model: GPT, file: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(file))


def open_tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def read_ids(file: Path, tokenizer: Path | None) -> Ids:
    """The ids in a file of ids, or those of a text."""
    if file.suffix == ".npy":
        return np.load(file, mmap_mode="r")
    if file.suffix == ".bin":  # nanoGPT's
        return np.memmap(file, dtype=np.uint16, mode="r")
    if file.suffix == ".tokens":  # fledge's: a header says how many bytes an id has, and how many ids there are
        _, width, count = np.fromfile(file, dtype="<u8", count=3)
        return np.memmap(file, dtype=f"<u{width}", mode="r", offset=64, shape=(int(count),))
    if tokenizer is None:
        raise SystemExit(f"{file} is a text: say how to cut it, with --tokenizer tokenizer.json")
    return np.array(open_tokenizer(tokenizer).encode(file.read_text(encoding="utf-8"), add_special_tokens=False).ids)


def here() -> Machine:
    """A GPU where there is one."""
    if torch.cuda.is_available():
        return Machine("cuda", "bfloat16")
    return Machine("mps" if torch.backends.mps.is_available() else "cpu", "float32")


def learn(args: argparse.Namespace) -> None:
    ids, machine = read_ids(args.text, args.tokenizer), here()
    model = load(args.weights).to(machine.device)
    train(model, ids, args.steps or updates(len(ids)), machine)
    save(model, args.out)


def write(args: argparse.Namespace) -> None:
    machine = Machine(here().device, "float32")  # so that the same seed writes the same text everywhere
    model = load(args.weights).to(machine.device)
    row: list[Strategy] = [Temperature(args.temperature)] if args.temperature else [Greedy()]
    if args.top_k:
        row.append(TopK(args.top_k))
    if args.tokenizer is None:
        prompt = args.prompt_ids or [0]
    else:
        tokenizer = open_tokenizer(args.tokenizer)
        prompt = tokenizer.encode(args.prompt, add_special_tokens=False).ids
    ids = [
        int(token) for (token,) in generate(model, torch.tensor([prompt]), tuple(row), machine, args.tokens, args.seed)
    ]
    print(ids if args.tokenizer is None else tokenizer.decode(prompt + ids))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train this model, or let it write.")
    acts = parser.add_subparsers(required=True, metavar="train|generate")
    training = acts.add_parser("train", help="learn from a text")
    training.set_defaults(act=learn)
    training.add_argument("text", type=Path, help="a text, or ids: .npy, .bin (nanoGPT's), .tokens (fledge's)")
    training.add_argument("--steps", type=int, help="updates of the weights")
    training.add_argument("--weights", type=Path, help="a model.safetensors to begin with")
    training.add_argument("--out", type=Path, required=True, help="where the weights go")
    writing = acts.add_parser("generate", help="write a text")
    writing.set_defaults(act=write)
    writing.add_argument("--weights", type=Path, required=True, help="a model.safetensors")
    writing.add_argument("--prompt", default="", help="how the text begins")
    writing.add_argument("--prompt-ids", type=int, nargs="+", help="the same as ids")
    writing.add_argument("--tokens", type=int, default=300, help="how many to add")
    writing.add_argument("--temperature", type=float, default=0.8, help="0: always the best token")
    writing.add_argument("--top-k", type=int, help="choose among so many")
    writing.add_argument("--seed", type=int, default=0)
    for act in (training, writing):
        act.add_argument("--tokenizer", type=Path, help="a tokenizer.json")
    args = parser.parse_args()
    args.act(args)
