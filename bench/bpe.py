"""From-scratch BPE training against minbpe's RegexTokenizer: both pure Python, same text, same pattern.

    python bench/bpe.py --minbpe PATH [--text FILE] [--merges 4096] [--sample 24]

PATH is a checkout of https://github.com/karpathy/minbpe. Its 4,096 merges would take many minutes, so `--sample` merges
are run, and the rest is reckoned: a merge costs less as the text gets shorter, so each later one is counted at the cost
of the sample's mean merge times the share of symbols that is still there by then. Then a 16k vocabulary on 10 MB.
"""

import argparse
import importlib
import sys
from itertools import pairwise
from pathlib import Path

from common import machine, timed, versions
from fledge.text import sources
from fledge.tokenizers.bpe import BpeTokenizer, Pair, count_chunks, merge_pair
from fledge.tokenizers.byte_level import ALPHABET

BYTES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minbpe", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="default: the first megabyte of Python's standard library")
    parser.add_argument("--merges", type=int, default=4096)
    parser.add_argument("--sample", type=int, default=24)
    args = parser.parse_args()
    library = "\n".join(document.text for document in sources.read_source("python"))
    text = args.text.read_text("utf-8") if args.text else library[:1_000_000]
    print(machine(), "|", versions("regex", "tokenizers"))
    against_minbpe(text, args.minbpe, args.merges, args.sample)
    large = (library * 2)[:10_000_000]
    seconds = timed(lambda: BpeTokenizer.train([large], 16_384, exact=False))
    print(f"16k vocabulary on {len(large.encode()) / 1e6:.1f} MB of the standard library: {seconds:.1f} s")


def against_minbpe(text: str, path: Path, merges: int, sample: int) -> None:
    sys.path.insert(0, str(path))
    peer = importlib.import_module("minbpe.regex").RegexTokenizer
    made: list[BpeTokenizer] = []

    def ours() -> None:
        made.append(BpeTokenizer.train([text], BYTES + merges, pattern="gpt4"))

    one = timed(ours)
    theirs = timed(lambda: peer().train(text, BYTES + sample)) / sample
    two = timed(ours)
    shares = remaining(text, made[0])
    first = sum(shares[:sample]) / sample
    reckoned = theirs * sum(shares[:merges]) / first
    mine = (one + two) / 2
    print(f"{len(text.encode()):,} bytes, {merges} merges: ours {mine:.2f} s")
    print(f"minbpe: {theirs:.3f} s a merge over its first {sample}; {merges} merges reckoned {reckoned:.0f} s")
    print(f"(at the sample's cost throughout, without the text getting shorter: {theirs * merges:.0f} s)")
    print(f"ratio: {reckoned / mine:.0f}x")


def remaining(text: str, made: BpeTokenizer) -> list[float]:
    """The share of symbols that is left before each merge: what minbpe walks through every time."""
    chunks = count_chunks([text], "gpt4")
    byte = {piece: i for i, piece in enumerate(ALPHABET)}
    words = [[byte[bytes([b])] for b in chunk.encode()] for chunk in chunks]
    times = list(chunks.values())
    holds: dict[Pair, set[int]] = {}
    for place, word in enumerate(words):
        for pair in pairwise(word):
            holds.setdefault(pair, set()).add(place)
    total = left = sum(len(word) * often for word, often in zip(words, times, strict=True))
    shares = []
    for number, pair in enumerate(made.merges):
        shares.append(left / total)
        for place in holds.get(pair, ()):
            before = len(words[place])
            for changed, change in merge_pair(words[place], pair, BYTES + number):
                if change > 0:
                    holds.setdefault(changed, set()).add(place)
            left -= (before - len(words[place])) * times[place]
    return shares


if __name__ == "__main__":
    main()
