"""The suffix array: seconds and peak memory of a build, bytes per token, time of a look-up; answers checked.

    python bench/suffix_array.py [--tokens 50_000_000] [--vocab 50257] [--text TEXT] [--lookups 200] [--length 200]

The tokens have the frequencies of a language (Zipf); with a TEXT, half of the documents are passages of it, with
another word here and there. The build runs in a process of its own, so that its peak memory is its own. Each look-up
asks for the longest matches of a text, half of it copied from the training data, the other half random. The answers are
checked: every match is read at its place, and for some texts a scan over all tokens must find it and no longer one.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from common import machine, versions
from fledge.datasets.shards import Dataset, ShardWriter, Split
from fledge.insight.build_suffix_array import ensure_suffix_array
from fledge.insight.suffix_array import SuffixArray, index_folder, maximal_spans

DOCUMENT = 800  # tokens of a document, on average


class BareTokenizer:
    """The two facts about a tokenizer that the index needs."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.end_of_text = vocab_size, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000_000)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--length", type=int, default=200)
    args = parser.parse_args()
    print(machine(), "|", versions("pydivsufsort", "numpy"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLEDGE_CACHE"] = folder
        path = Path(folder) / "00000.tokens"
        write_tokens(path, args.tokens, args.vocab, args.text)
        context = multiprocessing.get_context("spawn")
        answers = context.SimpleQueue()
        child = context.Process(target=build, args=(path, args.tokens, args.vocab, answers))
        child.start()
        seconds, before, peak = answers.get()
        child.join()
        dataset = open_dataset(path, args.tokens, args.vocab)
        array = ensure_suffix_array(dataset)
        size = sum(file.stat().st_size for file in index_folder(dataset).iterdir())
        token_bytes = 2 if args.vocab <= 65_536 else 4
        print(
            f"{args.tokens:,} tokens, vocabulary {args.vocab:,}: built in {seconds:.1f} s ({len(array.pieces)} pieces),"
            f" peak {peak / 1e6:.0f} MB (before: {before / 1e6:.0f} MB),"
            f" {size / args.tokens + token_bytes:.2f} bytes per token with the tokens themselves",
            flush=True,
        )
        look_up(array, args.lookups, args.length, args.vocab)


def write_tokens(path: Path, tokens: int, vocab: int, text: Path | None) -> None:
    chance, writer = np.random.default_rng(0), ShardWriter(path, vocab)
    frequencies = 1 / np.arange(1, vocab + 1)
    cumulated = np.cumsum(frequencies / frequencies.sum())
    words = np.zeros(0, dtype=np.int64)
    if text is not None:
        _, words = np.unique(np.array(text.read_text().split()), return_inverse=True)
        words %= vocab
    at = 0
    while writer.tokens < tokens:
        writer.begin_document()
        length = min(int(chance.integers(1, 2 * DOCUMENT)), tokens - writer.tokens)
        ids = np.searchsorted(cumulated, chance.random(length)).clip(max=vocab - 1)
        if len(words) > length and chance.random() < 0.5:  # real text, with another word here and there
            at = int(chance.integers(0, len(words) - length))
            ids = np.where(chance.random(length) < 0.02, ids, words[at : at + length])
        writer.add(ids.astype(np.uint32))
    writer.close("train/00000.tokens")


def open_dataset(path: Path, tokens: int, vocab: int) -> Dataset:
    kind = "<u2" if vocab <= 65_536 else "<u4"
    ids = np.memmap(path, dtype=kind, mode="r", offset=64, shape=(tokens,))
    starts = np.fromfile(path, dtype="<u8", offset=64 + ids.nbytes)
    manifest = {"tokenizer": "", "splits": {"train": {"shards": [{"sha256": "bench"}]}}}
    tokenizer = BareTokenizer(vocab)
    return Dataset(path.parent, tokenizer, {"train": Split("train", [ids], [starts])}, manifest)  # type: ignore[arg-type]


def build(path: Path, tokens: int, vocab: int, answers: "multiprocessing.queues.SimpleQueue[object]") -> None:
    dataset = open_dataset(path, tokens, vocab)
    before, begun = peak_bytes(), time.perf_counter()
    ensure_suffix_array(dataset)
    answers.put((time.perf_counter() - begun, before, peak_bytes()))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def look_up(array: SuffixArray, count: int, length: int, vocab: int) -> None:
    chance, times, matches, wrong = np.random.default_rng(1), [], 0, 0
    for number in range(count):
        at = int(chance.integers(0, len(array.split) - length // 2))
        random = chance.integers(0, vocab, length - length // 2)
        text = np.concatenate((array.split.read(at, length // 2), random)).tolist()
        begun = time.perf_counter()
        longest = array.longest_matches(text)
        spans = maximal_spans(longest, 4)
        found = [array.find(text[first:end], 10) for first, end in spans]
        times.append(time.perf_counter() - begun)
        matches += len(spans)
        for (first, end), each in zip(spans, found, strict=True):
            at_place = [array.split.read(int(place), end - first).tolist() for place in each.positions]
            wrong += any(ids != text[first:end] for ids in at_place) or not at_place
        if number < 3:
            wrong += not same_as_scan(array, text, longest)
    milliseconds = sorted(1000 * each for each in times)
    print(
        f"look-up of {length} tokens: median {statistics.median(milliseconds):.1f} ms,"
        f" 99 % below {milliseconds[int(0.99 * (count - 1))]:.1f} ms, slowest {milliseconds[-1]:.1f} ms;"
        f" {matches:,} matches read at their places, 3 texts scanned: {wrong} wrong",
        flush=True,
    )
    if wrong:
        raise SystemExit("a look-up gave a wrong answer")


def same_as_scan(array: SuffixArray, text: list[int], longest: np.ndarray) -> bool:
    """Whether no match at one position is longer: a scan over all tokens for the match and the token after it."""
    places = [0, len(text) // 2 - 3, len(text) - 5]
    return all(
        count_by_scan(array, text[at : at + int(longest[at])]) > 0
        and (at + longest[at] == len(text) or count_by_scan(array, text[at : at + int(longest[at]) + 1]) == 0)
        for at in places
        if longest[at]
    )


def count_by_scan(array: SuffixArray, ids: list[int]) -> int:
    """Occurrences within a document, found by comparing at every position."""
    total, step = 0, 1 << 22
    for begin in range(0, len(array.split) - len(ids) + 1, step):
        window = array.split.read(begin, min(step + len(ids) - 1, len(array.split) - begin))
        places = np.arange(len(window) - len(ids) + 1)
        for offset, token in enumerate(ids):
            places = places[window[places + offset] == token]
        total += int((array.document_ends(places + begin) >= places + begin + len(ids)).sum())
    return total


if __name__ == "__main__":
    main()
