"""Shared by all benchmarks: run ours and the peer alternately in one process; print ratio, machine and versions."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} core(s) used, {platform.system()}, Python {platform.python_version()}"


def versions(*names: str) -> str:
    return " ".join(f"{name}={importlib.metadata.version(name)}" for name in names)


def commit() -> str:
    """Of this checkout; with "-dirty" where files differ from it."""
    words = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown commit"


def timed(fn: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    fn()
    return time.perf_counter() - begun


def compare(label: str, ours: Callable[[], object], peer: Callable[[], object], rounds: int) -> float:
    """Print and return how many times faster ours is. Runs alternate, so that other load affects both."""
    pairs = [(timed(ours), timed(peer)) for _ in range(rounds)]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = other / mine
    print(f"{label:<58} {ratio:8.1f}x   ours {mine:.3f} s   peer {other:.3f} s   (medians of {rounds})", flush=True)
    return ratio


def run(command: list[str], folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """What a command in this folder prints; what fledge caches stays in it."""
    environment = {**environment, "FLEDGE_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def copy_nanogpt(checkout: Path, folder: Path, text: Path) -> None:
    """A copy of the checkout, which stays unchanged, with `text` prepared as its shakespeare_char."""
    run(["cp", "-r", f"{checkout}/.", str(folder)], folder)
    corpus = folder / "data" / "shakespeare_char"
    (corpus / "input.txt").write_bytes(text.read_bytes())
    run([sys.executable, "prepare.py"], corpus)
