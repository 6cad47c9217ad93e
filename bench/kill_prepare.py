"""`fledge prepare` is killed, again and again, and must give the bytes of a run that nobody disturbed.

    python bench/kill_prepare.py [--times 50] [--megabytes 16] [--round NAME] [--seed 0]

The text is mixed: plain files with a separator, one long document, JSON lines in gzip, parquet; some documents come
twice. Every attempt is shot with SIGKILL at a moment of a phase, drawn by chance: while it starts, while documents are
judged, while parts are encoded, or at the very end; in turns the whole process group, or the main process alone, whose
workers must then vanish by themselves. The same command is given again at once, and sometimes killed once more. When it
has come through, every file must be that of the undisturbed run, and nothing else may lie about.

Parts are made small, so that this text has as many of them as one of gigabytes.
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
    "as it is": [],
    "dedup and filters": ["--data.dedup", "true", "--data.min_length", "60", "--data.charset", "ascii"],
    "characters, by tail": ["--tokenizer.kind", "char", "--data.split_by", "tail"],
}
PHASES = ["start-up", "judging", "encoding", "end", "once more"]
PARTS = 24  # about so many
AGAIN = 0.4  # how often an attempt that follows a killed one is killed, too
LAST = 0.1  # seconds after the last part in which the end is shot at
PATIENCE = 10  # seconds until a worker without its main process must be gone
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
    parser.add_argument("--round", choices=list(ROUNDS), help="this one only (default: all, in turns)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine(), "|", versions("gigatoken", "tokenizers", "pyarrow"))
    chance, begun = random.Random(args.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        size = int(args.megabytes * 1e6)
        write_texts(Path(name) / "texts", size, chance)
        rounds = [Round(label, Path(name), size // PARTS, chance) for label in ROUNDS if args.round in (None, label)]
        turns = cycle(rounds)
        while (left := args.times - sum(each.kills.total() for each in rounds)) > 0:
            next(turns).disturb(left)
    print(f"{'killed in':<20}", *(f"{phase:>9}" for phase in PHASES), "| datasets  different  workers left")
    for each in rounds:
        print(each.row())
    bad = sum(each.different + each.left for each in rounds)
    print(f"{args.times} kills in {time.perf_counter() - begun:.0f} s:", "NOT WELL" if bad else "all well")
    raise SystemExit(bad > 0)


def write_texts(folder: Path, size: int, chance: random.Random) -> None:
    folder.mkdir()
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(1, 9))) for _ in range(3000)]

    def documents(size: int) -> Iterator[str]:
        shelf = ["größe und 鴨"]
        while size > 0:
            fresh = " ".join(chance.choices(words, k=chance.randint(3, 400)))
            text = chance.choice(shelf) if chance.random() < 0.1 else fresh
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
    """One way to prepare the text: the undisturbed dataset, and what becomes of the disturbed ones."""

    def __init__(self, label: str, folder: Path, part: int, chance: random.Random) -> None:
        self.label, self.chance = label, chance
        self.home, self.out = folder / label, folder / label / "out"
        self.words = [sys.executable, "-c", PROGRAM.format(part), "prepare", str(folder / "texts")]
        self.words += ["--out", str(self.out), *COMMON, *ROUNDS[label]]
        self.kills: Counter[str] = Counter()
        self.datasets = self.different = self.left = 0
        self.phases, self.alone = cycle(PHASES[:-1]), cycle([False, True])
        self.parts = sys.maxsize
        self.home.mkdir()
        self.lengths = self.watched()
        self.whole = self.taken()
        self.parts = len({Path(name).stem for name in self.whole if name.endswith(".tokens")})

    def start(self) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self.words, stdout=quiet, stderr=quiet, start_new_session=True)

    def watched(self) -> dict[str, float]:
        """Nobody disturbs it; how long each phase takes, in seconds."""
        begun, process, seen = time.perf_counter(), self.start(), {}
        while process.poll() is None:
            for phase in ("judging", "encoding"):
                if phase not in seen and self.has_come_to(phase):
                    seen[phase] = time.perf_counter() - begun
            time.sleep(0.002)
        whole = time.perf_counter() - begun
        ended_well(process)
        judging, encoding = seen["judging"], seen["encoding"]
        lengths = (judging, encoding - judging, whole - encoding, LAST, whole)
        return dict(zip(PHASES, lengths, strict=True))

    def has_come_to(self, phase: str) -> bool:
        work = self.out / ".parts"
        if phase in ("start-up", "once more"):
            return True
        if phase == "judging":
            return (work / "tokenizer.key").exists()
        return len(list(work.glob("[0-9]*.json"))) >= (1 if phase == "encoding" else self.parts)

    def disturb(self, most: int) -> None:
        """One dataset, in as many attempts as it takes."""
        phase, shot = next(self.phases), []
        while len(shot) < most and (process := self.killed(phase)):
            shot.append(process)
            self.kills[phase] += 1
            phase = "once more"
            if self.chance.random() > AGAIN:
                break
        ended_well(self.start())
        self.datasets += 1
        self.left += sum(not vanished(process.pid) for process in shot)
        self.different += self.taken() != self.whole

    def killed(self, phase: str) -> "subprocess.Popen[bytes] | None":
        """The attempt, or None where it came through before it was hit."""
        process = self.start()
        while process.poll() is None and not self.has_come_to(phase):
            time.sleep(0.002)
        time.sleep(self.chance.uniform(0, self.lengths[phase]))
        if process.poll() is not None:
            return None
        (os.kill if next(self.alone) else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        return process

    def taken(self) -> dict[str, bytes]:
        """What lies there, which goes."""
        files = [path for path in self.home.rglob("*") if path.is_file()]
        held = {path.relative_to(self.home).as_posix(): path.read_bytes() for path in files}
        shutil.rmtree(self.out)
        return held

    def row(self) -> str:
        counts = " ".join(f"{self.kills[phase]:>9}" for phase in PHASES)
        return f"{self.label:<20} {counts} | {self.datasets:>8} {self.different:>10} {self.left:>13}"


def ended_well(process: "subprocess.Popen[bytes]") -> None:
    if process.wait() != 0:
        raise SystemExit("an attempt that nobody killed has failed")


def vanished(group: int) -> bool:
    """Whether nobody of a killed attempt is at work any more."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    main()
