"""Divide documents into train, val and test: chunks → spans of one split each. Pure functions.

    document   each document goes as a whole to the split chosen by its hash: the same in every dataset
    tail       the end of each document is held out: [ train | test | val ], counted in bytes

A larger val or test takes text from train only, never from the other one: what was held out stays held out.

A span is what one split gets of a chunk; what it gets of a document may be spread over many chunks and readers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fledge.core.formatting import counted
from fledge.text.inputs import Chunk
from fledge.text.sources import WHOLE_FILE

IN_DOCUMENT = ("train", "test", "val")  # the order of the splits of a document that is split by tail
SHARE, MAX_SHARE = 0.1, 0.2  # of the text: usually held out, at most held out where data.val is unset
MIN_BYTES, MAX_BYTES = 64 << 10, 4_000_000  # of held-out text, within MAX_SHARE
UNKNOWN_SIZE_SHARE = 0.05
MIN_VAL_TOKENS = 2000  # fewer give a validation loss that says little
FirstChunk = Callable[[], str]  # reads the first chunk of a document of which only later chunks are given


@dataclass(frozen=True)
class SplitRule:
    by: Literal["document", "tail"]
    val: float
    test: float


@dataclass(frozen=True)
class Span:
    """Text of one split. `begins`, `ends`: whether it is the first or last that this split gets of the document."""

    split: str
    text: str
    begins: bool
    ends: bool


def default_val(size: float) -> float:
    """The fraction held out of a text of `size` bytes where data.val is unset: 0 means that the size is unknown.

    A tenth, but at least 64 KiB (of a small text: a fifth) and at most 4 MB.
    """
    if not size:
        return UNKNOWN_SIZE_SHARE
    return float(f"{min(max(SHARE * size, MIN_BYTES), MAX_SHARE * size, MAX_BYTES) / size:.3g}")


def small_validation_warning(tokens: int) -> str | None:
    """What to say of a validation split of so many tokens; None where it is large enough. 0: there is none."""
    if not 0 < tokens < MIN_VAL_TOKENS:
        return None
    size = counted(tokens, "token")
    return f"the validation split has only {size}: its loss says little; more text helps, or a larger data.val"


def split_chunks(chunks: Iterable[Chunk], rule: SplitRule, first_chunk: FirstChunk) -> Iterator[Span]:
    if rule.by == "tail":
        for chunk in chunks:
            assert chunk.size, "a tail split needs the size of the document"
            yield from split_tail(chunk, tail_cuts(chunk.size, rule))
        return
    split = ""
    for chunk in chunks:
        if chunk.start == 0 or not split:
            split = choose_split(first_chunk() if chunk.start else chunk.text, rule)
        yield Span(split, chunk.text, chunk.start == 0, chunk.last)


def choose_split(text: str, rule: SplitRule) -> str:
    """The split of a document, by a hash of its first chunk: the same in every dataset."""
    position = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    return "val" if position < rule.val else "test" if position >= 1 - rule.test else "train"


def tail_cuts(size: int, rule: SplitRule) -> tuple[int, int]:
    """The byte offsets where train ends and where test ends."""
    return int(size * (1 - rule.val - rule.test)), int(size * (1 - rule.val))


def split_tail(chunk: Chunk, cuts: tuple[int, int]) -> Iterator[Span]:
    """What each split gets of this chunk. A character that a cut would divide goes to the split before it."""
    taken = 0  # characters
    for split, start, end in zip(IN_DOCUMENT, (0, *cuts), (*cuts, WHOLE_FILE), strict=True):
        if end <= chunk.start:
            continue
        is_last = end >= chunk.end  # the next split gets nothing of this chunk
        stop = len(chunk.text) if is_last else chars_in(chunk, end)
        text, taken = chunk.text[taken:stop], stop
        begins, ends = start >= chunk.start, end <= chunk.end or chunk.last
        if text or not (begins and ends):
            yield Span(split, text, begins, ends)
        if is_last:
            return


def chars_in(chunk: Chunk, end: int) -> int:
    """How many characters of the chunk lie before byte `end` of the document, a divided character included.

    Where the text has more or fewer bytes than were stored, as CRLF became LF, `end` is moved in proportion.
    """
    data = chunk.text.encode()
    count = (end - chunk.start) * len(data) // (chunk.end - chunk.start)
    while count < len(data) and data[count] & 0xC0 == 0x80:
        count += 1
    return len(data[:count].decode())
