"""Byte-level BPE from scratch, in plain Python: written to be read, and fast enough to use.

    train    text → chunks (patterns.py) → bytes → merge the most frequent adjacent pair into a new token, repeat
    encode   text → chunks → bytes → apply the merges in the order in which they were learned
    decode   ids → bytes → text

Two things make training fast. Each distinct chunk is stored once, with its count; and a merge visits only the chunks
that contain its pair and updates the counts of the neighboring pairs, so no pair is counted twice.

hf.py trains through the `tokenizers` library on all cores, and writes the same file byte for byte.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.tokenizers import byte_level
from fledge.tokenizers.byte_level import (
    ALPHABET,
    bytes_to_token,
    replace_surrogates,
    split_long_runs,
    token_to_bytes,
)
from fledge.tokenizers.hf_json import unknown_id_error
from fledge.tokenizers.patterns import PATTERNS, split_regex

Pair = tuple[int, int]
CACHE_SIZE = 200_000  # chunks whose ids are cached: most of a text repeats the same few words
MAX_CACHED_LENGTH = 50  # characters: longer chunks hardly ever repeat
UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")


class BpeTokenizer:
    kind = "bpe"

    def __init__(
        self, tokens: list[bytes], merges: Iterable[Pair], special: tuple[str, int] | None = None, pattern: str = "gpt2"
    ) -> None:
        """`tokens`: the bytes of each id, empty for the special one. `merges`: pairs of ids, first learned first.
        `special`: the text and the id of the end-of-text token."""
        self.tokens = tokens
        self.pattern = pattern
        self.special = special
        ids = {token: i for i, token in enumerate(tokens) if token}
        # As in the `tokenizers` library, the last occurrence of a repeated merge sets its rank.
        self.merges = list(reversed(dict.fromkeys(reversed(list(merges)))))
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._merged = [ids[tokens[a] + tokens[b]] for a, b in self.merges]
        self._byte_ids = [ids[bytes([byte])] for byte in range(byte_level.BYTES)]
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special: str | None = None,
        *,
        pattern: str = "gpt2",
        exact: bool = True,
    ) -> "BpeTokenizer":
        """Learn a vocabulary of `vocab_size`: the special token, every byte, and merges. If the text yields fewer
        tokens, that is an error, or with `exact=False` a smaller vocabulary."""
        byte_level.check_vocab_size(vocab_size, bool(special))
        tokens = [b""] * bool(special) + ALPHABET
        merges = learn_merges(count_chunks(texts, pattern), tokens, vocab_size)
        if exact and len(tokens) < vocab_size:
            raise byte_level.vocab_too_large(vocab_size, len(tokens))
        return cls(tokens, merges, (special, 0) if special else None, pattern)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @property
    def end_of_text(self) -> int | None:
        return self.special[1] if self.special else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Encode plain text; special tokens in it are not recognized, a lone surrogate becomes '�'."""
        ids: list[int] = []
        for chunk in split_regex(self.pattern).finditer(replace_surrogates(text)):
            ids += self._encode_chunk(chunk.group())
        return np.array(ids, dtype=np.uint32)

    def _encode_chunk(self, chunk: str) -> list[int]:
        ids = self._cache.get(chunk)
        if ids is None:
            ids = self.apply_merges([self._byte_ids[byte] for byte in chunk.encode()])
            if len(chunk) <= MAX_CACHED_LENGTH:
                if len(self._cache) >= CACHE_SIZE:
                    self._cache.clear()
                self._cache[chunk] = ids
        return ids

    def apply_merges(self, ids: list[int]) -> list[int]:
        """Merge adjacent pairs, lowest rank first and leftmost first, until no pair has a rank.

        The ids form a linked list and the pairs wait in a heap, so a chunk of n bytes takes O(n log n). An entry whose
        pair has changed since it was pushed is skipped.
        """
        end = len(ids)
        ids, after, before = list(ids), list(range(1, end + 1)), list(range(-1, end - 1))
        heap: list[int] = []  # rank and position in one integer, which compares faster than a tuple

        def push(position: int) -> None:
            rank = self._rank.get((ids[position], ids[after[position]]))
            if rank is not None:
                heapq.heappush(heap, rank << 40 | position)

        for position in range(end - 1):
            push(position)
        while heap:
            rank, position = divmod(heapq.heappop(heap), 1 << 40)
            right = after[position]
            if right == end or (ids[position], ids[right]) != self.merges[rank]:
                continue
            ids[position], ids[right] = self._merged[rank], -1  # -1: removed, part of no pair
            after[position] = after[right]
            if after[position] < end:
                before[after[position]] = position
                push(position)
            if before[position] >= 0:
                push(before[position])
        return [i for i in ids if i >= 0]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.id_to_bytes, ids)).decode("utf-8", "replace")

    def id_to_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self.tokens[token]

    def to_json(self) -> dict[str, Any]:
        special = self.special[0] if self.special else None
        names = [bytes_to_token(token) for token in self.tokens]
        vocabulary = {(special or "") if i == self.end_of_text else name: i for i, name in enumerate(names)}
        return byte_level.bpe_json(vocabulary, ((names[a], names[b]) for a, b in self.merges), special, self.pattern)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BpeTokenizer":
        """Read a file of fledge, GPT-2 or a similar tokenizer; hf.py reads all others."""
        try:
            return cls._from_json(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"this tokenizer.json is not byte-level BPE with one of the patterns {', '.join(PATTERNS)}",
                "load it with the library: fledge.tokenizers.base.load_tokenizer",
            ) from None

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "BpeTokenizer":
        pattern = {str(byte_level.pre_tokenizer_json(name)): name for name in PATTERNS}[str(content["pre_tokenizer"])]
        model, added = content["model"], content["added_tokens"]
        if content["normalizer"] or len(added) > 1 or any(model.get(key) for key in UNSUPPORTED):
            raise ValueError
        special = (str(added[0]["content"]), int(added[0]["id"])) if added else None
        vocabulary = model["vocab"]
        tokens = [b""] * len(vocabulary)
        for name, i in vocabulary.items():
            tokens[i] = b"" if special and name == special[0] else token_to_bytes(name)
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        merges = [(vocabulary[a], vocabulary[b]) for a, b in pairs]
        return cls(tokens, merges, special, pattern)


def count_chunks(texts: Iterable[str], pattern: str) -> Counter[str]:
    """The distinct chunks of the texts and how often each occurs: all that training needs."""
    counts: Counter[str] = Counter()
    for text in split_long_runs(texts):
        counts.update(chunk.group() for chunk in split_regex(pattern).finditer(text))
    return counts


def learn_merges(chunks: Counter[str], tokens: list[bytes], vocab_size: int) -> list[Pair]:
    """Learn merges, first learned first, and append the new tokens to `tokens` until there are `vocab_size`.

    The most frequent pair is merged next; ties go to the smallest pair of ids. Counts change while pairs wait in the
    heap, so an entry with an outdated count is pushed again with the current one.
    """
    ids = {token: i for i, token in enumerate(tokens) if token}
    words = [[ids[bytes([byte])] for byte in chunk.encode()] for chunk in chunks]
    word_counts = list(chunks.values())
    pair_counts, words_of_pair = count_pairs(words, word_counts)
    # The serial number is unique, so that comparing two entries never reaches the lists of words.
    heap = [(-pair_counts[pair], pair, serial, where) for serial, (pair, where) in enumerate(words_of_pair.items())]
    heapq.heapify(heap)
    next_serial, merges = len(heap), []
    while heap and len(tokens) < vocab_size:
        count, pair, serial, where = heapq.heappop(heap)
        if -count != pair_counts[pair]:
            if pair_counts[pair] > 0:
                heapq.heappush(heap, (-pair_counts[pair], pair, serial, where))
            continue
        token = tokens[pair[0]] + tokens[pair[1]]
        if (new_id := ids.get(token)) is None:  # two merges can give the same bytes: 'a'+'aa' and 'aa'+'a'
            new_id = ids[token] = len(tokens)
            tokens.append(token)
        merges.append(pair)
        new_pairs: defaultdict[Pair, list[int]] = defaultdict(list)
        for word in where:
            for neighbor, change in merge_pair(words[word], pair, new_id):
                pair_counts[neighbor] += change * word_counts[word]
                if change > 0:
                    new_pairs[neighbor].append(word)
        for new_pair, new_where in new_pairs.items():
            if pair_counts[new_pair] > 0:
                heapq.heappush(heap, (-pair_counts[new_pair], new_pair, next_serial, list(dict.fromkeys(new_where))))
                next_serial += 1
    return merges


def count_pairs(words: list[list[int]], word_counts: list[int]) -> tuple[defaultdict[Pair, int], dict[Pair, list[int]]]:
    """How often each adjacent pair occurs in the whole text, and the indices of the words that contain it."""
    pair_counts: defaultdict[Pair, int] = defaultdict(int)
    words_of_pair: dict[Pair, list[int]] = {}
    for index, (word, count) in enumerate(zip(words, word_counts, strict=True)):
        for pair in pairwise(word):
            pair_counts[pair] += count
            where = words_of_pair.setdefault(pair, [])
            if not where or where[-1] != index:
                where.append(index)
    return pair_counts, words_of_pair


def merge_pair(word: list[int], pair: Pair, new_id: int) -> Iterator[tuple[Pair, int]]:
    """Replace every `pair` in the word by `new_id`, from left to right; yield the change in the count of each
    neighboring pair: −1 for a pair that is gone, +1 for a new one."""
    first, second = pair
    merged: list[int] = []  # a new list: deleting inside a word of a million bytes would take quadratic time
    i, end = 0, len(word)
    while i < end:
        if word[i] != first or i + 1 == end or word[i + 1] != second:
            merged.append(word[i])
            i += 1
            continue
        if merged:
            yield (merged[-1], first), -1
            yield (merged[-1], new_id), 1
        merged.append(new_id)
        i += 2
        if i < end:
            yield (second, word[i]), -1
            yield (new_id, word[i]), 1
    word[:] = merged
