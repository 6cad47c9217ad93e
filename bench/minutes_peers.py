"""One peer of minutes.py, trained for so many seconds by its own rules, in a process of its own.

    python bench/minutes_peers.py '{"library": "nanochat", "checkout": …, "dataset": …, "seconds_of_steps": 240, …}'

Model and optimizer are imported from a checkout. The rates, the schedules and their defaults are executed from its
training script (scripts/base_train.py, train.py): nothing of theirs is kept here. Both count in steps, which the time
decides here: `iterations` is how many are expected, from steps measured before the clock starts, and the step that a
schedule is asked for is the share of the time that has passed × `iterations`. So every schedule ends with the time.

Prints one JSON document.
"""

import argparse
import ast
import contextlib
import copy
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # before fledge, which makes OpenMP threads wait differently: the peers get torch's own way
from torch import Tensor, nn

from seed_code import count, load, run_parts

MEASURED_SECONDS, MEASURED_STEPS = 5.0, 3  # before the clock starts
EVALUATED_TOKENS = 4096  # of a batch
UNTRAINED_WINDOWS = 64
UNTRAINED_ERROR = 0.03  # an untrained model gives all tokens nearly the same probability
LEARNED = 0.99  # share of an untrained model's bits per byte
Loss = Callable[[Tensor, Tensor], Tensor]  # inputs and targets [B, T] → mean nats; targets of -1 do not count
Update = Callable[[int], None]  # the step that schedules are asked for → an update with the gradients that are there


@dataclass(frozen=True)
class Peer:
    model: nn.Module
    loss: Loss
    optimizer: Callable[[int], Update]  # iterations → a fresh optimizer and schedule for the model


def nanochat(spec: dict[str, Any], vocab_size: int) -> Peer:
    """As scripts/base_train.py builds it: width, heads, rates and weight decay follow from depth and batch.

    The warm-up of 40 steps is a tenth of the steps where that is less.
    """
    checkout = Path(spec["checkout"])
    sys.path.insert(0, str(checkout))
    os.environ["NANOCHAT_DTYPE"] = spec["dtype"]
    from nanochat.gpt import GPT, GPTConfig

    source = (checkout / "scripts" / "base_train.py").read_text()
    words = {"depth": spec["depth"], "max-seq-len": spec["context"], "device-batch-size": spec["batch"]}
    words |= {"total-batch-size": spec["batch"] * spec["context"], "head-dim": spec["head_dim"], "window-pattern": "L"}
    args = default_arguments(source, words)
    warmup = args.warmup_steps
    rules: dict[str, Any] = {"args": args, "torch": torch, "math": math, "GPT": GPT, "GPTConfig": GPTConfig}
    rules |= {"vocab_size": vocab_size}
    run_parts(source, ("build_model_meta", "get_scaling_params"), rules)
    model = rules["build_model_meta"](args.depth)
    model.to_empty(device="cpu")
    model.init_weights()
    rules["model"] = model
    run_parts(source, ("num_scaling_params", "target_tokens", "d12_ref", "D_REF", "B_REF"), rules)
    run_parts(source, ("total_batch_size", "batch_ratio"), rules)
    rules["batch_lr_scale"] = rules["batch_ratio"] ** 0.5  # in an `if` of the script

    def optimizer(iterations: int) -> Update:
        rules["num_iterations"] = iterations
        args.warmup_steps = min(warmup, max(1, iterations // 10))
        schedules = ("get_lr_multiplier", "get_muon_momentum", "get_weight_decay")
        run_parts(source, ("weight_decay_scaled", "optimizer", *schedules), rules)

        def update(step: int) -> None:
            for group in rules["optimizer"].param_groups:
                group["lr"] = group["initial_lr"] * rules["get_lr_multiplier"](step)
                if group["kind"] == "muon":
                    group["momentum"] = rules["get_muon_momentum"](step)
                    group["weight_decay"] = rules["get_weight_decay"](step)
            rules["optimizer"].step()
            model.zero_grad(set_to_none=True)

        return update

    return Peer(model, torch.compile(model, dynamic=False) if spec["compile"] else model, optimizer)


def default_arguments(source: str, words: dict[str, Any]) -> argparse.Namespace:
    """What the parser of a script makes of these options, and of its defaults."""
    parts = [node for node in ast.parse(source).body if ast.unparse(node).startswith(("parser = ", "parser.add_"))]
    known: dict[str, Any] = {"argparse": argparse}
    exec(compile(ast.Module(parts, type_ignores=[]), "theirs", "exec"), known)  # noqa: S102
    return known["parser"].parse_args([f"--{name}={value}" for name, value in words.items()])


def nanogpt(spec: dict[str, Any], vocab_size: int) -> Peer:
    """The model of nanoGPT with the settings of train_shakespeare_char.py: AdamW, warm-up, cosine to a tenth, clipping.

    Without dropout and without torch.compile, as its README says for a CPU. The warm-up of 100 steps is a twentieth
    of the steps where that is less.
    """
    checkout = Path(spec["checkout"])
    theirs, source = load((checkout / "model.py").read_text()), (checkout / "train.py").read_text()
    rules: dict[str, Any] = {"math": math}
    run_parts(source, ("weight_decay", "beta1", "beta2", "grad_clip", "bias", "get_lr"), rules)
    exec((checkout / "config" / "train_shakespeare_char.py").read_text(), rules)  # noqa: S102
    rules |= {"learning_rate": spec["rate"], "min_lr": spec["rate"] / 10}
    warmup = rules["warmup_iters"]
    shape = {"n_layer": spec["depth"], "n_head": spec["heads"], "n_embd": spec["width"], "block_size": spec["context"]}
    model = theirs.GPT(theirs.GPTConfig(**shape, vocab_size=vocab_size, bias=rules["bias"], dropout=0.0))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec["dtype"] == "bfloat16"):
            return compiled(x, y)[1]

    compiled = torch.compile(model) if spec["compile"] else model

    def optimizer(iterations: int) -> Update:
        rules.update(lr_decay_iters=iterations, warmup_iters=min(warmup, max(1, iterations // 20)))
        adamw = model.configure_optimizers(
            rules["weight_decay"], rules["learning_rate"], (rules["beta1"], rules["beta2"]), "cpu"
        )

        def update(step: int) -> None:
            for group in adamw.param_groups:
                group["lr"] = rules["get_lr"](step)
            nn.utils.clip_grad_norm_(model.parameters(), rules["grad_clip"])
            adamw.step()
            adamw.zero_grad(set_to_none=True)

        return update

    return Peer(model, loss, optimizer)


LIBRARIES = {"nanochat": nanochat, "nanogpt": nanogpt}


def train(spec: dict[str, Any]) -> dict[str, Any]:
    from fledge.core.device import choose_machine
    from fledge.core.threads import LoadMeter
    from fledge.datasets.shards import open_dataset
    from fledge.tokenizers.base import byte_lengths

    dataset = open_dataset(Path(spec["dataset"]))
    ids, val = (read_ids(dataset.split(name)) for name in ("train", "val"))
    lengths, context = byte_lengths(dataset.tokenizer), spec["context"]
    spec = {**spec, "dtype": choose_machine("cpu").dtype if spec["dtype"] == "auto" else spec["dtype"]}
    torch.manual_seed(spec["seed"])
    peer = LIBRARIES[spec["library"]](spec, dataset.tokenizer.vocab_size)
    beginning = val[: UNTRAINED_WINDOWS * context + 1]
    check_untrained(bits_per_byte(peer.loss, beginning, lengths, context), beginning, lengths, peer)

    windows = torch.Generator().manual_seed(spec["seed"])
    initial = copy.deepcopy(peer.model.state_dict())
    step_seconds = measure_step(peer, ids, spec, windows)
    peer.model.load_state_dict(initial)
    meter = LoadMeter()
    found = run_steps(peer, ids, spec, windows, step_seconds)
    found |= {"expected_step_seconds": step_seconds, "other_load": meter.read()}
    begun = time.perf_counter()
    found["bits_per_byte"] = bits_per_byte(peer.loss, val, lengths, context)
    found |= {"evaluation_seconds": time.perf_counter() - begun, "parameters": count(peer.model)}
    found |= {"dtype": spec["dtype"], "threads": torch.get_num_threads(), "val_bytes": int(lengths[val].sum())}
    check_trained(found, lengths, val)
    return found


def read_ids(split: Any) -> Tensor:
    return torch.from_numpy(split.read(0, len(split)))


def draw(ids: Tensor, spec: dict[str, Any], windows: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows, as nanoGPT draws them: inputs and targets [B, T]."""
    starts = torch.randint(len(ids) - spec["context"], (spec["batch"],), generator=windows)
    rows = torch.stack([ids[start : start + spec["context"] + 1] for start in starts.tolist()])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def train_step(peer: Peer, update: Update, batch: tuple[Tensor, Tensor], step: int) -> float:
    loss = peer.loss(*batch)
    loss.backward()
    update(step)
    return float(loss.detach())


def run_steps(
    peer: Peer, ids: Tensor, spec: dict[str, Any], windows: torch.Generator, step_seconds: float
) -> dict[str, Any]:
    """Train for the seconds of the spec; the end is within half a step of them."""
    wanted = spec["seconds_of_steps"]
    iterations = max(2, round(wanted / step_seconds))
    update = peer.optimizer(iterations)
    losses, elapsed, begun = [], 0.0, time.perf_counter()
    while elapsed * (1 + 0.5 / max(1, len(losses))) < wanted:
        batch = draw(ids, spec, windows)
        losses.append(train_step(peer, update, batch, int(elapsed / wanted * iterations)))
        elapsed = time.perf_counter() - begun
    return {"seconds": elapsed, "steps": len(losses), "losses": losses[:: len(losses) // 50 + 1]}


def measure_step(peer: Peer, ids: Tensor, spec: dict[str, Any], windows: torch.Generator) -> float:
    """Median seconds of a step, with an optimizer that is thrown away; the first step is not counted."""
    update, seconds = peer.optimizer(1000), []
    end = time.perf_counter() + min(MEASURED_SECONDS, spec["seconds_of_steps"] / 4)
    while len(seconds) <= MEASURED_STEPS or time.perf_counter() < end:
        begun = time.perf_counter()
        train_step(peer, update, draw(ids, spec, windows), len(seconds))
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


@torch.no_grad()
def bits_per_byte(loss: Loss, ids: Tensor, lengths: np.ndarray, context: int) -> float:
    """Of every token but the first, once, in windows of the context side by side; as `fledge eval` counts them."""
    targets = len(ids) - 1
    rows = math.ceil(targets / context)
    x, y = torch.zeros(rows * context, dtype=torch.long), torch.full((rows * context,), -1)
    x[:targets], y[:targets] = ids[:-1], ids[1:]
    nats, size = 0.0, max(1, EVALUATED_TOKENS // context)
    for inputs, wanted in zip(x.view(rows, context).split(size), y.view(rows, context).split(size), strict=True):
        nats += float(loss(inputs, wanted)) * int((wanted >= 0).sum())
    return nats / math.log(2) / int(lengths[ids[1:]].sum())


def check_untrained(bits: float, ids: Tensor, lengths: np.ndarray, peer: Peer) -> None:
    """Exit unless the model knows nothing yet, and nothing in it is broken."""
    uniform = math.log2(len(lengths)) * (len(ids) - 1) / int(lengths[ids[1:]].sum())
    if not abs(bits / uniform - 1) < UNTRAINED_ERROR:
        raise SystemExit(f"untrained, it has {bits:.3f} bits per byte instead of {uniform:.3f}")
    if not all(p.isfinite().all() for p in peer.model.parameters()):
        raise SystemExit("weights that are not initialised")


def check_trained(found: dict[str, Any], lengths: np.ndarray, val: Tensor) -> None:
    """Exit unless all losses are finite, and it has learned."""
    uniform = math.log2(len(lengths)) * (len(val) - 1) / int(lengths[val[1:]].sum())
    found["untrained_bits_per_byte"] = uniform
    if not all(map(math.isfinite, [*found["losses"], found["bits_per_byte"]])):
        raise SystemExit(f"its losses are not finite: {found['losses']}")
    if not found["bits_per_byte"] < LEARNED * uniform:
        raise SystemExit(f"it does not learn: {uniform:.3f} → {found['bits_per_byte']:.3f} bits per byte")


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # both libraries print while they are built
        result = train(json.loads(sys.argv[1]))
    print(json.dumps(result))
