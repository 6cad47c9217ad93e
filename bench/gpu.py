"""make gpu PART=…: what a GPU shows, in parts of under eight minutes, on a bare machine.

    PYTHONPATH=src python bench/gpu.py PART [--nanogpt CHECKOUT] [--out DIR] [--dry-run]

    tests      the tests that need a GPU
    step       124M, context 1,024: `fledge train`, our bare step, nanoGPT's model in its own loop; memory
    decode     tokens a second of `fledge generate`, and of the whole command
    minutes    `fledge plan` against reality; time to nanoGPT's loss on Shakespeare, with our recipe and with nanoGPT's

Prints one table a part, and writes OUT/gpu-PART.json. Text comes from FLEDGE_TEST_DATA (Shakespeare, GPT-2's
tokenizer), else from the standard library of this Python, by character. A dry run does all of it small and on a CPU.
"""

import argparse
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import torch

import peers
from common import machine, versions
from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.flops import training_flops
from step import matmul_limit, wait

HERE = Path(__file__).parent
DATA = Path(os.environ["FLEDGE_TEST_DATA"]) if os.environ.get("FLEDGE_TEST_DATA") else None


class Bench:
    """Where a part runs, what it has found, and the program as a user starts it."""

    def __init__(self, part: str, nanogpt: Path | None, dry_run: bool, folder: Path) -> None:
        self.part, self.nanogpt, self.dry_run, self.folder = part, nanogpt, dry_run, folder
        self.device: Any = "cpu" if dry_run else "cuda"
        self.rows: list[dict[str, Any]] = []

    def tell(self, what: str, **figures: Any) -> None:
        self.rows.append({"what": what, **figures})
        told = "   ".join(f"{name} {figure(value)}" for name, value in figures.items())
        print(f"  {what:<44} {told}", flush=True)

    def fledge(self, *words: str) -> tuple[str, float]:
        """What a command prints, and its seconds."""
        begun = time.perf_counter()
        command = [sys.executable, "-m", "fledge", *words]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
        return done.stdout, time.perf_counter() - begun

    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(HERE.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": paths, "FLEDGE_CACHE": str(self.folder / "cache")}
        return {**os.environ, **own, **({"TIKTOKEN_CACHE_DIR": str(DATA / "gpt2")} if DATA else {})}

    def dataset(self, tokenizer: str) -> str:
        """Prepared once: Shakespeare, or Python's standard library."""
        folder = self.folder / f"data-{tokenizer}"
        if not folder.exists():
            source = str(DATA / "shakespeare" / "input.txt") if DATA else "python"
            kind = tokenizer if DATA else "char"
            tail = ("--data.val", "0.1", "--data.test", "0", "--data.split_by", "tail")
            self.fledge("prepare", source, "--tokenizer", kind, "--out", str(folder), *tail)
        return str(folder)

    def rows_of(self, run: str) -> list[dict[str, float]]:
        """metrics.csv, without the row before the first step."""
        lines = (self.folder / "runs" / run / "metrics.csv").read_text().splitlines()
        names = lines[0].split(",")
        rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
        return [{name: float(value or "nan") for name, value in row.items()} for row in rows if row["train/loss"]]

    def ended(self, run: str) -> dict[str, Any]:
        lines = (self.folder / "runs" / run / "events.jsonl").read_text().splitlines()
        return next(event for event in map(json.loads, reversed(lines)) if event["event"] == "Ended")


def figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def tests(bench: Bench) -> None:
    report = bench.folder / "tests.xml"
    words = ["-m", "pytest", "-q", "-n", "4", str(HERE.parent / "tests" / "journey" / "gpu"), f"--junitxml={report}"]
    dry = {"FLEDGE_GPU_DRY_RUN": "1"} if bench.dry_run else {}
    done = subprocess.run([sys.executable, *words], env={**bench.environment(), **dry}, check=False)
    suite = next(ElementTree.parse(report).getroot().iter("testsuite")).attrib  # noqa: S314  # pytest wrote it
    counts = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    bench.tell("GPU tests", **counts, seconds=float(suite["time"]))
    if done.returncode:
        raise SystemExit("GPU tests failed")


def step(bench: Bench) -> None:
    """The command itself first, then bare steps of ours and of nanoGPT in turns; all must learn, and alike."""
    shape = replace(peers.GPT2, n_layer=12, n_head=12, n_embd=768, context=1024, vocab_size=50_257)
    batch, steps = (2, 12) if bench.dry_run else (32, 60)
    if bench.dry_run:
        shape = replace(shape, n_layer=2, n_head=2, n_embd=64, context=64)
    here = Machine(bench.device, "float32" if bench.dry_run else "bfloat16")
    limit = matmul_limit(here, *((512, 0.2) if bench.dry_run else (8192,)))
    bench.tell("matrix products", tflops=limit / 1e12)
    flops = training_flops(shape) * shape.context * batch
    speed = through_fledge(bench, shape, batch, steps, here)
    bench.tell("fledge train", tokens_per_second=speed[0], of_limit=speed[0] * flops / (shape.context * batch) / limit,
               peak_bytes=speed[1])  # fmt: skip
    makers = {"our bare step": peers.ours}
    if bench.nanogpt:
        makers["nanoGPT"] = partial(peers.nanogpt, checkout=bench.nanogpt)
    inputs, targets = peers.batch_of(shape, batch, bench.device)
    losses: dict[str, list[float]] = {}
    spent: dict[str, list[float]] = {who: [] for who in makers}
    peaks = {}
    for who, make in makers.items():  # memory first, one at a time
        release(bench)
        one = make(shape, batch, here)
        losses[who] = [one(inputs, targets) for _ in range(3)]
        peaks[who] = torch.cuda.max_memory_allocated() if bench.device == "cuda" else 0
        makers[who] = one  # type: ignore[assignment]
    for _ in range(4 if bench.dry_run else 12):
        for who, one in makers.items():
            wait(here)
            begun = time.perf_counter()
            losses[who].append(one(inputs, targets))  # type: ignore[call-arg]
            wait(here)
            spent[who].append(time.perf_counter() - begun)
    peers.refuse_untrue(losses)
    for who, seconds in spent.items():
        tokens = shape.context * batch / median(seconds)
        share = tokens * flops / (shape.context * batch) / limit
        bench.tell(who, tokens_per_second=tokens, of_limit=share, peak_bytes=peaks[who], loss=losses[who][-1])
        bench.tell(f"fledge train / {who}", ratio=speed[0] / tokens)


def release(bench: Bench) -> None:
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def through_fledge(bench: Bench, shape: ModelConfig, batch: int, steps: int, here: Machine) -> tuple[float, int]:
    """Tokens a second between rows of metrics.csv, by the clock on the wall, logging included; and peak memory."""
    asked = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd, "context": shape.context}
    model = [word for name, value in asked.items() for word in (f"--model.{name}", str(value))]
    run = ("--train.steps", str(steps), "--train.batch", str(batch), "--train.micro_batch", str(batch))
    quiet = (
        "--train.eval_every",
        "0",
        "--train.sample_every",
        "0",
        "--train.compile",
        "true",
        "--train.log_every",
        "1",
    )
    rate = ("--optim.warmup_steps", "5", "--optim.lr", "6e-4")
    where = ("--train.device", here.device, "--train.dtype", here.dtype, "--data.path", bench.dataset("gpt2"))
    vocabulary = ("--model.vocab_size", str(shape.vocab_size))
    bench.fledge("train", "gpt2", "--run", "gpt2", *model, *run, *quiet, *rate, *where, *vocabulary)
    rows = bench.rows_of("gpt2")
    fallen = rows[0]["train/loss"] - rows[-1]["train/loss"]
    if not fallen > (0.1 if bench.dry_run else 1.0):
        raise SystemExit(f"fledge train does not learn: its loss fell by {fallen:.3f}")
    events = [json.loads(line) for line in (bench.folder / "runs/gpt2/events.jsonl").read_text().splitlines()]
    times = [event["time"] for event in events if "train/loss" in event.get("values", ())]
    later = times[len(times) // 3 :]
    speed = batch * shape.context * (len(later) - 1) / (later[-1] - later[0])
    return speed, int(bench.ended("gpt2")["peak_memory"] or 0)


def decode(bench: Bench) -> None:
    size = ("--model.n_layer", "2", "--model.n_embd", "64", "--model.n_head", "2") if bench.dry_run else ()
    words = (
        "--train.steps",
        "1",
        "--train.batch",
        "1",
        "--train.micro_batch",
        "1",
        "--train.eval_every",
        "0",
        "--train.sample_every",
        "0",
    )
    data = ("--data.path", bench.dataset("gpt2"), "--train.device", bench.device, "--train.compile", "false")
    bench.fledge("train", "gpt2", "--run", "speaks", *words, *data, *size)
    seconds = {}
    for count in (1, 201):
        asked = ("--tokens", str(count), "--greedy", "--device", bench.device, "--json", "--prompt", "The")
        spent = [bench.fledge("generate", "speaks", *asked)[1] for _ in range(3)]
        seconds[count] = median(spent)
    bench.tell("fledge generate, 201 tokens, whole command", seconds=seconds[201])
    bench.tell("one stream", tokens_per_second=200 / max(1e-9, seconds[201] - seconds[1]))


def minutes(bench: Bench) -> None:
    """nanoGPT's example for a GPU, planned and trained; and how much sooner another recipe reaches its loss."""
    small = ("--model.n_layer", "1", "--model.n_embd", "32", "--model.n_head", "2", "--train.steps", "30",
             "--train.batch", "4", "--model.context", "32") if bench.dry_run else ()  # fmt: skip
    data = ("--data.path", bench.dataset("char"), "--train.device", bench.device, *small)
    planned = json.loads(bench.fledge("plan", "nanogpt-shakespeare-char", *data, "--json")[0])
    _, command = bench.fledge("train", "nanogpt-shakespeare-char", "--run", "stock", *data, "--train.sample_every", "0")
    real = bench.ended("stock")
    judged = json.loads(bench.fledge("eval", "stock", "--json")[0])
    best = json.loads(bench.fledge("eval", "stock@best", "--json")[0])["loss"]
    bench.tell("plan of nanogpt-shakespeare-char", seconds=planned["seconds"], memory=planned["memory"])
    bench.tell(
        "reality", seconds=real["seconds"], memory=real["peak_memory"], command=command, loss=judged["loss"], best=best
    )
    sprint = ("--model.n_layer", "6", "--model.n_embd", "384", "--model.n_head", "6", "--model.context", "256")
    for steps in (20,) if bench.dry_run else (200, 300, 450):
        words = (
            "--train.steps",
            str(steps),
            "--train.batch",
            "64",
            "--train.eval_every",
            "0",
            "--train.sample_every",
            "0",
        )
        name = f"sprint-{steps}"
        _, command = bench.fledge("train", "sprint-shakespeare", "--run", name, *sprint, *words, *data)
        found = json.loads(bench.fledge("eval", name, "--json")[0])["loss"]
        seconds = bench.ended(name)["seconds"]
        bench.tell(
            f"sprint of {steps} steps", seconds=seconds, command=command, loss=found, sooner=real["seconds"] / seconds
        )


PARTS = {"tests": tests, "step": step, "decode": decode, "minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--nanogpt", type=Path, metavar="CHECKOUT")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--dry-run", action="store_true", help="small, and on a CPU")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here; --dry-run rehearses on a CPU")
    about = {
        "part": args.part,
        "gpu": "none: a dry run" if args.dry_run else torch.cuda.get_device_name(),
        "machine": machine(),
        "versions": versions("torch"),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    print(" | ".join(about.values()), flush=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.part, args.nanogpt, args.dry_run, Path(folder))
        try:
            PARTS[args.part](bench)
        finally:
            args.out.mkdir(parents=True, exist_ok=True)
            found = {**about, "seconds": round(time.perf_counter() - begun), "rows": bench.rows}
            (args.out / f"gpu-{args.part}.json").write_text(json.dumps(found, indent=1))
    print(f"{args.part}: {time.perf_counter() - begun:.0f} s", flush=True)


def commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown commit"


if __name__ == "__main__":
    main()
