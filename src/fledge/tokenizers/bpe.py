"""Byte-level BPE from scratch, in plain Python: made to be read, and fast enough to be used.

    train    text → chunks (patterns.py) → bytes → the most frequent pair of neighbours becomes a token, again and again
    encode   text → chunks → bytes → the merges, in the order in which they were learned
    decode   ids → bytes → text

Two things make training usable. Each different chunk is kept once, with its count; and a merge touches only the chunks
that hold its pair, and mends the counts of the pairs beside it, so nothing is ever counted twice.

fast.py does the same through libraries, a hundred times faster, and writes the same file to the byte.
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
from fledge.tokenizers.byte_level import ALPHABET, bytes_to_token, replace_surrogates, split_long_runs, token_to_bytes
from fledge.tokenizers.hf_json import unknown_id_error
from fledge.tokenizers.patterns import PATTERNS, split_regex

Pair = tuple[int, int]
REMEMBERED = 200_000  # chunks whose ids are kept: most of a text is the same few words
SHORT = 50  # characters: longer chunks hardly ever come back


class BpeTokenizer:
    kind = "bpe"

    def __init__(
        self, pieces: list[bytes], merges: Iterable[Pair], special: tuple[str, int] | None = None, pattern: str = "gpt2"
    ) -> None:
        """`pieces`: the bytes of each id. `merges`: pairs of ids, first learned first. `special`: the end-of-text
        token and its id, whose piece is empty."""
        self.pieces = pieces
        self.pattern = pattern
        self.special = special
        ids = {piece: i for i, piece in enumerate(pieces) if piece}
        # A pair learned twice has the rank of its last time, as in the library.
        self.pairs = list(reversed(dict.fromkeys(reversed(list(merges)))))
        self._rank = {pair: rank for rank, pair in enumerate(self.pairs)}
        self._merged = [ids[pieces[a] + pieces[b]] for a, b in self.pairs]
        self._byte = [ids[bytes([byte])] for byte in range(byte_level.BYTES)]
        self._remembered: dict[str, list[int]] = {}

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
        """A vocabulary of `vocab_size`: the special token, every byte, and merges. With `exact`, a text too poor for
        that many is refused; without, the vocabulary is as large as the text allows."""
        byte_level.check_vocab_size(vocab_size, bool(special))
        pieces = [b""] * bool(special) + ALPHABET
        merges = learn_merges(count_chunks(texts, pattern), pieces, vocab_size)
        if exact and len(pieces) < vocab_size:
            raise byte_level.vocab_too_large(vocab_size, len(pieces))
        return cls(pieces, merges, (special, 0) if special else None, pattern)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def end_of_text(self) -> int | None:
        return self.special[1] if self.special else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        """What spells a special token is text like any other. A lone surrogate is read as '�'."""
        ids: list[int] = []
        for chunk in split_regex(self.pattern).finditer(replace_surrogates(text)):
            ids += self._encode_chunk(chunk.group())
        return np.array(ids, dtype=np.uint32)

    def encode_batch(self, texts: Iterable[str]) -> list[NDArray[np.uint32]]:
        return [self.encode(text) for text in texts]

    def _encode_chunk(self, chunk: str) -> list[int]:
        known = self._remembered.get(chunk)
        if known is None:
            known = self.merge([self._byte[byte] for byte in chunk.encode()])
            if len(chunk) <= SHORT:
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[chunk] = known
        return known

    def merge(self, ids: list[int]) -> list[int]:
        """Of all pairs of neighbours, the one learned first is merged, the leftmost first; until no pair is known.

        The ids are a linked list, and the pairs wait in a heap: a chunk of a million letters takes n log n steps.
        A pair that has changed meanwhile is noticed when its turn comes, and passed over.
        """
        end = len(ids)
        ids, after, before = list(ids), list(range(1, end + 1)), list(range(-1, end - 1))
        waiting: list[int] = []  # rank and place in one number, so that the heap compares numbers only

        def wait(place: int) -> None:
            rank = self._rank.get((ids[place], ids[after[place]]))
            if rank is not None:
                heapq.heappush(waiting, rank << 40 | place)

        for place in range(end - 1):
            wait(place)
        while waiting:
            rank, place = divmod(heapq.heappop(waiting), 1 << 40)
            right = after[place]
            if right == end or (ids[place], ids[right]) != self.pairs[rank]:
                continue
            ids[place], ids[right] = self._merged[rank], -1  # the right one is gone, and matches no pair any more
            after[place] = after[right]
            if after[place] < end:
                before[after[place]] = place
                wait(place)
            if before[place] >= 0:
                wait(before[place])
        return [i for i in ids if i >= 0]

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.id_to_bytes, ids)).decode("utf-8", "replace")

    def id_to_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self.pieces[token]

    def to_json(self) -> dict[str, Any]:
        name = self.special[0] if self.special else None
        signs = [bytes_to_token(piece) for piece in self.pieces]
        vocabulary = {(name or "") if i == self.end_of_text else sign: i for i, sign in enumerate(signs)}
        return byte_level.bpe_json(vocabulary, ((signs[a], signs[b]) for a, b in self.pairs), name, self.pattern)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BpeTokenizer":
        """Files that fledge made, GPT-2's, and their like; fast.py reads every other kind."""
        try:
            return cls._from_json(content)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UserError(
                "this tokenizer.json is no byte-level BPE with a pattern that fledge knows",
                "load it through the library: fledge.tokenizers.base.load_tokenizer",
            ) from None

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "BpeTokenizer":
        pattern = {str(byte_level.pre_tokenizer_json(name)): name for name in PATTERNS}[str(content["pre_tokenizer"])]
        model, added = content["model"], content["added_tokens"]
        if content["normalizer"] or len(added) > 1 or any(model.get(key) for key in UNKNOWN_WAYS):
            raise ValueError
        special = (str(added[0]["content"]), int(added[0]["id"])) if added else None
        name = special[0] if special else None
        vocabulary = model["vocab"]
        pieces = [b""] * len(vocabulary)
        for sign, i in vocabulary.items():
            pieces[i] = b"" if sign == name else token_to_bytes(sign)
        pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
        merges = [(vocabulary[a], vocabulary[b]) for a, b in pairs]
        return cls(pieces, merges, special, pattern)


UNKNOWN_WAYS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")


def count_chunks(texts: Iterable[str], pattern: str) -> Counter[str]:
    """How often each chunk occurs. All that training needs to know of the text."""
    counts: Counter[str] = Counter()
    for text in split_long_runs(texts):
        counts.update(chunk.group() for chunk in split_regex(pattern).finditer(text))
    return counts


def learn_merges(chunks: Counter[str], pieces: list[bytes], vocab_size: int) -> list[Pair]:
    """The merges, first learned first. Adds the new tokens to `pieces`, until there are `vocab_size`.

    The most frequent pair wins; of equally frequent ones, the smallest pair of ids. The heap is lazy: counts change
    while pairs wait in it, so a pair whose count is out of date goes back with the right one.
    """
    ids = {piece: i for i, piece in enumerate(pieces) if piece}
    words = [[ids[bytes([byte])] for byte in chunk.encode()] for chunk in chunks]
    times = list(chunks.values())
    counts, places = count_pairs(words, times)
    # The third number is no two times the same, so that the lists of places are never compared.
    waiting = [(-counts[pair], pair, serial, held) for serial, (pair, held) in enumerate(places.items())]
    heapq.heapify(waiting)
    serial, merges = len(waiting), []
    while waiting and len(pieces) < vocab_size:
        count, pair, number, held = heapq.heappop(waiting)
        if -count != counts[pair]:
            if counts[pair] > 0:
                heapq.heappush(waiting, (-counts[pair], pair, number, held))
            continue
        piece = pieces[pair[0]] + pieces[pair[1]]
        if (new := ids.get(piece)) is None:  # the same bytes can be reached by two ways: 'a'+'aa' and 'aa'+'a'
            new = ids[piece] = len(pieces)
            pieces.append(piece)
        merges.append(pair)
        born: defaultdict[Pair, list[int]] = defaultdict(list)
        for place in held:
            for changed, change in merge_pair(words[place], pair, new):
                counts[changed] += change * times[place]
                if change > 0:
                    born[changed].append(place)
        for made, where in born.items():
            if counts[made] > 0:
                heapq.heappush(waiting, (-counts[made], made, serial, list(dict.fromkeys(where))))
                serial += 1
    return merges


def count_pairs(words: list[list[int]], times: list[int]) -> tuple[defaultdict[Pair, int], dict[Pair, list[int]]]:
    """How often each pair of neighbours occurs in the whole text, and in which words."""
    counts: defaultdict[Pair, int] = defaultdict(int)
    places: dict[Pair, list[int]] = {}
    for place, (word, often) in enumerate(zip(words, times, strict=True)):
        for pair in pairwise(word):
            counts[pair] += often
            held = places.setdefault(pair, [])
            if not held or held[-1] != place:
                held.append(place)
    return counts, places


def merge_pair(word: list[int], pair: Pair, new: int) -> Iterator[tuple[Pair, int]]:
    """Put `new` in the place of every `pair`, from left to right, and tell what that changes for the pairs beside it:
    each is one less of what was there, and one more of what is there now."""
    first, second = pair
    done: list[int] = []  # a word may be a million letters long, so nothing is taken out of its middle
    i, end = 0, len(word)
    while i < end:
        if word[i] != first or i + 1 == end or word[i + 1] != second:
            done.append(word[i])
            i += 1
            continue
        if done:
            yield (done[-1], first), -1
            yield (done[-1], new), 1
        done.append(new)
        i += 2
        if i < end:
            yield (second, word[i]), -1
            yield (new, word[i]), 1
    word[:] = done
