"""Find an exact text in the training split: by the suffix array where there is one, else by reading through the shards.

    text → bytes; the shards → bytes of their tokens; a hit is a place where the bytes agree, within one document

A tokenizer may cut the same words in other ways, depending on what stands around them. So the array is asked for the
tokens in the middle of the text, and each of their places is compared with the whole text.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset, Split
from fledge.insight.suffix_array import Ints, SuffixArray

CHUNK = 1 << 18  # tokens read at a time
WORD_BEGINS = re.compile(r"(?<=\S) (?=[^\W\d_])")  # a space before a letter: every usual tokenizer begins a word here
CANDIDATES = 20_000  # places in the array that are compared
AROUND = 48  # tokens shown before and after a hit
SECONDS = 5.0  # of reading through the shards
MAX_CHARACTERS = 10_000


@dataclass(frozen=True)
class Hit:
    position: int  # the token in which it begins
    document: int
    offset: int  # that token, in its document
    before: str
    text: str
    after: str


@dataclass(frozen=True)
class SearchResult:
    hits: list[Hit]
    count: int  # of all occurrences in what was searched
    searched: float  # share of the split; less than 1: time was up
    by_index: bool


def search_text(
    dataset: Dataset, split: Split, starts: Ints, text: str, array: SuffixArray | None = None, limit: int = 50
) -> SearchResult:
    """The first `limit` places of a text, and how many there are. `starts`: of the documents."""
    if not text or len(text) > MAX_CHARACTERS:
        raise UserError(
            f"the text has {len(text):,} characters", f"search for one with 1 to {MAX_CHARACTERS:,} characters"
        )
    search = _Search(dataset, split, starts, text)
    with contextlib.suppress(UserError):  # a character that the vocabulary does not hold
        if array is not None and (found := search.by_array(array, limit)):
            return found
    return search.by_reading(limit)


class _Search:
    def __init__(self, dataset: Dataset, split: Split, starts: Ints, text: str) -> None:
        self.dataset, self.split, self.starts, self.text = dataset, split, starts, text
        self.wanted = text.encode(errors="replace")
        self._bytes: dict[int, bytes] = {}

    def by_array(self, array: SuffixArray, limit: int) -> SearchResult | None:
        """None: no word of the text is whole, or its words stand in too many places."""
        before, words, after = self._whole_words()
        if not words:
            return None
        ids = self.dataset.tokenizer.encode(words).tolist()
        found = array.find(ids, CANDIDATES)
        if found.count > CANDIDATES:
            return None
        places: set[int] = set()
        for position in found.positions.tolist():  # a token has at least a byte: no more of them belong to the text
            first = max(0, position - len(before.encode(errors="replace")))
            stop = min(len(self.split), position + len(ids) + len(after.encode(errors="replace")))
            places.update(self._places(first, stop))
        ordered = sorted(places)
        return SearchResult([self.hit(place) for place in ordered[:limit]], len(ordered), 1.0, by_index=True)

    def _whole_words(self) -> tuple[str, str, str]:
        """The text in three parts; the middle one is cut into the same tokens whatever stands around the text."""
        if self.dataset.tokenizer.kind == "char":
            return "", self.text, ""
        cuts = [cut.start() for cut in WORD_BEGINS.finditer(self.text)]
        first, last = (cuts[0], cuts[-1]) if cuts else (0, 0)
        return self.text[:first], self.text[first:last], self.text[last:]

    def by_reading(self, limit: int) -> SearchResult:
        hits: list[Hit] = []
        count, length, until, overlap = 0, len(self.split), time.monotonic() + SECONDS, len(self.wanted)
        for begin in range(0, length, CHUNK):
            if time.monotonic() > until:
                return SearchResult(hits, count, begin / length, by_index=False)
            stop = min(begin + CHUNK + overlap, length)
            places = [place for place in self._places(begin, stop) if place < begin + CHUNK]
            count += len(places)
            hits += [self.hit(place) for place in places[: limit - len(hits)]]
        return SearchResult(hits, count, 1.0, by_index=False)

    def _places(self, first: int, stop: int) -> Iterator[int]:
        """The tokens from `first` on in which the text begins, if it ends before `stop` and in the same document."""
        ids = self.split.read(first, stop - first)
        pieces = [self._bytes_of(token) for token in ids.tolist()]
        content, ends = b"".join(pieces), np.cumsum([len(piece) for piece in pieces])
        at = content.find(self.wanted)
        while at >= 0:
            begin = first + int(np.searchsorted(ends, at, side="right"))
            end = first + int(np.searchsorted(ends, at + len(self.wanted) - 1, side="right"))
            if self.document_of(begin) == self.document_of(end):
                yield begin
            at = content.find(self.wanted, at + 1)

    def _bytes_of(self, token: int) -> bytes:
        if token not in self._bytes:
            self._bytes[token] = self.dataset.tokenizer.id_to_bytes(token)
        return self._bytes[token]

    def document_of(self, position: int) -> int:
        return int(np.searchsorted(self.starts, position, side="right")) - 1

    def hit(self, position: int) -> Hit:
        document = self.document_of(position)
        begin = int(self.starts[document])
        end = int(self.starts[document + 1]) if document + 1 < len(self.starts) else len(self.split)
        first, stop = max(begin, position - AROUND), min(end, position + len(self.wanted) + AROUND)
        content = b"".join(map(self._bytes_of, self.split.read(first, stop - first).tolist()))
        skipped = sum(map(len, map(self._bytes_of, self.split.read(first, position - first).tolist())))
        at = content.find(self.wanted, skipped)
        before, after = content[:at], content[at + len(self.wanted) :][: 6 * AROUND]
        return Hit(
            position,
            document,
            position - begin,
            before.decode(errors="replace").lstrip("\ufffd"),
            self.text,
            after.decode(errors="replace").rstrip("\ufffd"),
        )
