"""Kill `fledge prepare` again and again: it must still produce the bytes of an uninterrupted run.

    python bench/kill_prepare.py [--times 50] [--megabytes 16] [--round NAME] [--seed 0]

The text is mixed: plain files with a separator, one long document, gzipped JSON lines, parquet, some duplicates. Every
attempt gets SIGKILL at a random moment of a phase: during start-up, while documents are filtered, while parts are
encoded, or at the very end. The signal goes alternately to the whole process group and to the main process alone, whose
workers must then exit by themselves. The same command is repeated at once, and sometimes killed again. When it has
finished, every file must equal that of the uninterrupted run, and there must be no other files.

Parts are made small, so that this text has as many of them as gigabytes would have.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common import machine, versions

COMMON = ["--workers", "2", "--tokenizer.vocab_size", "512", "--data.separator", r"\n\n", "--data.test", "0.1"]
ROUNDS = {
    "plain": [],
    "dedup and filters": ["--data.dedup", "true", "--data.min_length", "60", "--data.charset", "ascii"],
    "characters, by tail": ["--tokenizer.kind", "char", "--data.split_by", "tail"],
}
PHASES = ["start-up", "filtering", "encoding", "end", "retry"]
PARTS = 24  # about this many
KILL_AGAIN = 0.4  # probability that an attempt after a killed one is killed, too
END_SECONDS = 0.1  # length of the phase 'end', after the last part
EXIT_TIMEOUT = 10  # seconds for a worker to exit after its main process
PROGRAM = """
import sys
from fledge.cli.main import main
from fledge.datasets import plan
plan.MIN_PART = plan.MAX_PART = {}
sys.exit(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--round", choices=list(ROUNDS), help="only this one (default: all, alternately)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine(), "|", versions("gigatoken", "tokenizers", "pyarrow"))
    rng, begun = random.Random(args.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        size = int(args.megabytes * 1e6)
        write_texts(Path(name) / "texts", size, rng)
        rounds = [Round(label, Path(name), size // PARTS, rng) for label in ROUNDS if args.round in (None, label)]
        turns = cycle(rounds)
        while (left := args.times - sum(each.kills.total() for each in rounds)) > 0:
            next(turns).interrupt(left)
    print(f"{'killed in':<20}", *(f"{phase:>9}" for phase in PHASES), "| datasets  different  workers left")
    for each in rounds:
        print(each.row())
    bad = sum(each.different + each.left for each in rounds)
    print(f"{args.times} kills in {time.perf_counter() - begun:.0f} s:", "FAILED" if bad else "all passed")
    raise SystemExit(bad > 0)


def write_texts(folder: Path, size: int, rng: random.Random) -> None:
    folder.mkdir()
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(3000)]

    def documents(size: int) -> Iterator[str]:
        shelf = ["größe und 鴨"]
        while size > 0:
            fresh = " ".join(rng.choices(words, k=rng.randint(3, 400)))
            text = rng.choice(shelf) if rng.random() < 0.1 else fresh
            shelf = [*shelf[-50:], fresh]
            size -= len(text)
            yield text

    share = size // 16
    for number in range(4):
        (folder / f"plain-{number}.txt").write_text("\n\n".join(documents(share)), "utf-8")
        with gzip.open(folder / f"lines-{number}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in documents(share))
    (folder / "long.txt").write_text(" ".join(documents(4 * share)), "utf-8")
    pq.write_table(pa.table({"text": list(documents(4 * share))}), folder / "rows.parquet", row_group_size=50)


class Round:
    """One set of options: the uninterrupted dataset, and counts of the interrupted ones."""

    def __init__(self, label: str, folder: Path, part: int, rng: random.Random) -> None:
        self.label, self.rng = label, rng
        self.home, self.out = folder / label, folder / label / "out"
        self.words = [sys.executable, "-c", PROGRAM.format(part), "prepare", str(folder / "texts")]
        self.words += ["--out", str(self.out), *COMMON, *ROUNDS[label]]
        self.kills: Counter[str] = Counter()
        self.datasets = self.different = self.left = 0
        self.phases, self.alone = cycle(PHASES[:-1]), cycle([False, True])
        self.parts = sys.maxsize
        self.home.mkdir()
        self.lengths = self.measure_phases()
        self.expected = self.take_files()
        self.parts = len({Path(name).stem for name in self.expected if name.endswith(".tokens")})

    def start(self) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self.words, stdout=quiet, stderr=quiet, start_new_session=True)

    def measure_phases(self) -> dict[str, float]:
        """Seconds of each phase of an uninterrupted run."""
        begun, process, seen = time.perf_counter(), self.start(), {}
        while process.poll() is None:
            for phase in ("filtering", "encoding"):
                if phase not in seen and self.has_reached(phase):
                    seen[phase] = time.perf_counter() - begun
            time.sleep(0.002)
        total = time.perf_counter() - begun
        require_success(process)
        filtering, encoding = seen["filtering"], seen["encoding"]
        lengths = (filtering, encoding - filtering, total - encoding, END_SECONDS, total)
        return dict(zip(PHASES, lengths, strict=True))

    def has_reached(self, phase: str) -> bool:
        work = self.out / ".parts"
        if phase in ("start-up", "retry"):
            return True
        if phase == "filtering":
            return (work / "tokenizer.key").exists()
        return len(list(work.glob("[0-9]*.json"))) >= (1 if phase == "encoding" else self.parts)

    def interrupt(self, most: int) -> None:
        """Make one dataset, in as many attempts as it takes."""
        phase, killed = next(self.phases), []
        while len(killed) < most and (process := self.kill(phase)):
            killed.append(process)
            self.kills[phase] += 1
            phase = "retry"
            if self.rng.random() > KILL_AGAIN:
                break
        require_success(self.start())
        self.datasets += 1
        self.left += sum(not has_exited(process.pid) for process in killed)
        self.different += self.take_files() != self.expected

    def kill(self, phase: str) -> "subprocess.Popen[bytes] | None":
        """Start an attempt and kill it in this phase; None if it finished before that."""
        process = self.start()
        while process.poll() is None and not self.has_reached(phase):
            time.sleep(0.002)
        time.sleep(self.rng.uniform(0, self.lengths[phase]))
        if process.poll() is not None:
            return None
        (os.kill if next(self.alone) else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        return process

    def take_files(self) -> dict[str, bytes]:
        """Read all files, and delete the dataset."""
        files = [path for path in self.home.rglob("*") if path.is_file()]
        contents = {path.relative_to(self.home).as_posix(): path.read_bytes() for path in files}
        shutil.rmtree(self.out)
        return contents

    def row(self) -> str:
        counts = " ".join(f"{self.kills[phase]:>9}" for phase in PHASES)
        return f"{self.label:<20} {counts} | {self.datasets:>8} {self.different:>10} {self.left:>13}"


def require_success(process: "subprocess.Popen[bytes]") -> None:
    if process.wait() != 0:
        raise SystemExit("an attempt that was not killed has failed")


def has_exited(group: int) -> bool:
    """Whether no process of a killed attempt is left."""
    until = time.monotonic() + EXIT_TIMEOUT
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    main()
