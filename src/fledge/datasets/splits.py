"""Which text is trained on, which judged by: documents, in chunks, → stretches of the splits. Pure.

    document   a document goes whole to the side that its own hash says: the same in every dataset
    tail       the end of each document is held out: [ train | val | test ], counted in bytes

A stretch is what one split gets of a document; it may be spread over many chunks, and over several readers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fledge.datasets.shards import SPLITS
from fledge.text.formats import Chunk
from fledge.text.sources import WHOLE_FILE

Opening = Callable[[], str]  # the first chunk of a document of which only later ones are here


@dataclass(frozen=True)
class SplitRule:
    by: Literal["document", "tail"]
    val: float
    test: float


@dataclass(frozen=True)
class Span:
    """Some text of a split; whether it begins and whether it ends what the split gets of this document."""

    split: str
    text: str
    begins: bool
    ends: bool


def split_chunks(chunks: Iterable[Chunk], division: SplitRule, opening: Opening) -> Iterator[Span]:
    if division.by == "tail":
        for chunk in chunks:
            assert chunk.size, "a document whose size is not known cannot be cut"
            yield from tails(chunk, cuts(chunk.size, division))
        return
    chosen = ""
    for chunk in chunks:
        if chunk.start == 0 or not chosen:
            chosen = side(opening() if chunk.start else chunk.text, division)
        yield Span(chosen, chunk.text, chunk.start == 0, chunk.last)


def side(text: str, division: SplitRule) -> str:
    """By a hash of the text itself: the same document lands on the same side in every dataset."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    test, val = division.test, division.val
    return "test" if place < test else "val" if place < test + val else "train"


def cuts(size: int, division: SplitRule) -> tuple[int, int]:
    """Where training ends, and where validation does."""
    return int(size * (1 - division.val - division.test)), int(size * (1 - division.test))


def tails(chunk: Chunk, at: tuple[int, int]) -> Iterator[Span]:
    """What each split gets of this chunk. A character that a cut would split goes to the side before it."""
    taken = 0  # characters
    for split, start, end in zip(SPLITS, (0, *at), (*at, WHOLE_FILE), strict=True):
        if end <= chunk.start:
            continue
        over = end >= chunk.end  # the next split has nothing of this chunk
        upto = len(chunk.text) if over else characters(chunk.text, end - chunk.start)
        text, taken = chunk.text[taken:upto], upto
        begins, ends = start >= chunk.start, end <= chunk.end or chunk.last
        if text or not (begins and ends):
            yield Span(split, text, begins, ends)
        if over:
            return


def characters(text: str, count: int) -> int:
    """How many characters it takes to fill so many bytes."""
    data = text.encode()
    while count < len(data) and data[count] & 0xC0 == 0x80:
        count += 1
    return len(data[:count].decode())
