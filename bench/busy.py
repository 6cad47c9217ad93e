"""Training beside other busy programs: fledge and nanoGPT alone, beside one busy thread, and beside two.

    python bench/busy.py --nanogpt CHECKOUT --text DATA/shakespeare/input.txt [--rounds 3] [--seconds 15]

    shakespeare    nanoGPT's README example for a computer without a GPU, by its own train.py and by fledge train
    demo           fledge train demo, on the same text

A busy thread is a Python process in an endless loop. Everything runs in turns, as whole commands, with the environment
variables of OpenMP unset. Throughput is tokens a second over the steps of a run but the first few, as each program
reports them. A run counts only if its losses are those of the first run, digit for digit. It needs a quiet machine.
"""

import argparse
import contextlib
import csv
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common import copy_nanogpt, machine, run, versions
from time_to_loss import README

WARM_UP = 5  # steps that are not counted
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
FLEDGE_VARIABLES: dict[str, str] = {}
WANTED = {1: 0.5, 2: 0.35}  # busy threads → share of the speed alone
LEAST = 1.5  # times nanoGPT's speed in the same situation


@dataclass(frozen=True)
class Steps:
    losses: list[float]
    seconds: list[float]


@dataclass(frozen=True)
class Program:
    tokens: int  # of a step
    train: Callable[[int], Steps]  # so many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a run takes alone")
    parser.add_argument("--beside", type=int, nargs="*", default=[0, 1, 2], help="numbers of busy threads")
    parser.add_argument("--spin", metavar="COUNT", help="try another GOMP_SPINCOUNT for fledge than its own choice")
    args = parser.parse_args()
    if args.spin:
        FLEDGE_VARIABLES["GOMP_SPINCOUNT"] = args.spin
    print(machine(), "|", versions("torch"), "| load", *(f"{load:.1f}" for load in os.getloadavg()), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = {
            "fledge, shakespeare": fledge(folder, "nanogpt-shakespeare-cpu", args.text.resolve(), 12 * 64),
            "nanoGPT, shakespeare": nanogpt(folder / "nanogpt", args.nanogpt, args.text),
            "fledge, demo": fledge(folder, "demo", args.text.resolve(), 8 * 256),
        }
        first = {name: program.train(4 * WARM_UP) for name, program in programs.items()}  # prepares the text as well
        counts = {name: WARM_UP + max(WARM_UP, round(args.seconds / median(it.seconds))) for name, it in first.items()}
        speeds: dict[tuple[str, int], list[float]] = {}
        expected: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for beside in args.beside:
                for name, program in programs.items():
                    with busy_threads(beside):
                        steps = program.train(counts[name])
                    if steps.losses != expected.setdefault(name, steps.losses):
                        raise SystemExit(f"{name} beside {beside}: other losses than in its first run")
                    counted = steps.seconds[WARM_UP:]
                    speed = program.tokens * len(counted) / sum(counted)
                    speeds.setdefault((name, beside), []).append(speed)
                    print(f"  {name:<21} beside {beside}   {speed:8,.0f} tokens/s", flush=True)
    report({key: median(values) for key, values in speeds.items()}, speeds)


def report(medians: dict[tuple[str, int], float], speeds: dict[tuple[str, int], list[float]]) -> None:
    for (name, beside), speed in medians.items():
        line = f"{name:<21} beside {beside}   {speed:8,.0f} tokens/s"
        if beside and (name, 0) in medians:
            wanted = f" (wanted: {WANTED[beside]:.0%})" if beside in WANTED and name.startswith("fledge") else ""
            line += f"   {speed / medians[name, 0]:4.0%} of alone{wanted}"
        if name == "fledge, shakespeare" and (peer := medians.get(("nanoGPT, shakespeare", beside))):
            line += f"   {speed / peer:.2f}x nanoGPT" + (f" (wanted: {LEAST}x)" if beside else "")
        print(line, f"  all: {', '.join(f'{each:,.0f}' for each in sorted(speeds[name, beside]))}")


@contextlib.contextmanager
def busy_threads(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fledge(folder: Path, preset: str, text: Path, tokens: int) -> Program:
    """`fledge train`, whose metrics.csv has a row for each step here."""

    def train(steps: int) -> Steps:
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            words = ["train", preset, "--data.corpus", str(text), "--data.val", "0.1", "--run", "a", "--runs", runs]
            words += ["--train.steps", str(steps), "--train.log_every", "1"]
            words += ["--train.eval_every", "0", "--train.sample_every", "0"]
            run([sys.executable, "-m", "fledge", *words], folder, environment() | FLEDGE_VARIABLES)
            with (Path(runs) / "a" / "metrics.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        return Steps([float(row["train/loss"]) for row in rows], [float(row["train/step_seconds"]) for row in rows])

    return Program(tokens, train)


def nanogpt(folder: Path, checkout: Path, text: Path) -> Program:
    """Its own train.py."""
    folder.mkdir()
    copy_nanogpt(checkout, folder, text)

    def train(steps: int) -> Steps:
        settings = {
            **README,
            "max_iters": str(steps),
            "eval_interval": "1000000",
            "eval_iters": "1",
            "log_interval": "1",
        }
        words = [f"--{name}={value}" for name, value in settings.items()]
        output = run([sys.executable, "train.py", "config/train_shakespeare_char.py", *words], folder, environment())
        found = re.findall(r"^iter \d+: loss ([\d.]+), time ([\d.]+)ms", output, re.MULTILINE)
        return Steps([float(loss) for loss, _ in found], [float(time) / 1000 for _, time in found])

    return Program(12 * 64, train)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OPENMP}


if __name__ == "__main__":
    main()
