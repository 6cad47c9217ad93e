"""`fledge prepare` killed at random moments: does a rerun always end in the same bytes?

    python bench/kill_prepare.py --folder SCRATCH [--times 50] [--seed 1]

Makes a mixed text (a long plain file, JSON lines in gzip, parquet, many small files), prepares it once undisturbed,
and then again and again: a process is killed with SIGKILL at a random moment, alone or with its workers in turns, and
the same command is run, until one run ends well. Half of the datasets are filtered and freed of duplicates, so that
kills fall into the first walk, too. Every file of every dataset is compared with the undisturbed one.
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
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common import machine
from fledge.text import sources

FILTERS = ["--data.dedup", "true", "--data.min_length", "20"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where texts and datasets may lie for a while")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(machine(), flush=True)
    chance, texts = random.Random(args.seed), args.folder / "texts"
    write_texts(texts)
    kinds = {"plain": [], "filtered": FILTERS}
    whole: dict[str, dict[str, bytes]] = {}
    seconds: dict[str, float] = {}
    for kind, options in kinds.items():
        begun = time.perf_counter()
        finish(command(texts, args.folder / kind, options))
        seconds[kind], whole[kind] = time.perf_counter() - begun, contents(args.folder / kind)
    kills, phases, wrong = 0, Counter[str](), 0
    while kills < args.times:
        kind = ("plain", "filtered")[kills % 2]
        out = args.folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(chance.randint(1, 3)):
            phases[killed(command(texts, out, kinds[kind]), chance.uniform(0, seconds[kind]), out, kills % 4 < 2)] += 1
            kills += 1
        finish(command(texts, out, kinds[kind]))
        wrong += contents(out) != whole[kind]
    print(f"{kills} kills ({', '.join(f'{n} {name}' for name, n in sorted(phases.items()))}): {wrong} datasets differ")
    shutil.rmtree(args.folder)
    sys.exit(bool(wrong))


def write_texts(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "small").mkdir(parents=True)
    modules = [document.text for document in sources.read("python")]
    (folder / "long.txt").write_text("".join(modules) * 12, encoding="utf-8")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in modules + modules[:50])
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 1))
    pq.write_table(pa.table({"text": modules}), folder / "rows.parquet", row_group_size=40)
    for number, text in enumerate(modules):
        (folder / "small" / f"{number:04}.py").write_text(text, encoding="utf-8")


def command(texts: Path, out: Path, options: list[str]) -> list[str]:
    here = [sys.executable, "-m", "fledge", "prepare", str(texts), "--out", str(out), "--workers", "2"]
    return [*here, "--tokenizer.learn_from", "4", *options]


def finish(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")


def killed(words: list[str], seconds: float, out: Path, workers_too: bool) -> str:
    """Where it was: as told by what lies in the folder."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, start_new_session=True, **quiet)  # type: ignore[call-overload]
    time.sleep(seconds)
    if workers_too:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    if (out / "dataset.json").exists():
        return "at the end"
    if not (out / ".parts").is_dir():
        return "at the start"
    records = list((out / ".parts").glob("*.json"))
    return "among parts" if records else "before the first part"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
