"""Does DPO raise the reward of held-out answers, and stay near the reference? Several seeds, the same base model.

    pretrain a small model on the embedded corpus  →  for each seed: SFT on the task "style" (answers of every style)
    → pairs of its own answers, ranked by the rule of the task → DPO → 1,000 held-out questions, before and after

    python bench/align_dpo.py [--seeds 1,2,3] [--folder DIR] [--out docs/alignment]

Writes dpo.csv (every evaluation of every run), dpo_results.csv (before and after) and dpo.png. Fails where a seed
gains less than 3 standard errors, or diverges from its reference by more than KL_BOUND.
"""

import argparse
import csv
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from common import machine as describe_machine
from common import versions
from fledge.alignment.online import RewardEvaluations
from fledge.alignment.setup import AlignSetup
from fledge.alignment.tasks.registry import find_task
from fledge.core import device as machines
from fledge.recipes.align import align, chat_format
from fledge.recipes.preferences import make_preference_file
from fledge.recipes.train import train
from fledge.runs.run_folder import open_run
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.jsonl import read_events

TASK = "style"
QUESTIONS = 1000  # held out: no method has seen them
KL_BOUND = 5.0  # nats of an answer
ERRORS = 3.0  # standard errors that the reward must rise by
MODEL = {"n_layer": 4, "n_head": 4, "n_embd": 160, "context": 128}
ROLLOUT = {"max_tokens": 60, "prompts": 64, "slots": 32}
CURVES = ("val/reward", "val/reward_error", "val/kl", "val/loss", "val/accuracy", "val/margin")
CURVES += ("val/chosen_logprob", "val/rejected_logprob")


def pretrain(runs: Path) -> None:
    settings = {"steps": 300, "batch": 16, "sample_every": 0, "seed": 1}
    train("demo", {"model": MODEL, "train": settings}, runs, name="base")


def train_seed(seed: int, runs: Path) -> dict[str, float]:
    """The runs sft-SEED and dpo-SEED; seconds of each step."""
    seconds, sft, pairs = dict[str, float](), f"sft-{seed}", runs.parent / f"pairs-{seed}.jsonl"
    begun = time.perf_counter()
    settings = {"steps": 200, "batch": 16, "seed": seed, "sample_every": 100, "eval_every": 100}
    align("sft", "base", [TASK], {"train": settings, "optim": {"lr": 2e-3}}, runs, name=sft)
    seconds["sft"] = time.perf_counter() - begun
    layer = {"rollout": ROLLOUT, "align": {"examples": 1600}, "train": {"seed": seed}}
    made = make_preference_file(sft, [TASK], pairs, layer, runs)
    seconds["pairs"] = time.perf_counter() - begun - seconds["sft"]
    settings = {"steps": 90, "batch": 16, "seed": seed, "sample_every": 45, "eval_every": 15, "save_every": 45}
    options = {"train": settings, "optim": {"lr": 1e-4}, "dpo": {"beta": 0.5}, "rollout": ROLLOUT}
    align("dpo", f"{sft}@latest", [str(pairs)], options, runs, reward=[TASK], name=f"dpo-{seed}")
    seconds["dpo"] = time.perf_counter() - begun - sum(seconds.values())
    return {"pairs": made.pairs, **{f"{name}_seconds": value for name, value in seconds.items()}}


def measure(seed: int, runs: Path) -> dict[str, float]:
    """Reward of answers to QUESTIONS held-out questions before and after DPO, and the divergence."""
    sft, dpo = (open_run(f"{name}-{seed}@latest", runs) for name in ("sft", "dpo"))
    settings, task = validated(dpo.config()), find_task(TASK)
    rollout = settings.rollout  # type: ignore[attr-defined]
    machine = machines.choose_machine("cpu", settings.train.dtype, threads=settings.train.threads)
    tokenizer, template = chat_format(dpo)
    before, after = sft.load().model, dpo.load().model
    val = task.examples(0, QUESTIONS, "val")
    setup: AlignSetup[Any] = AlignSetup(
        settings, machine, tokenizer, template, val, val, "", reference=lambda: before, reward=task.reward
    )
    results = {}
    for name, model in (("before", before), ("after", after)):
        found = RewardEvaluations(setup, rollout, task.reward, model, iter, reference=before)  # type: ignore[arg-type]
        metrics = found.evaluate().metrics
        results |= {f"{name}_{key}": metrics[f"val/{key}"] for key in ("reward", "reward_error", "kl", "length")}
    gain = results["after_reward"] - results["before_reward"]
    results["gain_in_errors"] = gain / math.hypot(results["before_reward_error"], results["after_reward_error"])
    return results


def curve(run: Path) -> list[dict[str, float]]:
    """Each evaluation of a run: step and metrics."""
    rows = [event for event in read_events(run) if event["event"] == "Metrics" and "val/reward" in event["values"]]
    return [{"step": row["step"], **{name: row["values"][name] for name in CURVES}} for row in rows]


def plot(curves: dict[int, list[dict[str, float]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for seed, rows in curves.items():
        steps = [row["step"] for row in rows]
        rewards, errors = ([row[name] for row in rows] for name in ("val/reward", "val/reward_error"))
        [line] = panels[0].plot(steps, rewards, marker="o", markersize=3, label=f"seed {seed}")
        low, high = ([r + sign * e for r, e in zip(rewards, errors, strict=True)] for sign in (-1, 1))
        panels[0].fill_between(steps, low, high, alpha=0.15, color=line.get_color())
        panels[1].plot(steps, [row["val/kl"] for row in rows], marker="o", markersize=3, color=line.get_color())
        for name, style in (("chosen", "-"), ("rejected", "--")):
            values = [row[f"val/{name}_logprob"] for row in rows]
            panels[2].plot(steps, values, style, color=line.get_color(), label=name if seed == min(curves) else None)
    panels[1].axhline(KL_BOUND, color="grey", linestyle=":", label="bound")
    titles = (
        "reward of held-out answers (± 1 SE)",
        "KL to the reference, nats an answer",
        "log-probability of held-out pairs",
    )
    for panel, title in zip(panels, titles, strict=True):
        panel.set(title=title, xlabel="step")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=110)


def write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "align_dpo")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs, seeds = args.folder / "runs", [int(seed) for seed in args.seeds.split(",")]
    print(describe_machine(), versions("torch"), flush=True)
    if not (runs / "base").exists():
        pretrain(runs)
    results, curves = list[dict[str, float]](), dict[int, list[dict[str, float]]]()
    for seed in seeds:
        made = train_seed(seed, runs)
        results.append({"seed": seed, **made, **measure(seed, runs)})
        curves[seed] = curve(runs / f"dpo-{seed}")
        print("  ".join(f"{name} {value:.4g}" for name, value in results[-1].items()), flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            write_csv(args.out / "dpo.csv", [{"seed": seed, **row} for seed, rows in curves.items() for row in rows])
            write_csv(args.out / "dpo_results.csv", results)
            plot(curves, args.out / "dpo.png")
    failed = [row for row in results if row["gain_in_errors"] < ERRORS or row["after_kl"] > KL_BOUND]
    if failed:
        raise SystemExit(
            f"seeds {[int(row['seed']) for row in failed]} miss {ERRORS:g} standard errors or KL {KL_BOUND:g}"
        )


if __name__ == "__main__":
    main()
