"""What looking costs a training run: statistics of each layer, and `fledge watch` beside it.

    python bench/watching.py [--steps 300] [--rounds 3] [--preset demo]

Trains the same run in turns: plain, with `track.statistics`, with a watcher in another process. Prints the seconds of
training (median of the rounds) and their ratio to the plain run, and checks that all weights are the same. The share of
statistics is also taken from the run itself (`time/statistics`), where the load of other programs matters less.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common import machine, versions
from fledge.tracking.sinks.csv import MetricsTable, read_metrics

EVERY = 100  # steps between statistics
FLEDGE = (sys.executable, "-m", "fledge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="demo")
    args = parser.parse_args()
    print(f"{machine()}; {versions('torch')}")
    kinds = {"plain": (), "statistics": ("--track.statistics", str(EVERY)), "watched": ()}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    weights, shares = set(), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for kind, more in kinds.items():
                run = Path(folder) / f"{kind}-{number}"
                train(run, (args.preset, "--train.steps", str(args.steps), *more), watched=kind == "watched")
                table = read_metrics(run)
                seconds[kind].append(median(table.measured("train/step_seconds")))
                weights.add(
                    hashlib.sha256(max((run / "checkpoints").glob("*/model.safetensors")).read_bytes()).digest()
                )
                if kind == "statistics":
                    shares.append(share_of_statistics(table))
    if len(weights) != 1:
        raise SystemExit("looking has changed the weights")
    for kind, found in seconds.items():
        ratio = median(found) / median(seconds["plain"])
        print(f"{kind:<12}{1000 * median(found):8.2f} ms per step   {ratio:6.3f} of plain")
    print(f"statistics every {EVERY} steps: {median(shares):.3%} of the time of steps")


def share_of_statistics(table: MetricsTable) -> float:
    """Without the first step, which has statistics in a run of any length."""
    measured = table.measured("time/statistics")[1:]
    return median(measured) / (EVERY * median(table.measured("train/step_seconds")))


def train(run: Path, words: tuple[str, ...], *, watched: bool) -> None:
    where = ("--runs", str(run.parent))
    command = (
        *FLEDGE,
        "train",
        *words,
        "--run",
        run.name,
        "--train.eval_every",
        "0",
        "--train.sample_every",
        "0",
        *where,
    )
    watcher = None
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if watched:
        while not (run / "events.jsonl").exists() and training.poll() is None:
            time.sleep(0.1)
        watcher = subprocess.Popen((*FLEDGE, "watch", run.name, "--jsonl", *where), stdout=subprocess.DEVNULL)
    if training.wait() or (watcher and watcher.wait()):
        raise SystemExit(f"{run.name} failed")


if __name__ == "__main__":
    main()
