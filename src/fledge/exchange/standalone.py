"""The program: learn from a text, or write one.

An ejected file (eject.py) begins here: it holds what is used below, what that uses, and so on, for one model. Left out
is what watches over a real run: validation, checkpoints, resuming, the exact order of the data, a cache of what was
read before.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.base.machine import Machine
from fledge.datasets.config import DataConfig
from fledge.loss import summed_cross_entropy
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import multiplier
from fledge.train.config import TrainConfig

Ids = NDArray[Any]


def batches(ids: Ids) -> Iterator[Tensor]:
    """Windows of the text that begin anywhere: inputs, and the one token more that makes them targets. [B, T + 1]"""
    context, plan = ModelConfig().context, TrainConfig()
    chance = np.random.default_rng(plan.seed)
    while True:
        starts = chance.integers(len(ids) - context, size=plan.batch)
        yield torch.from_numpy(np.stack([ids[start : start + context + 1] for start in starts]).astype(np.int64))


def updates(tokens: int) -> int:
    """How many there are in a whole training."""
    plan, data, shape = TrainConfig(), DataConfig(), ModelConfig()
    if plan.epochs is not None:
        windows = (tokens - 1) // (data.stride or shape.context)
        return max(1, round(plan.epochs * windows / plan.batch))
    return plan.steps


def train(model: GPT, data: Iterable[Tensor], steps: int, machine: Machine) -> Iterator[float]:
    """Update after update, and the loss of each: nats per token."""
    plan, optim = TrainConfig(), OptimConfig()
    optimizer = build_optimizer(model, optim, machine)
    torch.manual_seed(plan.seed)  # dropout draws from torch's own generator
    model.train()
    for step, tokens in zip(range(steps), data, strict=False):
        total = torch.zeros((), device=machine.device)
        for rows in tokens.to(machine.device).split(plan.micro_batch or plan.batch):
            inputs, targets = rows[:, :-1], rows[:, 1:]  # [B, T]
            with machine.autocast():
                logits = model(inputs)
            loss = summed_cross_entropy(logits, targets) / tokens[:, 1:].numel()
            loss.backward()  # gradients of micro-batches add up
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * multiplier(optim, step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield float(total)


@torch.inference_mode()
def generate(model: GPT, ids: list[int], temperature: float, top_k: int | None, seed: int) -> Iterator[int]:
    """The tokens that follow, without end. At temperature 0 always the best one."""
    generator = torch.Generator().manual_seed(seed)
    context = model.config.context
    model.eval()
    seen = ids[-context:]
    while True:
        if len(seen) > context:
            seen = seen[-(context // 2 or 1) :]  # the older half is forgotten
        scores = model(torch.tensor([seen], device=model.embed.weight.device))[0, -1].float().cpu()  # [V]
        if top_k is not None:
            scores[scores < scores.topk(top_k).values[-1]] = float("-inf")
        if temperature == 0:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator))
        seen.append(token)
        yield token


def here() -> Machine:
    """A GPU where there is one."""
    if torch.cuda.is_available():
        return Machine("cuda", "bfloat16")
    return Machine("mps" if torch.backends.mps.is_available() else "cpu", "float32")


def load(weights: Path | None) -> GPT:
    """The model of a file, or a new one."""
    from safetensors.torch import load_model

    model = build(ModelConfig(), TrainConfig().seed)
    if weights is not None:
        load_model(model, weights)
    return model.to(here().device)


def encode(text: str, tokenizer: Any) -> list[int]:
    if tokenizer is None:
        raise SystemExit("text is read and written with --tokenizer tokenizer.json")
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def read(file: Path, tokenizer: Any) -> Ids:
    """Ids from a file of ids, or of a text."""
    if file.suffix == ".npy":
        return np.load(file, mmap_mode="r")
    if file.suffix == ".tokens":  # fledge's own: a header tells how many bytes an id has, and how many ids there are
        _, width, count = map(int, np.fromfile(file, dtype="<u8", count=3))
        return np.memmap(file, dtype=f"<u{width}", mode="r", offset=64, shape=(count,))
    return np.array(encode(file.read_text(encoding="utf-8"), tokenizer))


def learn(args: argparse.Namespace, tokenizer: Any) -> None:
    from safetensors.torch import save_model

    ids, model = read(args.text, tokenizer), load(args.weights)
    steps = args.steps or updates(len(ids))
    for step, loss in enumerate(train(model, batches(ids), steps, here()), start=1):
        if step % 10 == 0 or step == steps:
            print(f"step {step:,} of {steps:,}: loss {loss:.4f}", flush=True)
    save_model(model, str(args.out))


def write(args: argparse.Namespace, tokenizer: Any) -> None:
    ids = args.prompt_ids or encode(args.prompt, tokenizer)
    following = generate(load(args.weights), ids, args.temperature, args.top_k, args.seed)
    ids += itertools.islice(following, args.tokens)
    print(tokenizer.decode(ids) if tokenizer else ids)


def main() -> None:
    parser = argparse.ArgumentParser()
    acts = parser.add_subparsers(required=True, metavar="train|generate")
    training = acts.add_parser("train", help="learn from a text")
    training.set_defaults(act=learn)
    training.add_argument("text", type=Path, help="a text, or a file of ids: .npy, or .tokens of fledge's")
    training.add_argument("--weights", type=Path, help="a model to go on from")
    training.add_argument("--steps", type=int, help="how many updates")
    training.add_argument("--out", type=Path, required=True, help="where the trained model goes")
    writing = acts.add_parser("generate", help="write a text")
    writing.set_defaults(act=write)
    writing.add_argument("--weights", type=Path, required=True, help="a model.safetensors")
    writing.add_argument("--prompt", default="\n", help="how the text begins")
    writing.add_argument("--prompt-ids", type=int, nargs="+", metavar="ID", help="the same in ids")
    writing.add_argument("--tokens", type=int, default=200, help="how many to add")
    writing.add_argument("--temperature", type=float, default=0.8, help="0: always the best token; 1: as it comes")
    writing.add_argument("--top-k", type=int, help="choose among the best K only")
    writing.add_argument("--seed", type=int, default=0, help="another seed, another text")
    for act in (training, writing):
        act.add_argument("--tokenizer", help="a tokenizer.json")
    args = parser.parse_args()
    args.act(args, args.tokenizer and open_tokenizer(args.tokenizer))


def open_tokenizer(file: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(file)
