"""`fledge prepare` end to end against the encoder alone, and its peak memory.

    python bench/prepare.py --gpt2 DIR --folder SCRATCH [--megabytes 5000] [--rounds 1]

The text is the standard library, repeated, with the number of the copy after every twentieth word: as one plain file,
and as JSON lines with one module a line. The encoder alone: one process per core, each with its share of the text; only
the calls of `encode` are timed. `fledge prepare` is timed as a whole command, including start-up, hashing and disk.
Memory is the sum of the PSS of all its processes, sampled 20 times a second.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from common import machine, versions
from fledge.text import sources
from fledge.tokenizers import gpt2

CHUNK = 1 << 16  # bytes at a time, as in `prepare`; faster than a MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=5000)
    parser.add_argument("--only", choices=["txt", "jsonl"], help="one of the two files (default: both)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="for the text and the dataset, which are deleted")
    args = parser.parse_args()
    print(machine(), "|", versions("gigatoken", "tokenizers"))
    args.folder.mkdir(parents=True, exist_ok=True)
    for file, jsonl in ((args.folder / "text.txt", False), (args.folder / "text.jsonl", True)):
        if args.only and args.only != file.suffix[1:]:
            continue
        generate(file, args.megabytes * 1_000_000, jsonl)
        compare(file, args.gpt2, args.rounds)
        file.unlink()


def generate(file: Path, size: int, jsonl: bool) -> None:
    modules = [document.text for document in sources.read_source("python")]
    with file.open("w", encoding="utf-8") as out:
        copy = 0
        while out.tell() < size:
            for text in modules:
                marked = mark(text, copy)
                out.write(json.dumps({"text": marked}, ensure_ascii=False) + "\n" if jsonl else marked)
            copy += 1
        out.flush()
        os.fsync(out.fileno())  # else the disk would still be writing while `prepare` runs


def mark(text: str, number: int) -> str:
    words = text.split(" ")
    words[::20] = [f"{word}{number}" for word in words[::20]]
    return " ".join(words)


def compare(file: Path, vocabulary: Path, rounds: int) -> None:
    encoder, command, peaks = [], [], []
    for _ in range(rounds):
        encoder.append(encoder_alone(file, vocabulary))
        seconds, peak = prepare(file, vocabulary)
        command.append(seconds)
        peaks.append(peak)
    size, encoding, preparing = file.stat().st_size, statistics.median(encoder), statistics.median(command)
    print(
        f"{file.name}, {size / 1e9:.2f} GB: prepare reaches {encoding / preparing:.0%} of the encoder's speed "
        f"({size / preparing / 1e6:.0f} of {size / encoding / 1e6:.0f} MB/s, medians of {rounds}); "
        f"peak memory {max(peaks) / 1e6:.0f} MB",
        flush=True,
    )


def encoder_alone(file: Path, vocabulary: Path) -> float:
    """Seconds of the slowest process."""
    count = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(count), spawn.Queue()
    workers = [
        spawn.Process(target=encode_share, args=(file, vocabulary, n, count, start, answers)) for n in range(count)
    ]
    for worker in workers:
        worker.start()
    seconds = max(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(seconds)


def encode_share(
    file: Path, vocabulary: Path, number: int, count: int, start: Barrier, answers: "multiprocessing.Queue[float]"
) -> None:
    tokenizer, spent, size = gpt2.load_gpt2([vocabulary]), 0.0, file.stat().st_size // count
    tokenizer.encode("")
    start.wait()
    with file.open("rb") as stored:
        stored.seek(number * size)
        for _ in range(size // CHUNK):
            text = stored.read(CHUNK).decode("utf-8", "replace")
            begun = time.perf_counter()
            tokenizer.encode(text)
            spent += time.perf_counter() - begun
    answers.put(spent)


def prepare(file: Path, vocabulary: Path) -> tuple[float, float]:
    out = file.with_suffix(".data")
    shutil.rmtree(out, ignore_errors=True)
    words = ["prepare", str(file), "--out", str(out), "--tokenizer.kind", "gpt2"]
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(vocabulary)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peaks: list[int] = []
    watcher = threading.Thread(target=watch_memory, args=(process, peaks))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - begun
    watcher.join()
    if code:
        raise SystemExit(f"fledge prepare ended with {code}")
    shutil.rmtree(out)
    return seconds, max(peaks)


def watch_memory(process: "subprocess.Popen[bytes]", peaks: list[int]) -> None:
    while process.poll() is None:
        peaks.append(sum(map(pss, process_tree(process.pid))))
        time.sleep(0.05)


def process_tree(pid: int) -> list[int]:
    """A process and all of its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in process_tree(int(child)))]


def pss(pid: int) -> int:
    """Proportional set size in bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
