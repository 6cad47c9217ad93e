"""`fledge prepare` end to end against the encoder alone, and the memory that it takes.

    python bench/prepare.py --gpt2 DIR --folder SCRATCH [--megabytes 5000] [--rounds 1]

The text is the standard library again and again, each copy with its own number behind every twentieth word: as one
plain file, and as JSON lines, a module a line. The encoder alone: as many processes as cores, each with its share of
the text; only its calls are counted, not reading, not making processes or the tokenizer. `fledge prepare` is the whole
command, start-up, hashes and disk included. Memory is the sum over its processes of what each holds alone and its share
of what they hold together (PSS), looked at 20 times a second.
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

PIECE = 1 << 16  # what prepare hands it at a time, too; it is faster so than with a MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=5000)
    parser.add_argument("--only", choices=["txt", "jsonl"], help="one of the two files (default: both)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="where the text and the dataset may lie for a while")
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
        os.fsync(out.fileno())  # or the disk would still be busy with it while `prepare` works


def mark(text: str, number: int) -> str:
    words = text.split(" ")
    words[::20] = [f"{word}{number}" for word in words[::20]]
    return " ".join(words)


def compare(file: Path, vocabulary: Path, rounds: int) -> None:
    alone, whole, peaks = [], [], []
    for _ in range(rounds):
        alone.append(encoder_alone(file, vocabulary))
        seconds, peak = prepare(file, vocabulary)
        whole.append(seconds)
        peaks.append(peak)
    size, encoding, preparing = file.stat().st_size, statistics.median(alone), statistics.median(whole)
    print(
        f"{file.name}, {size / 1e9:.2f} GB: prepare reaches {encoding / preparing:.0%} of the encoder's speed "
        f"({size / preparing / 1e6:.0f} of {size / encoding / 1e6:.0f} MB/s, medians of {rounds}); "
        f"peak memory {max(peaks) / 1e6:.0f} MB",
        flush=True,
    )


def encoder_alone(file: Path, vocabulary: Path) -> float:
    """Seconds of the slowest process."""
    count = len(os.sched_getaffinity(0))
    fresh = multiprocessing.get_context("spawn")
    start, answers = fresh.Barrier(count), fresh.Queue()
    workers = [
        fresh.Process(target=encode_share, args=(file, vocabulary, n, count, start, answers)) for n in range(count)
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
        for _ in range(size // PIECE):
            text = stored.read(PIECE).decode("utf-8", "replace")
            begun = time.perf_counter()
            tokenizer.encode(text)
            spent += time.perf_counter() - begun
    answers.put(spent)


def prepare(file: Path, vocabulary: Path) -> tuple[float, float]:
    out = file.with_suffix(".data")
    shutil.rmtree(out, ignore_errors=True)
    words = ["prepare", str(file), "--out", str(out), "--tokenizer.kind", "gpt2"]
    surroundings = {**os.environ, "TIKTOKEN_CACHE_DIR": str(vocabulary)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "fledge", *words], env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
        peaks.append(sum(map(held_by, family(process.pid))))
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def held_by(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
