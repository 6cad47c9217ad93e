"""Whatever reads a text reads it as a stream: a large one takes no more memory than a small one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SMALL, LARGE = 6_000_000, 30_000_000  # bytes
ROOM = 15_000_000

# The most memory that this process ever held, after each text: `ru_maxrss` would count its parent's, too.
WATCHED = """
import json, sys
from fledge.cli import main

def most():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

found = []
for text in ("small", "large"):
    for words in json.loads(sys.argv[1]):
        assert main([word.replace("TEXT", text) for word in words]) == 0
    found.append(most())
print(json.dumps(found), file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the most memory held")
def test_tokenizers_and_datasets_are_made_without_holding_the_text(tmp_path: Path) -> None:
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
        "prepare TEXT.txt --tokenizer TEXT.json --data.dedup true --out TEXT-judged --workers 1",
    ]
    call = [sys.executable, "-c", WATCHED, json.dumps([verb.split() for verb in verbs])]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stderr.splitlines()[-1])
    assert large - small < ROOM, (small, large)
