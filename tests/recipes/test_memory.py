"""Text is streamed: a large one takes no more memory than a small one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SMALL, LARGE = 6_000_000, 50_000_000  # bytes
ROOM = 40_000_000  # bytes, less than the texts differ by; the buffers of the `tokenizers` library vary by half of that

# The most memory that this process ever held: `ru_maxrss` would count its parent's, too.
WATCHED = """
import json, sys
from fledge.cli.main import main

for words in json.loads(sys.argv[1]):
    assert main(words) == 0
[peak] = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) << 10, file=sys.stderr)
"""


def most(verbs: list[str], folder: Path) -> int:
    """Peak memory in a process of its own."""
    call = [sys.executable, "-c", WATCHED, json.dumps([verb.split() for verb in verbs])]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the most memory held")
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 8))) for _ in range(5000)]
    block = "".join(" ".join(chance.choices(words, k=12)) + "\n" for _ in range(10_000))
    for name, size in (("small", SMALL), ("large", LARGE)):
        (tmp_path / f"{name}.txt").write_text((block * (size // len(block) + 1))[:size])
    verbs = [
        "tokenizer train TEXT.txt --kind char --out TEXT-char.json",
        "tokenizer train TEXT.txt --out TEXT.json",
        "tokenizer report TEXT.json TEXT.txt",
        "prepare TEXT.txt --tokenizer TEXT.json --out TEXT --workers 1",
        "prepare TEXT.txt --tokenizer TEXT.json --data.dedup true --out TEXT-filtered --workers 1",
    ]
    small, large = (most([verb.replace("TEXT", text) for verb in verbs], tmp_path) for text in ("small", "large"))
    assert large - small < ROOM, (small, large)
