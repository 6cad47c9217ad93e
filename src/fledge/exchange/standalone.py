"""The program: learn from a text, or write one.

An ejected file (eject.py) begins here: it holds what is used below, what that uses, and so on, for one model. Left out
is what watches over a real run: validation, checkpoints, resuming, the exact order of the data, a cache of what was
read before.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fledge.datasets.config import DataConfig
from fledge.losses.cross_entropy import full_logits_loss
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.training.config import TrainConfig


def batches(ids: NDArray[Any]) -> Iterator[Tensor]:
    """Windows of the text that begin anywhere: inputs, and the one token more that makes them targets. [B, T + 1]"""
    context, plan = ModelConfig().context, TrainConfig()
    chance = np.random.default_rng(plan.seed)
    while True:
        starts = chance.integers(len(ids) - context, size=plan.batch)
        yield torch.from_numpy(np.stack([ids[start : start + context + 1] for start in starts]).astype(np.int64))


def train(model: GPT, data: Iterable[Tensor], steps: int) -> Iterator[float]:
    """Update after update, and the loss of each: nats per token."""
    plan, optim, device = TrainConfig(), OptimConfig(), model.embed.weight.device
    optimizer = build_optimizer(model, optim, torch.bfloat16 if device.type == "cuda" else torch.float32)
    if ModelConfig().dropout:
        torch.manual_seed(plan.seed)  # dropout draws from torch's own generator
    model.train()
    for step, tokens in zip(range(steps), data, strict=False):
        losses = []
        for rows in tokens.to(device).split(plan.micro_batch or plan.batch):
            inputs, targets = rows[:, :-1], rows[:, 1:]  # [B, T]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = model.forward_loss(inputs, targets, full_logits_loss) / tokens[:, 1:].numel()
            loss.backward()  # gradients of micro-batches add up
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.grad_clip or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * lr_multiplier(optim, step, steps)
        optimizer.step()
        optimizer.zero_grad()
        yield float(sum(losses))


@torch.inference_mode()
def generate(model: GPT, ids: list[int], count: int, temperature: float, seed: int) -> list[int]:
    """The tokens that follow; at temperature 0 always the best one."""
    generator = torch.Generator().manual_seed(seed)
    context = model.config.context
    seen, added = ids[-context:], []
    model.eval()
    for _ in range(count):
        if len(seen) > context:
            seen = seen[-(context // 2 or 1) :]  # the older half is forgotten
        scores = model(torch.tensor([seen], device=model.embed.weight.device))[0, -1].float().cpu()  # [V]
        chances = (scores / (temperature or 1.0)).softmax(-1)
        token = int(torch.multinomial(chances, 1, generator=generator) if temperature else scores.argmax())
        seen.append(token)
        added.append(token)
    return added


def updates(tokens: int) -> int:
    """How many there are in so many passes over the text."""
    plan, data, shape = TrainConfig(), DataConfig(), ModelConfig()
    windows = max(1, (tokens - 1 - shape.context) // (data.stride or shape.context))
    return max(1, round((plan.epochs or 1) * windows / plan.batch))


def read(file: Path, tokenizer: str) -> NDArray[Any]:
    """A file of ids, or the ids of a text."""
    if file.suffix == ".npy":
        return np.load(file, mmap_mode="r", allow_pickle=False)
    if file.suffix == ".tokens":  # fledge's own: a header tells how many bytes an id has, and how many ids there are
        _, width, count = map(int, np.fromfile(file, dtype="<u8", count=3))
        return np.memmap(file, dtype=f"<u{width}", mode="r", offset=64, shape=(count,))
    from tokenizers import Tokenizer

    cut = Tokenizer.from_file(tokenizer).encode(file.read_text(encoding="utf-8"), add_special_tokens=False)
    return np.array(cut.ids)


def main() -> None:
    from safetensors.torch import load_model, save_model

    parser = argparse.ArgumentParser()
    parser.add_argument("act", choices=["train", "generate"])
    parser.add_argument("text", nargs="?", type=Path, help="train: a text, or ids (.npy, or fledge's .tokens)")
    parser.add_argument("--weights", help="a model.safetensors to begin with (default: a new model)")
    parser.add_argument("--tokenizer", default="tokenizer.json", help="how text is cut (default: tokenizer.json)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="train: how many updates")
    parser.add_argument("--out", default="trained.safetensors", help="train: where the weights go")
    parser.add_argument("--prompt", default="\n", help="generate: how the text begins")
    parser.add_argument("--prompt-ids", type=int, nargs="+", help="generate: the same, without a tokenizer")
    parser.add_argument("--tokens", type=int, default=200, help="generate: how many")
    parser.add_argument("--temperature", type=float, default=0.8, help="generate: 0 takes the best token always")
    parser.add_argument("--seed", type=int, default=0, help="generate: another seed, another text")
    args, plan = parser.parse_args(), TrainConfig()
    if args.act == "train" and args.text is None:
        parser.error("say what to learn from")

    model = build(ModelConfig(), plan.seed)
    if args.weights:
        load_model(model, args.weights)
    model.to(args.device)
    if args.act == "train":
        ids = read(args.text, args.tokenizer)
        if len(ids) <= model.config.context:
            parser.error(f"{args.text} has {len(ids)} tokens: too few for a context of {model.config.context}")
        steps = args.steps or (plan.steps if plan.epochs is None else updates(len(ids)))
        for step, loss in enumerate(train(model, batches(ids), steps), start=1):
            print(f"step {step:,} of {steps:,}: loss {loss:.4f}", flush=True)
        save_model(model, args.out)
        return
    options = (args.tokens, args.temperature, args.seed)
    if args.prompt_ids:
        print(args.prompt_ids + generate(model, args.prompt_ids, *options))
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(args.tokenizer)
    prompt = tokenizer.encode(args.prompt, add_special_tokens=False).ids
    print(tokenizer.decode(prompt + generate(model, prompt, *options)))
