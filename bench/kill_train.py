"""Kill `fledge train demo` at random moments: how many seconds of work are lost, and what does saving cost?

    python bench/kill_train.py [--kills 20] [--after 60] [--spread 60] [--seed 0] [--preset demo] [--train.… VALUE …]

The run is started as a user would start it, gets SIGKILL at a random moment between `after` and `after + spread`
seconds from the start of the process, is resumed, killed again, and so on; a run that has finished is followed by a new
one. For each kill: the step that training had reached, the newest intact checkpoint, and what lies between them. Each
resumed process must start from exactly that checkpoint. At last the run is resumed once more and stopped by SIGTERM.

Lost may be at most train.save_seconds of steps, one save and one step. Reached is estimated where steps are not logged.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine, versions
from fledge.checkpoint import store
from fledge.core.config import read_toml
from fledge.settings.pipeline import validated

NEW_STEPS = 3  # of the last process, before it is stopped
TIMEOUT = 600.0
COLUMNS = ("kill", "alive", "reached", "saved", "lost steps", "of steps", "wall clock", "save", "resumed")
Events = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--after", type=float, default=60, help="seconds from the start of a process")
    parser.add_argument("--spread", type=float, default=60, help="seconds after that within which it is killed")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    args, words = parser.parse_known_args()
    print(machine(), "|", versions("torch"))
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = KilledRun(Path(folder), [args.preset, "--train.log_every", "1", *words])  # so that the step is known
        print("".join(f"{column:>12}" for column in COLUMNS), flush=True)
        while len(run.losses) < args.kills:
            run.kill(rng.uniform(args.after, args.after + args.spread))
        run.stop()
    raise SystemExit(run.summary())


@dataclass
class Lost:
    """What one kill has cost."""

    steps: int
    step_seconds: float  # what these steps had taken
    limit: float


class KilledRun:
    """A run that is killed and resumed; another one follows where it has finished."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.runs, self.words, self.number = folder / "runs", words, 1
        self.losses: list[Lost] = []
        self.seconds = self.blocked = self.saving = 0.0  # of training, waiting for saves, writing them
        self.slowest = 0.0  # save

    @property
    def folder(self) -> Path:
        return self.runs / f"run-{self.number}"

    @property
    def checkpoint(self) -> store.Checkpoint | None:
        """The one that training would continue from."""
        if store.is_unsaved(self.folder / "checkpoints"):
            return None
        found, damaged = store.find_checkpoint(self.folder / "checkpoints")
        if damaged:
            raise SystemExit(f"damaged: {damaged}")
        return found

    def start(self) -> "subprocess.Popen[bytes]":
        name = self.folder.name
        resumed = (self.folder / "config.toml").exists()
        words = ["resume", name] if resumed else ["train", *self.words, "--run", name]
        command = [sys.executable, "-m", "fledge", *words, "--runs", str(self.runs)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self, seconds: float) -> None:
        begun, expected, process = time.time(), self.checkpoint, self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            self.measure(begun, time.time(), expected)
            process.wait()
            return
        if process.returncode:
            raise SystemExit(f"the run has failed, with status {process.returncode}")
        self.number += 1  # it has finished

    def measure(self, begun: float, killed: float, expected: store.Checkpoint | None) -> None:
        started, events = self.events()
        resumed = started["step"] if started else 0
        if started and expected and resumed != expected.step:
            raise SystemExit(f"resumed from step {resumed}, and step {expected.step} was saved")
        logged = [event for event in events if "train/loss" in event.get("values", {})]
        steps = [(event["step"], event["time"]) for event in logged]
        step_seconds = statistics.median([event["values"]["train/step_seconds"] for event in logged] or [0.0])
        reached, last_time = steps[-1] if steps else (resumed, killed)
        reached += int((killed - last_time) / step_seconds) if step_seconds else 0
        found = self.checkpoint
        saved = found.step if found else 0
        since = moment(saved, [(resumed, started["time"] if started else begun), *steps])
        saves = [event for event in events if event["event"] == "Saved"]
        longest = max((max(event["seconds"], event["blocked_seconds"]) for event in saves), default=0.0)
        self.slowest = max(self.slowest, longest)
        self.seconds += killed - (started["time"] if started else begun)
        self.blocked += sum(event["blocked_seconds"] for event in saves)
        self.saving += sum(event["seconds"] for event in saves)
        limit = validated(read_toml(self.folder / "config.toml")).train.save_seconds + self.slowest + step_seconds
        self.losses.append(Lost(reached - saved, (reached - saved) * step_seconds, limit))
        row: list[object] = [len(self.losses), f"{killed - begun:.1f} s", reached, saved, reached - saved]
        row += [
            f"{(reached - saved) * step_seconds:.1f} s",
            f"{killed - since:.1f} s",
            f"{longest:.2f} s",
            resumed or "-",
        ]
        print("".join(f"{value:>12}" for value in row), flush=True)

    def events(self) -> tuple[dict[str, Any] | None, Events]:
        """The start of the last process, and what it has recorded since."""
        lines = (self.folder / "events.jsonl").read_text().splitlines() if self.folder.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        starts = [index for index, event in enumerate(found) if event["event"] == "Started"]
        return (found[starts[-1]], found[starts[-1] + 1 :]) if starts else (None, [])

    def stop(self) -> None:
        """Resume once more, and stop after a few new steps."""
        before, process, end = self.checkpoint, self.start(), time.time() + TIMEOUT
        saved = before.step if before else 0
        while process.poll() is None and self.last_step(since=end - TIMEOUT) < saved + NEW_STEPS and time.time() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        if process.wait() not in (0, 128 + signal.SIGTERM):
            raise SystemExit(f"the last process ended with status {process.returncode}")
        after = self.checkpoint
        print(f"resumed from step {saved}, stopped by SIGTERM with a checkpoint of step {after.step if after else 0}")

    def last_step(self, since: float) -> int:
        started, events = self.events()
        if started is None or started["time"] < since:
            return 0
        return max((event["step"] for event in events if event["event"] == "Metrics"), default=0)

    def summary(self) -> int:
        worst = max(self.losses, key=lambda lost: lost.step_seconds)
        late = sum(lost.step_seconds > lost.limit for lost in self.losses)
        print(f"most lost: {worst.steps} steps, {worst.step_seconds:.1f} s (limit {worst.limit:.1f} s)")
        blocked, saving = self.blocked / self.seconds, self.saving / self.seconds
        print(f"saving: training waited {blocked:.2%} of {self.seconds:.0f} s; written beside it in {saving:.2%}")
        print(f"{len(self.losses)} kills:", f"FAILED, {late} lost more than the limit" if late else "all passed")
        return 1 if late else 0


def moment(step: int, known: list[tuple[int, float]]) -> float:
    """When `step` was finished, by linear interpolation between steps whose time is known."""
    before = max((each for each in known if each[0] <= step), default=known[0])
    after = min((each for each in known if each[0] >= step), default=known[-1])
    if after[0] <= before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (step - before[0]) / (after[0] - before[0])


if __name__ == "__main__":
    main()
