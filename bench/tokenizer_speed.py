"""Training from scratch against `tokenizers`, encoding against tiktoken, and identity with both.

    python bench/tokenizer_speed.py --gpt2 DIR [--rounds 3] [--strings 100000] [--text FILE …]

DIR holds GPT-2's vocab.bpe and encoder.json. Training text: the standard library, repeated to 40 MB, with the number of
the copy after every twentieth word, so that the copies differ. Encoding runs on one core (the process pins itself) and
cold: with a new tokenizer for every run, whose construction is not timed.
"""

import argparse
import os
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken

from common import compare, machine, versions
from fledge.text import sources
from fledge.tokenizers import gpt2
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.hf import HFTokenizer

END = "<|endoftext|>"
VOCABULARY = 16_384
SURROGATES = range(0xD800, 0xE000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="more texts to compare and encode")
    args = parser.parse_args()
    print(machine(), "|", versions("gigatoken", "tokenizers", "tiktoken"))
    library = "\n".join(document.text for document in sources.read_source("python"))
    texts = {"the standard library": library} | {path.name: path.read_text("utf-8") for path in args.text}
    training(library, args.rounds)
    identity(args.gpt2, texts, args.strings)
    encoding(args.gpt2, texts, args.rounds)


def training(library: str, rounds: int) -> None:
    texts = distinct_copies(library, 40_000_000)
    size = sum(len(text.encode()) for text in texts) / 1e6
    trained: dict[str, BpeTokenizer | HFTokenizer] = {}

    def ours() -> None:
        trained["from scratch"] = BpeTokenizer.train(texts, VOCABULARY, END)

    def peer() -> None:
        trained["tokenizers"] = HFTokenizer.train(texts, VOCABULARY, END)

    compare(f"train {VOCABULARY:,} tokens on {size:.0f} MB from scratch, vs tokenizers", ours, peer, rounds)
    identical = trained["from scratch"].to_json() == trained["tokenizers"].to_json()
    print(f"  identical merges: {identical}", flush=True)


def distinct_copies(text: str, size: int) -> list[str]:
    copies: list[str] = []
    while sum(map(len, copies)) < size:
        words = re.split(r"(?<=\w)(?=\s)", text)
        mark = f"{len(copies)}"
        copies.append("".join(word + mark if i % 20 == 0 else word for i, word in enumerate(words)))
    return copies


def tiktoken_gpt2(folder: Path) -> tiktoken.Encoding:
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END: 50256})


def identity(folder: Path, texts: dict[str, str], strings: int) -> None:
    """GPT-2's ids from the fast, the reference and the plain Python implementation, against tiktoken's."""
    theirs, fast = tiktoken_gpt2(folder).encode_ordinary, gpt2.load_gpt2([folder])
    slow = BpeTokenizer.from_json(fast.to_json())
    every = ["".join(f"{c}a {c}1{c}\n" for c in map(chr, range(start, start + 256))) for start in blocks()]
    sets = {**{name: [text] for name, text in texts.items()}, "every character": every}
    sets[f"{strings:,} random strings"] = random_strings(strings)
    encoders: dict[str, Callable[[str], list[int]]] = {
        "fast": lambda text: fast.encode(text).tolist(),
        "reference": fast._reference_ids,
        "from scratch": lambda text: slow.encode(text).tolist(),
    }
    for name, sample in sets.items():
        expected = [theirs(text) for text in sample]
        wrong = {kind: sum(map(differ, map(encode, sample), expected)) for kind, encode in encoders.items()}
        print(f"  texts with ids other than tiktoken's, {name}: {wrong}", flush=True)


def differ(ours: list[int], theirs: list[int]) -> bool:
    return ours != theirs


def blocks() -> list[int]:
    return [start for start in range(0, 0x110000, 256) if start not in SURROGATES]


def random_strings(count: int) -> list[str]:
    choose = random.Random(1)
    pools = [
        [chr(code) for code in range(0x110000) if code not in SURROGATES],
        list("'sStTdmlLvVeEr \t\n\r\x0b\x1c\x85\xa0\u2003\u3000aé\u0301Я中🦆0١½_!<|>"),
        [" the", " a", "ing", "'ll", "\n\n", "  ", "12", "Duck", " —", "ed", "."],
    ]
    return ["".join(choose.choices(choose.choice(pools), k=choose.randint(0, 60))) for _ in range(count)]


def encoding(folder: Path, texts: dict[str, str], rounds: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(machine())
    content = gpt2.load_gpt2([folder]).to_json()
    for name, text in texts.items():
        ours = [warmed_up(HFTokenizer(content)) for _ in range(rounds)]
        peers = [tiktoken_gpt2(folder) for _ in range(rounds)]
        label = f"encode {name} ({len(text.encode()) / 1e6:.1f} MB), cold, one core, vs tiktoken"
        compare(label, partial(use, ours, "encode", text), partial(use, peers, "encode_ordinary", text), rounds)


def use(fresh: list[Any], method: str, text: str) -> None:
    getattr(fresh.pop(), method)(text)


def warmed_up(tokenizer: HFTokenizer) -> HFTokenizer:
    """The first call checks the fast engine, which belongs to construction."""
    tokenizer.encode("")
    return tokenizer


if __name__ == "__main__":
    main()
