"""BPE training in plain Python: fledge's against minbpe's RegexTokenizer, on the same text with the same pattern.

    python bench/bpe.py --minbpe PATH [--text FILE] [--merges 4096] [--sample 24]

PATH is a checkout of https://github.com/karpathy/minbpe. Its 4,096 merges would take many minutes, so only `--sample`
merges are run and the rest is extrapolated: a merge costs less as the text gets shorter, so each later merge counts as
the mean sampled merge times the share of symbols that is left by then. Then a 16k vocabulary is trained on 10 MB.
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
    trained: list[BpeTokenizer] = []

    def ours() -> None:
        trained.append(BpeTokenizer.train([text], BYTES + merges, pattern="gpt4"))

    one = timed(ours)
    theirs = timed(lambda: peer().train(text, BYTES + sample)) / sample
    two = timed(ours)
    shares = remaining_shares(text, trained[0])
    first = sum(shares[:sample]) / sample
    extrapolated = theirs * sum(shares[:merges]) / first
    mine = (one + two) / 2
    print(f"{len(text.encode()):,} bytes, {merges} merges: ours {mine:.2f} s")
    print(f"minbpe: {theirs:.3f} s per merge over its first {sample}; extrapolated to {merges}: {extrapolated:.0f} s")
    print(f"(if every merge cost as much as those of the sample: {theirs * merges:.0f} s)")
    print(f"ratio: {extrapolated / mine:.0f}x")


def remaining_shares(text: str, tokenizer: BpeTokenizer) -> list[float]:
    """The share of symbols that is left before each merge; minbpe scans all of them for every merge."""
    chunks = count_chunks([text], "gpt4")
    byte = {piece: i for i, piece in enumerate(ALPHABET)}
    words = [[byte[bytes([b])] for b in chunk.encode()] for chunk in chunks]
    times = list(chunks.values())
    words_with: dict[Pair, set[int]] = {}
    for index, word in enumerate(words):
        for pair in pairwise(word):
            words_with.setdefault(pair, set()).add(index)
    total = left = sum(len(word) * often for word, often in zip(words, times, strict=True))
    shares = []
    for number, pair in enumerate(tokenizer.merges):
        shares.append(left / total)
        for index in words_with.get(pair, ()):
            before = len(words[index])
            for changed, change in merge_pair(words[index], pair, BYTES + number):
                if change > 0:
                    words_with.setdefault(changed, set()).add(index)
            left -= (before - len(words[index])) * times[index]
    return shares


if __name__ == "__main__":
    main()
