"""make gpu PART=…: benchmarks and tests on a GPU, in parts of under eight minutes, on a bare machine.

    PYTHONPATH=src python bench/gpu.py PART [--nanogpt CHECKOUT] [--out DIR] [--dry-run]

    tests      the tests that need a GPU
    step       124M, context 1,024: `fledge train`, its bare step, and nanoGPT's model in its own loop; peak memory
    decode     tokens per second of 124M in every path, one stream and 64, beside transformers; the whole command
    minutes    `fledge plan` against the run; time to nanoGPT's loss on Shakespeare, with fledge's recipe and nanoGPT's

Each part prints a table and writes OUT/gpu-PART.json. The text comes from FLEDGE_TEST_DATA (Shakespeare, and GPT-2's
tokenizer), otherwise from the standard library of this Python, by character. A dry run does everything small on a CPU.
"""

import argparse
import csv
import datetime
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import torch

import gpu_decode as decoding
import peers
from common import commit, machine, versions
from decode import SHAPES, make_model, prompts_of
from fledge.core.device import Machine
from fledge.inference import choose_decoder as choice
from fledge.inference.bandwidth import measure_read
from fledge.model.config import ModelConfig
from fledge.model.flops import training_flops
from step import matmul_limit, synchronize

HERE = Path(__file__).parent
DATA = Path(os.environ["FLEDGE_TEST_DATA"]) if os.environ.get("FLEDGE_TEST_DATA") else None


def flags(section: str, **values: object) -> list[str]:
    """flags("train", steps=5) → ["--train.steps", "5"]"""
    return [word for key, value in values.items() for word in (f"--{section}.{key}", str(value))]


SILENT = flags("train", eval_every=0, sample_every=0)


class Bench:
    """The scratch folder of a part, its results, and fledge as a user runs it."""

    def __init__(self, part: str, nanogpt: Path | None, dry_run: bool, folder: Path) -> None:
        self.part, self.nanogpt, self.dry_run, self.folder = part, nanogpt, dry_run, folder
        self.device: Any = "cpu" if dry_run else "cuda"
        self.rows: list[dict[str, Any]] = []

    def add_row(self, what: str, **figures: Any) -> None:
        """Print a row of the table, and keep it for the JSON file."""
        self.rows.append({"what": what, **figures})
        columns = "   ".join(f"{name} {format_figure(value)}" for name, value in figures.items())
        print(f"  {what:<44} {columns}", flush=True)

    def fledge(self, *words: str) -> tuple[str, float]:
        """The output of a command, and its seconds."""
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
        """Shakespeare, or Python's standard library; prepared once."""
        folder = self.folder / f"data-{tokenizer}"
        if not folder.exists():
            source = str(DATA / "shakespeare" / "input.txt") if DATA else "python"
            splits = flags("data", val=0.1, test=0, split_by="tail")
            self.fledge("prepare", source, "--tokenizer", tokenizer if DATA else "char", "--out", str(folder), *splits)
        return str(folder)

    def train_losses(self, run: str) -> list[float]:
        with (self.folder / "runs" / run / "metrics.csv").open(newline="") as file:
            return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]

    def events(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "runs" / run / "events.jsonl").read_text().splitlines()]

    def end_event(self, run: str) -> dict[str, Any]:
        return next(event for event in reversed(self.events(run)) if event["event"] == "Ended")

    def final_loss(self, reference: str) -> float:
        return float(json.loads(self.fledge("eval", reference, "--json")[0])["loss"])


def format_figure(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def tests(bench: Bench) -> None:
    report = bench.folder / "tests.xml"
    words = ["-m", "pytest", "-q", "-n", "4", str(HERE.parent / "tests" / "journey" / "gpu"), f"--junitxml={report}"]
    dry = {"FLEDGE_GPU_DRY_RUN": "1"} if bench.dry_run else {}
    done = subprocess.run([sys.executable, *words], env={**bench.environment(), **dry}, check=False)
    suite = next(ElementTree.parse(report).getroot().iter("testsuite")).attrib  # noqa: S314  # pytest wrote it
    counts = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    bench.add_row("GPU tests", **counts, seconds=float(suite["time"]))
    if done.returncode:
        raise SystemExit("GPU tests failed")


def step(bench: Bench) -> None:
    """`fledge train` itself, then bare steps of fledge and nanoGPT alternately; their losses must fall and agree."""
    shape = replace(peers.GPT2, n_layer=12, n_head=12, n_embd=768, context=1024, vocab_size=50_257)
    batch, steps = (2, 12) if bench.dry_run else (32, 60)
    if bench.dry_run:
        shape = replace(shape, n_layer=2, n_head=2, n_embd=64, context=64)
    here = Machine(bench.device, "float32" if bench.dry_run else "bfloat16")
    limit = matmul_limit(here, *((512, 0.2) if bench.dry_run else (8192,)))
    bench.add_row("matrix products", tflops=limit / 1e12)
    flops = training_flops(shape)
    speed, peak = train_speed(bench, shape, batch, steps, here)
    bench.add_row("fledge train", tokens_per_second=speed, of_limit=speed * flops / limit, peak_bytes=peak)
    makers: dict[str, Callable[[ModelConfig, int, Machine], peers.Step]] = {"bare step of fledge": peers.ours}
    if bench.nanogpt:
        makers["nanoGPT"] = partial(peers.nanogpt, checkout=bench.nanogpt)
    inputs, targets = peers.batch_of(shape, batch, bench.device)
    implementations: dict[str, peers.Step] = {}
    losses: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    peaks = {}
    for name, make in makers.items():  # memory first, one at a time
        reset_memory(bench)
        implementations[name] = one = make(shape, batch, here)
        losses[name] = [one(inputs, targets) for _ in range(3)]
        peaks[name] = torch.cuda.max_memory_allocated() if bench.device == "cuda" else 0
    for _ in range(4 if bench.dry_run else 12):
        for name, one in implementations.items():
            synchronize(here)
            begun = time.perf_counter()
            losses[name].append(one(inputs, targets))
            synchronize(here)
            seconds[name].append(time.perf_counter() - begun)
    peers.check_losses(losses)
    for name, spent in seconds.items():
        rate = shape.context * batch / median(spent)
        figures = {"tokens_per_second": rate, "of_limit": rate * flops / limit}
        bench.add_row(name, **figures, peak_bytes=peaks[name], loss=losses[name][-1])
        bench.add_row(f"fledge train / {name}", ratio=speed / rate)


def reset_memory(bench: Bench) -> None:
    gc.collect()
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def train_speed(bench: Bench, shape: ModelConfig, batch: int, steps: int, here: Machine) -> tuple[float, int]:
    """Tokens per second of `fledge train`, in wall-clock time between events, logging included; and peak memory."""
    model = {name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size")}
    train = {"steps": steps, "batch": batch, "micro_batch": batch, "compile": "true", "log_every": 1}
    settings = [*flags("model", **model), *flags("train", **train, device=here.device, dtype=here.dtype), *SILENT]
    settings += [*flags("optim", warmup_steps=5, lr="6e-4"), *flags("data", path=bench.dataset("gpt2"))]
    bench.fledge("train", "gpt2", "--run", "gpt2", *settings)
    losses = bench.train_losses("gpt2")
    fall = losses[0] - losses[-1]
    if not fall > (0.1 if bench.dry_run else 1.0):
        raise SystemExit(f"fledge train does not learn: its loss fell by {fall:.3f}")
    times = [event["time"] for event in bench.events("gpt2") if "train/loss" in event.get("values", ())]
    later = times[len(times) // 3 :]
    speed = batch * shape.context * (len(later) - 1) / (later[-1] - later[0])
    return speed, int(bench.end_event("gpt2")["peak_memory"] or 0)


def decode(bench: Bench) -> None:
    """Every path of the decoder, checked against the model in float32; transformers; `fledge generate` as a whole."""
    shape = SHAPES["tiny" if bench.dry_run else "124M"]
    here = Machine(bench.device, "float32" if bench.dry_run else "bfloat16")
    model, count = make_model(shape, bench.device), 20 if bench.dry_run else 200
    bench.add_row("reading memory", bytes_per_second=measure_read(here))
    kinds = ["plain"] if bench.dry_run else ["plain", *choice.GRAPHS]
    for rows in (1, 64):
        prompts = prompts_of(shape, rows, bench.device)
        for kind in kinds:
            attempt(bench, f"{rows} streams: {kind}", decoding.measure_path, model, kind, prompts, count, here)
        attempt(bench, f"{rows} streams: choose_decoder", decoding.chosen_path, model, here, rows)
        attempt(bench, f"{rows} streams: transformers", decoding.measure_peer, model, prompts, count // 2, here)
    decode_command(bench)
    for rows in () if bench.dry_run else (1, 64):
        prompts = prompts_of(shape, rows, bench.device)
        kind = next(iter(choice.COMPILED_GRAPHS))
        attempt(bench, f"{rows} streams: {kind}", decoding.measure_path, model, kind, prompts, count, here)


def decode_command(bench: Bench) -> None:
    size = flags("model", n_layer=2, n_embd=64, n_head=2) if bench.dry_run else []
    train = flags("train", steps=1, batch=1, micro_batch=1, device=bench.device, compile="false")
    data = flags("data", path=bench.dataset("gpt2"))
    bench.fledge("train", "gpt2", "--run", "decode", *train, *SILENT, *data, *size)
    for turn in ("first", "second"):
        words = ("--tokens", "200", "--greedy", "--device", bench.device, "--json", "--prompt", "The")
        bench.add_row(
            f"fledge generate, 200 tokens, {turn} time", seconds=bench.fledge("generate", "decode", *words)[1]
        )


def attempt(bench: Bench, name: str, measure: Callable[..., dict[str, Any]], *arguments: object) -> None:
    """A row of the table. What fails is reported, and the rest goes on."""
    try:
        bench.add_row(name, **measure(*arguments))
    except Exception as failure:
        bench.add_row(name, failed=f"{type(failure).__name__}: {failure}"[:500])


def minutes(bench: Bench) -> None:
    """Plan and train nanoGPT's example for a GPU; then the time in which another recipe reaches its loss."""
    settings = [*flags("data", path=bench.dataset("char")), *flags("train", device=bench.device)]
    if bench.dry_run:
        settings += flags("model", n_layer=1, n_embd=32, n_head=2, context=32) + flags("train", steps=30, batch=4)
    preset = "nanogpt-shakespeare-char"
    planned = json.loads(bench.fledge("plan", preset, *settings, "--json")[0])
    _, command = bench.fledge("train", preset, "--run", "stock", *settings, "--train.sample_every", "0")
    stock = bench.end_event("stock")
    losses = {"loss": bench.final_loss("stock"), "best": bench.final_loss("stock@best")}
    bench.add_row(f"plan of {preset}", seconds=planned["seconds"], memory=planned["memory"])
    bench.add_row("the run", seconds=stock["seconds"], memory=stock["peak_memory"], command=command, **losses)
    shape = flags("model", n_layer=6, n_embd=384, n_head=6, context=256)
    for steps in (20,) if bench.dry_run else (200, 300, 450):
        name, train = f"sprint-{steps}", flags("train", steps=steps, batch=64)
        _, command = bench.fledge("train", "sprint-shakespeare", "--run", name, *shape, *train, *SILENT, *settings)
        seconds, loss = bench.end_event(name)["seconds"], bench.final_loss(name)
        ratio = stock["seconds"] / seconds
        bench.add_row(f"sprint of {steps} steps", seconds=seconds, command=command, loss=loss, times_faster=ratio)


PARTS = {"tests": tests, "step": step, "decode": decode, "minutes": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--nanogpt", type=Path, metavar="CHECKOUT")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--dry-run", action="store_true", help="small, on a CPU")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("no CUDA device found; --dry-run runs small on a CPU")
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
            result = {**about, "seconds": round(time.perf_counter() - begun), "rows": bench.rows}
            (args.out / f"gpu-{args.part}.json").write_text(json.dumps(result, indent=1))
    print(f"{args.part}: {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
