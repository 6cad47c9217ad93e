"""Seconds that `fledge plot` and `fledge report` take for a run of many rows; each in a process of its own.

python bench/figures.py [--rows 1000000]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fledge

COMMANDS = (("plot",), ("plot", "--smooth", "0.9"), ("plot", "--x", "time"), ("report",))
TEXT = "the quick brown fox jumps over the lazy dog\n" * 400


def write_metrics(folder: Path, rows: int) -> None:
    """metrics.csv and events.jsonl of a run that logged every step."""
    steps, noise = np.arange(1, rows + 1), np.random.default_rng(0).normal(size=rows)
    with (folder / "metrics.csv").open("w") as table, (folder / "events.jsonl").open("a") as events:
        table.write(
            "step,train/loss,train/lr,train/grad_norm,train/step_seconds,train/tokens_per_second,train/tokens\n"
        )
        for step, each in zip(steps.tolist(), noise.tolist(), strict=True):
            loss = 2 + 6 * step**-0.25 + 0.1 * each
            table.write(f"{step},{loss},0.0006,{1 + each**2},0.05,10240.0,{512 * step}\n")
            values = f'{{"train/loss": {loss}, "train/lr": 0.0006, "train/tokens": {512 * step}}}'
            events.write(f'{{"event": "Metrics", "time": {4e9 + step / 20}, "step": {step}, "values": {values}}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "text.txt").write_text(TEXT)
        model = {"n_layer": 1, "n_head": 1, "n_embd": 16, "context": 16}
        run = fledge.train(
            folder / "text.txt", tokenizer="char", name="run", runs=folder, model=model, train={"steps": 2}
        )
        write_metrics(run.folder, rows)
        for words in COMMANDS:
            begun = time.perf_counter()
            command = [sys.executable, "-m", "fledge", *words, str(run.folder), "--out", str(folder / "out")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"{' '.join(words):<24} {rows:,} rows  {time.perf_counter() - begun:6.1f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
