"""Train the programs that presets come from by their own code, and the presets beside them: are the updates the same?

    python bench/seeds.py [--smol-gpt DIR] [--smallgpt DIR] [--smollgpt DIR] [--toygpt DIR] [--scratch DIR]
        [--nanogpt DIR] [--own-way TEXT]

Each DIR is a git checkout of the program, and stays unchanged. Both sides have a small model without dropout, the same
initial weights and the same batches, in float32. Printed: the largest difference of
the loss of an update and of a weight at the end, and the number of parameters of the model in full size.

--own-way: 60 updates of smol-GPT on this text, each side by its own way: its own initial weights, dropout and random
batches, from three seeds. Their validation losses must agree.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import common
import seed_programs
import seed_scratch
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.exchange import names as exchange_names
from fledge.exchange.names import Names, to_ours
from fledge.exchange.torch_checkpoints import names as tables
from fledge.exchange.torch_checkpoints.contents import join_heads
from fledge.settings.complete import decide_settings
from fledge.settings.pipeline import resolve
from fledge.settings.presets import describe_preset
from fledge.tokenizers.create import default_gpt2_folders
from fledge.tokenizers.gpt2 import load_gpt2
from fledge.training.setup import NextToken, build_training
from fledge.training.step import TrainStep
from seed_code import SIZES, C, Program, T, V, load

MACHINE = Machine("cpu", "float32")
HEAD_STD = 0.7  # of the head's initial weights: confident and wrong, so that gradients are long enough to be clipped
PROGRAMS = {  # name of a checkout → what is run of it
    "smol-gpt": [seed_programs.smol_gpt],
    "smallgpt": [seed_programs.smallgpt],
    "smollgpt": [seed_programs.smollgpt],
    "toygpt": [seed_programs.toygpt],
    "scratch": [seed_scratch.scratch_char, seed_scratch.scratch_owt10k, seed_scratch.scratch_fineweb],
    "nanogpt": [seed_scratch.nanogpt],
}
TEXTS: dict[str, Callable[[], NDArray[np.uint16]]] = {
    "smallgpt-shakespeare": seed_programs.ids_of_smallgpt,
    "scratch-fineweb": seed_scratch.ids_of_fineweb,
    "scratch-owt10k": lambda: random_ids(8 * 50 + T + 1),  # an epoch of 50 updates
}


def random_ids(count: int) -> NDArray[np.uint16]:
    """Without the last token, which is toyGPT's padding here."""
    return np.random.default_rng(1).integers(0, V - 1, count).astype(np.uint16)


def training(preset: str, ids: NDArray[np.uint16], overrides: dict[str, dict[str, Any]]) -> TrainStep:
    """What `fledge train` builds from a preset."""
    train = {"device": "cpu", "dtype": "float32", "compile": False, **overrides.get("train", {})}
    settings = resolve(preset, {**overrides, "train": train})
    settings = decide_settings(settings, len(ids), 0, MACHINE)
    return build_training(settings, MACHINE, NextToken(settings, MACHINE, Split("train", [ids], [np.zeros(1)])))


def weights_of(program: Program, step: TrainStep) -> dict[str, Tensor]:
    """Theirs by our names: a copy."""
    found = {name: tensor.detach().clone() for name, tensor in program.model.state_dict().items()}
    table: Names = getattr(tables, program.table, None) or getattr(exchange_names, program.table)
    if program.table == "SCRATCH_EARLY":
        found, _ = join_heads(found, program.name)
    ours = to_ours(found, step.model.config, table)
    return {name: ours[name] for name, _ in step.model.named_parameters()}


def compare(program: Program) -> str:
    overrides = {**program.overrides, "model": {**SIZES, "dropout": 0.0, **program.overrides.get("model", {})}}
    step = training(program.preset, TEXTS.get(program.preset, lambda: random_ids(2000))(), overrides)
    first, updates = program.first_update, 60 if program.table == "SMALLGPT" else 50
    with torch.no_grad():
        head = [p for p in program.model.parameters() if p.shape == (V, C)][-1]
        head.mul_(HEAD_STD / head.std())
        for name, weight in weights_of(program, step).items():
            step.model.get_parameter(name).copy_(weight)
    numbers = range(first, first + updates)
    batches = [[(b.inputs, b.targets) for b in step.micro_batches(number)] for number in numbers]
    with contextlib.redirect_stdout(None):
        theirs = program.train(program.model, batches)
    ours = [step(number) for number in numbers]
    loss = max(abs(one.loss - two) for one, two in zip(ours, theirs, strict=True))
    norm = max(each.grad_norm for each in ours)
    ended = weights_of(program, step)
    weight = max(
        float((p.detach() - ended[name]).abs().max())
        for name, p in step.model.named_parameters()
        if not name.endswith("key.bias")  # adds the same to all scores of a query: its gradient is rounding error
    )
    listed = describe_preset(program.preset).parameters
    same = "=" if listed == program.parameters else f"but `fledge presets` says {listed:,}"
    return (
        f"| {program.name} | `{program.preset}` | {updates} | {theirs[0]:.3f} → {theirs[-1]:.3f} | {norm:.1f} |"
        f" {loss:.1e} | {weight:.1e} | {program.parameters:,} {same} | {program.note} |"
    )


ROWS, ACCUMULATED, UPDATES = 1, 2, 60  # of the runs by their own ways: sequences of a micro-batch, and micro-batches


def by_its_own_way(folder: Path, text: Path) -> str:
    """smol-GPT with all of its 22 million parameters; the first nine tenths of the text are trained on."""
    ids = np.array(load_gpt2(default_gpt2_folders()).encode(text.read_text(encoding="utf-8")), dtype=np.uint16)
    split = len(ids) * 9 // 10
    held_out = torch.from_numpy(ids[split:].astype(np.int64))
    model = load((folder / "model.py").read_text())
    config = seed_programs.smol_config(folder, batch_size=ROWS, grad_accum_steps=ACCUMULATED)
    theirs, ours = [], []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        net = model.GPT(config)
        seed_programs.smol_loop(folder, net, config, UPDATES, torch.from_numpy(ids[:split].astype(np.int64)))
        theirs.append(validation_loss(lambda rows, net=net: net(rows)[0], net, held_out))
        sizes = {"batch": ROWS * ACCUMULATED, "micro_batch": ROWS, "steps": 50_000, "seed": seed, "chunked_loss": False}
        torch.manual_seed(seed)
        step = training("smol-gpt-22m", ids[:split], {"train": sizes, "model": {"vocab_size": 50_257}})
        for number in range(UPDATES):
            step(number)
        ours.append(validation_loss(step.model, step.model, held_out))
        print(f"seed {seed}: validation loss {theirs[-1]:.4f} theirs, {ours[-1]:.4f} ours", flush=True)
    spread = max(map(statistics.stdev, (theirs, ours)))
    means = f"{statistics.mean(theirs):.4f} theirs, {statistics.mean(ours):.4f} ours"
    return f"mean: {means}; standard deviation of the seeds {spread:.4f}"


@torch.no_grad()
def validation_loss(logits: Callable[[Tensor], Tensor], net: nn.Module, ids: Tensor, windows: int = 64) -> float:
    net.eval()
    rows = ids.unfold(0, 197, 196)[:windows]
    losses = [F.cross_entropy(logits(row[None, :-1]).flatten(0, 1), row[1:]) for row in rows]
    return float(torch.stack(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("--own-way", type=Path, metavar="TEXT")
    args = parser.parse_args()
    print(common.machine(), common.versions("torch"), flush=True)
    print(
        "| program | preset | updates | its loss | longest gradient | largest difference of a loss | of a weight |"
        " parameters | |"
    )
    print("|---|---|--:|---|--:|--:|--:|---|---|", flush=True)
    for name, builders in PROGRAMS.items():
        folder = getattr(args, name.replace("-", "_"))
        for build in builders if folder else ():
            torch.manual_seed(0)
            print(compare(build(folder.resolve())), flush=True)
    if args.own_way and args.smol_gpt:
        print(by_its_own_way(args.smol_gpt.resolve(), args.own_way), flush=True)


if __name__ == "__main__":
    main()
