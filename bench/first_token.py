"""Seconds until `fledge generate` has printed its first token, beyond what importing torch takes.

    python bench/first_token.py runs/demo          target: at most 1 s

The path is measured and remembered in a first run, which does not count. Both commands alternate.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import common

TARGET = 1.0


def first_output(command: list[str]) -> float:
    """Seconds until a command has printed something, with its start."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 1)  # type: ignore[union-attr]
    seconds = time.perf_counter() - begun
    errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="name or path of a run")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(common.machine(), common.versions("torch"))
    # --jsonl prints nothing before the token; the text printed to a terminal begins with the prompt.
    generate = [sys.executable, "-m", "fledge", "generate", args.run, "--prompt", "the", "--tokens", "1", "--jsonl"]
    bare = [sys.executable, "-c", "import torch; print(1, flush=True)"]
    first_output(generate)
    pairs = [(first_output(generate), first_output(bare)) for _ in range(args.rounds)]
    ours, torch = (statistics.median(times) for times in zip(*pairs, strict=True))
    beyond = statistics.median(mine - theirs for mine, theirs in pairs)
    print(f"first token {ours:.2f} s   import torch {torch:.2f} s   beyond it {beyond:.2f} s (target: {TARGET:.0f} s)")
    sys.exit(beyond > TARGET)


if __name__ == "__main__":
    main()
