"""PPO raises a held-out reward, and without a KL penalty a bad reward is hacked: both from one base, with three seeds.

    python bench/align_ppo.py [--folder DIR] [--seeds 1 2 3] [--out docs/alignment]

1. base      a small model, pretrained on the texts of the task "style", then tuned (SFT) on its answers of every kind
2. ppo       the reward is the rule of "style": short, polite, cheerful, on the topic. The KL coefficient keeps it near
3. hacking   the reward is "cheerful", the share of cheerful words, with --ppo.kl_coef 0. What the reward does not see
             gets worse: how many answers name their topic, the bits per byte that the base needs for them, and how
             many of their words are not repeated

Everything runs as `fledge train` and `fledge align`. Each checkpoint answers the held-out prompts again, with the same
seeds. Writes ppo.csv and ppo.png, prints a table, and fails where a claim does not hold: PPO's gain is less than three
standard errors, its divergence is above KL_BOUND, or hacking does not raise its reward and lower the quality.
"""

import argparse
import csv
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from common import machine, versions
from fledge.alignment.config import RolloutConfig
from fledge.alignment.on_policy import answer_logprobs
from fledge.alignment.rollout import Generator, encode_prompts, to_batch, width
from fledge.alignment.tasks.registry import find_task
from fledge.alignment.tasks.style import TOPICS
from fledge.core.device import Machine
from fledge.inference.request import Sampling
from fledge.model.gpt import GPT
from fledge.runs.run_folder import open_run
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.tracking.sinks.csv import MetricsTable, read_metrics
from fledge.tracking.sinks.jsonl import read_events

BASE_TOML = """
[data]
val = 0.02
[tokenizer]
kind = "bpe"
vocab_size = 512
[model]
n_layer = 3
n_head = 4
n_embd = 128
context = 80
[optim]
lr = 0.002
min_lr = 0.0002
warmup_steps = 20
[train]
steps = 150
batch = 32
device = "cpu"
dtype = "float32"
compile = false
sample_every = 0
"""
STEPS, EVERY = 160, 20
KL_BOUND = 10.0  # nats of an answer
COMMON = ("--train.dtype", "float32", "--train.steps", str(STEPS), "--train.eval_every", str(EVERY))
KEPT = ("--train.keep_last", "100", "--train.history", "0", "--train.sample_every", "80", "--align.val", "200")
ROLLOUT = ("--rollout.prompts", "128", "--rollout.max_tokens", "40", "--rollout.slots", "64", "--train.batch", "32")
LR = ("--optim.lr", "2e-4", "--optim.min_lr", "2e-4", "--ppo.epochs", "2")
RUNS = {
    "ppo": ("--data", "style", "--reward", "style", "--ppo.kl_coef", "0.02"),
    "hacking": ("--data", "style", "--reward", "cheerful", "--ppo.kl_coef", "0", "--ppo.kl_limit", "0"),
}
DECODER, TOKENS, PROMPTS = "plain float32, 1 thread", 40, 200
HERE = Machine("cpu", "float32")


@dataclass(frozen=True)
class Row:
    """Of a checkpoint: held-out answers, and the divergence of the rollout before it."""

    run: str
    seed: int
    step: int
    reward: float  # that the run is trained for
    reward_error: float  # standard error
    kl: float  # nats of an answer
    on_topic: float  # share of the answers that name what was asked about
    bits_per_byte: float  # of the answers, under the base
    distinct: float  # share of the words of an answer that are new in it
    length: float  # words


def fledge(*words: str, folder: Path) -> None:
    command = [sys.executable, "-m", "fledge", *words, "--runs", str(folder / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")


def make_base(folder: Path) -> None:
    (folder / "text").mkdir(parents=True)
    examples = find_task("style").examples(0, 3000, "train")
    texts = [f"{each.messages[-1]['content']}\n{each.target}\n" for each in examples]
    (folder / "text" / "style.txt").write_text("\n".join(texts))
    (folder / "base.toml").write_text(BASE_TOML)
    fledge("train", str(folder / "base.toml"), "--data.corpus", str(folder / "text"), "--run", "pre", folder=folder)
    sft = ("--train.steps", "300", "--train.batch", "32", "--optim.lr", "1e-3", "--train.dtype", "float32")
    fledge("align", "sft", "--init", "pre", "--data", "style", "--run", "base", *sft, folder=folder)


class Judge:
    """Answers of a model to the held-out prompts, measured by what no reward sees."""

    def __init__(self, base: GPT, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.base, self.tokenizer = base, tokenizer
        self.examples = find_task("style").examples(0, PROMPTS, "val")
        self.prompts = encode_prompts(self.examples, template, base.config.context - TOKENS + 1)
        config = RolloutConfig(max_tokens=TOKENS, slots=64, decoder=DECODER)
        self.generate = Generator(config, HERE, tokenizer, template.stop_tokens)

    def __call__(self, model: GPT) -> tuple[float, float, float, float]:
        """on topic, bits per byte, distinct words, length"""
        ids = [prompt.ids for prompt in self.prompts]
        answers = self.generate(model, ids, [Sampling(seed=seed) for seed in range(len(ids))])
        texts = [answer.text for answer in answers]
        batch = to_batch(ids, answers, [0.0] * len(ids), width(ids, answers))
        nats = -float(answer_logprobs(self.base, batch, machine=HERE, temperature=1.0).sum())
        size = sum(len(text.encode()) for text in texts)
        words = [re.findall(r"[a-z]+", text.lower()) for text in texts]
        asked = [re.findall(r"[a-z]+", prompt.text.lower()) for prompt in self.prompts]
        topics = [[word for word in each if word in TOPICS] for each in asked]
        on_topic = [float(set(topic) <= set(each)) for topic, each in zip(topics, words, strict=True)]
        distinct = [len(set(each)) / max(1, len(each)) for each in words]
        return mean(on_topic), nats / math.log(2) / max(1, size), mean(distinct), mean([len(each) for each in words])


def mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values)


def train(name: str, seed: int, folder: Path, judge: Judge) -> list[Row]:
    run = f"{name}-{seed}"
    if not (folder / "runs" / run).exists():
        words = ("--init", "base@latest", "--run", run, "--train.seed", str(seed))
        fledge("align", "ppo", *words, *RUNS[name], *COMMON, *KEPT, *ROLLOUT, *LR, folder=folder)
    [seconds] = [each["seconds"] for each in read_events(folder / "runs" / run) if each["event"] == "Ended"]
    metrics = read_metrics(folder / "runs" / run)
    rows = []
    for step in range(0, STEPS + 1, EVERY):
        model = open_run("base@latest" if step == 0 else f"{run}@{step}", folder / "runs").load("cpu").model
        at = {key: at_step(metrics, key, step) for key in ("val/reward", "val/reward_error", "ppo/kl")}
        rows.append(Row(name, seed, step, *at.values(), *judge(model)))
    first, last = rows[0], rows[-1]
    print(
        f"{run:<10} {seconds:4.0f} s   reward {first.reward:.3f} → {last.reward:.3f} ± {last.reward_error:.3f}"
        f"   KL {last.kl:5.1f}   on topic {first.on_topic:.2f} → {last.on_topic:.2f}"
        f"   bits per byte {first.bits_per_byte:.2f} → {last.bits_per_byte:.2f}"
        f"   distinct words {first.distinct:.2f} → {last.distinct:.2f}",
        flush=True,
    )
    return rows


def at_step(metrics: MetricsTable, name: str, step: int) -> float:
    """0 where nothing was measured: the divergence before the first rollout."""
    values = dict(zip(metrics["step"], metrics[name], strict=True))
    return values.get(step, 0.0) if math.isfinite(values.get(step, 0.0)) else 0.0


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(row).items()})


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = ("reward", "kl", "on_topic", "bits_per_byte", "distinct")
    titles = (
        *("reward in training", "KL from the base (nats)", "quality: answers on the topic"),
        *("quality: bits per byte, base", "quality: distinct words"),
    )
    figure, axes = pyplot.subplots(len(RUNS), len(panels), figsize=(16, 6), sharex=True, squeeze=False)
    for line, name in enumerate(RUNS):
        for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            axis = axes[line][column]
            for seed in sorted({row.seed for row in rows}):
                chosen = [row for row in rows if row.run == name and row.seed == seed]
                axis.plot([row.step for row in chosen], [getattr(row, panel) for row in chosen], label=f"seed {seed}")
            axis.set_title(title if line == 0 else "", fontsize=10)
            axis.grid(alpha=0.3)
            if line == len(RUNS) - 1:
                axis.set_xlabel("step")
        labels = {"ppo": "PPO, β = 0.02\nreward: style", "hacking": "PPO, β = 0\nreward: cheerful words"}
        axes[line][0].set_ylabel(labels[name])
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def check(rows: list[Row]) -> list[str]:
    """The claims that do not hold."""
    failed = []
    for seed in sorted({row.seed for row in rows}):
        ppo = [row for row in rows if (row.run, row.seed) == ("ppo", seed)]
        error = math.hypot(ppo[0].reward_error, ppo[-1].reward_error)
        if ppo[-1].reward - ppo[0].reward < 3 * error:
            failed.append(f"ppo, seed {seed}: the reward rose by less than three standard errors")
        if max(row.kl for row in ppo) > KL_BOUND:
            failed.append(f"ppo, seed {seed}: the divergence is above {KL_BOUND:g} nats")
        hacked = [row for row in rows if (row.run, row.seed) == ("hacking", seed)]
        worse = hacked[-1].on_topic < hacked[0].on_topic and hacked[-1].bits_per_byte > hacked[0].bits_per_byte
        if not (worse and hacked[-1].reward > hacked[0].reward):
            failed.append(f"hacking, seed {seed}: the reward did not rise, or the quality did not fall")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; default: a temporary folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("docs/alignment"))
    args = parser.parse_args()
    print(machine(), "|", versions("torch"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "runs"
        if not (folder / "runs" / "base").exists():
            make_base(folder)
        torch.manual_seed(0)
        base = open_run("base@latest", folder / "runs")
        if (template := base.chat_template()) is None:
            raise SystemExit("the base has no chat template")
        judge = Judge(base.load("cpu").model.eval(), base.tokenizer(), template)
        rows = [row for seed in args.seeds for name in RUNS for row in train(name, seed, folder, judge)]
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, args.out / "ppo.csv")
    draw(rows, args.out / "ppo.png")
    if failed := check(rows):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
