"""GRPO teaches a small model to add: from 40–60 % of held-out sums to at least 90 %, with three seeds.

    python bench/align_addition.py [--folder DIR] [--seeds 1 2 3] [--at-once 2] [--out docs/alignment]

1. base   half a million parameters, pretrained on the embedded corpus
2. sft    tuned on solved sums of the task "addition", and stopped early: the last checkpoint below 60 %
3. grpo   answers sums, and gets 1 for a right answer, else 0

Everything runs as `fledge train` and `fledge align`; the pretrained model is the same for all seeds. Accuracy: greedy
answers to 1,000 sums that no step trains on, fully right. `sampled`: answers to the prompts of training, drawn at
temperature 1. Two seeds run at a time, with a thread each. Writes addition.csv and addition.png, prints a table, and
fails where a base is outside of 20–60 %, a run ends below 90 % or takes more than ten minutes.
"""

import argparse
import csv
import math
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch

from common import machine, versions
from fledge.alignment.config import RolloutConfig
from fledge.alignment.rollout import Generator, encode_prompts
from fledge.alignment.tasks.registry import find_task
from fledge.core.device import Machine
from fledge.inference.request import Sampling
from fledge.runs.run_folder import RunFolder, open_run
from fledge.tracking.sinks.csv import read_metrics

BASE_TOML = """
[data]
corpus = "python"
val = 0.01
[tokenizer]
kind = "bpe"
[model]
n_layer = 2
n_head = 4
n_embd = 128
context = 64
tied = true
[optim]
optimizer = "muon"
lr = 3e-3
min_lr = 0.0
warmup_steps = 20
schedule = "trapezoid"
cooldown = 0.5
[train]
steps = 500
batch = 16
device = "cpu"
dtype = "float32"
compile = false
sample_every = 0
eval_every = 0
"""
DECODER, HERE = "plain float32, 1 thread", Machine("cpu", "float32")
HELD_OUT, GOAL, BASE, MINUTES = 1000, 0.9, (0.2, 0.6), 10
CPU = ("--train.device", "cpu", "--train.dtype", "float32", "--train.compile", "false", "--train.sample_every", "0")
TASK = ("--data", "addition", "--align.examples", "30000", "--align.val", str(HELD_OUT))
# A high, constant learning rate: such a base has more to gain than one that has settled.
SFT = (
    *("--train.steps", "500", "--train.batch", "24", "--train.eval_every", "0", "--optim.optimizer", "muon"),
    *("--optim.lr", "3e-3", "--optim.min_lr", "3e-3", "--optim.schedule", "constant", "--optim.weight_decay", "0.1"),
)
CHECKPOINTS = ("--train.save_every", "20", "--train.keep_last", "30", "--train.history", "0")
GRPO = ("--train.steps", "600", "--train.eval_every", "50", "--rollout.max_tokens", "10")  # the rest is the preset
LOGGED = {
    "accuracy": "val/exact_match",
    "sampled": "rollout/reward",
    "entropy": "rollout/entropy",
    "length": "rollout/length",
    "dropped": "grpo/zero_variance_groups",
}


@dataclass(frozen=True)
class Row:
    """A logged step; nan where nothing was measured."""

    seed: int
    step: int
    accuracy: float
    sampled: float
    entropy: float
    length: float
    dropped: float


def fledge(*words: str, folder: Path, threads: int) -> float:
    """→ its seconds"""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "fledge", *words, "--runs", str(folder / "runs"), "--train.threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def train(seed: int, folder: Path, threads: int) -> tuple[list[Row], float]:
    """→ the curve of one seed, and the seconds of its GRPO run"""
    run = partial(fledge, folder=folder, threads=threads)
    common, sft, grpo = (*TASK, *CPU, "--train.seed", str(seed)), f"sft-{seed}", f"grpo-{seed}"
    tuned = run("align", "sft", "--init", "base", "--run", sft, *common, *SFT, *CHECKPOINTS)
    start = stopped_early(folder / "runs", sft)
    seconds = run("align", "grpo", "--init", start, "--run", grpo, *common, *GRPO)
    rows = read_rows(folder / "runs" / grpo, seed)
    measured = [row for row in rows if math.isfinite(row.accuracy)]
    first, last = measured[0].accuracy, measured[-1].accuracy
    error = math.sqrt(last * (1 - last) / HELD_OUT)
    words = f"seed {seed}   {start} {tuned:.0f} s: {first:.1%}   grpo {seconds:.0f} s: {last:.1%} ± {error:.1%}"
    print(f"{words}   sampled {rows[1].sampled:.1%} → {rows[-1].sampled:.1%}", flush=True)
    return rows, seconds


def stopped_early(runs: Path, name: str) -> str:
    """The last checkpoint before the accuracy passes BASE[1], with a margin for the error of the measurement."""
    found = ""
    for step in range(260, 501, 20):
        if accuracy(open_run(f"{name}@{step}", runs)) > BASE[1] - 0.02:
            break
        found = f"{name}@{step}"
    return found or f"{name}@260"


def accuracy(run: RunFolder) -> float:
    """Of greedy answers to the held-out sums."""
    model, tokenizer, template = run.load("cpu").model, run.tokenizer(), run.chat_template()
    if template is None:
        raise SystemExit("the run has no chat template")
    generate = Generator(
        RolloutConfig(max_tokens=10, slots=128, decoder=DECODER), HERE, tokenizer, template.stop_tokens
    )
    examples = find_task("addition").examples(0, HELD_OUT, "val")
    prompts = encode_prompts(examples, template, model.config.context - 9)
    answers = generate(model, [prompt.ids for prompt in prompts], [Sampling(temperature=0)] * len(prompts))
    return sum(a.text.strip() == p.target for a, p in zip(answers, prompts, strict=True)) / len(prompts)


def read_rows(run: Path, seed: int) -> list[Row]:
    table = read_metrics(RunFolder(run).folder)
    columns = [table[name] for name in ("step", *LOGGED.values())]
    return [Row(seed, int(step), *values) for step, *values in zip(*columns, strict=True)]


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
            writer.writerow({key: "" if cell == "nan" else cell for key, cell in cells.items()})


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "accuracy": f"held-out accuracy (greedy, n = {HELD_OUT:,})",
        "sampled": "reward in training (sampled)",
        "entropy": "entropy (nats per token)",
        "dropped": "groups without variance",
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 3.6))
    for axis, (panel, title) in zip(axes, panels.items(), strict=True):
        for seed in sorted({row.seed for row in rows}):
            points = [(row.step, getattr(row, panel)) for row in rows if row.seed == seed]
            points = [point for point in points if math.isfinite(point[1])]
            axis.plot(*zip(*points, strict=True), label=f"seed {seed}", marker="o" if panel == "accuracy" else "", ms=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(0, None if panel == "entropy" else 1)
        axis.grid(alpha=0.3)
    axes[0].axhline(GOAL, color="grey", linestyle="--", linewidth=1)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def check(rows: list[Row], seconds: dict[int, float]) -> list[str]:
    """The claims that do not hold."""
    failed = []
    for seed, took in seconds.items():
        curve = [row.accuracy for row in rows if row.seed == seed and math.isfinite(row.accuracy)]
        if not BASE[0] <= curve[0] <= BASE[1]:
            failed.append(f"seed {seed}: the base has {curve[0]:.1%}")
        if curve[-1] < GOAL:
            failed.append(f"seed {seed}: the accuracy is {curve[-1]:.1%}")
        if took > 60 * MINUTES:
            failed.append(f"seed {seed}: GRPO took {took:.0f} s")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: a temporary folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--at-once", type=int, default=2, help="seeds that run at the same time, with a thread each")
    parser.add_argument("--out", type=Path, default=Path("docs/alignment"))
    args = parser.parse_args()
    print(machine(), "|", versions("torch"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "runs" / "base").exists():
            (folder / "base.toml").write_text(BASE_TOML)
            seconds = fledge("train", str(folder / "base.toml"), "--run", "base", folder=folder, threads=1)
            print(f"base   {seconds:.0f} s", flush=True)
        torch.set_num_threads(1)
        with ThreadPoolExecutor(args.at_once) as pool:
            found = list(pool.map(lambda seed: train(seed, folder, 1), args.seeds))
    rows = [row for curve, _ in found for row in curve]
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, args.out / "addition.csv")
    draw(rows, args.out / "addition.png")
    if failed := check(rows, {seed: took for seed, (_, took) in zip(args.seeds, found, strict=True)}):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
