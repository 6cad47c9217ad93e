"""Which documents are kept: a first walk over the text, made only where somebody asks for it.

    slices of the text ─ look ─→ size, length, digest of each document ─ verdicts ─→ what is kept of each slice

A document is judged whole, however long it is; nothing of it is held but its digest and its counts. In the
second walk (part.py), the n-th document of a slice finds its verdict at place n.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.text.formats import Chunk, ReadOptions, Slice, read_slice

KEPT, SHORT, LONG, FOREIGN, TWICE = range(5)
REASONS = {SHORT: "too short", LONG: "too long", FOREIGN: "not in the charset", TWICE: "there already"}

# What is remembered of a document: its bytes as stored, its verdict so far, 128 bits of its SHA-256.
SEEN = np.dtype([("size", "<u8"), ("verdict", "u1"), ("high", "<u8"), ("low", "<u8")])
ROW = struct.Struct("<QB16s")  # the same, from Python
Seen = NDArray[Any]  # of SEEN, a row a document


@dataclass(frozen=True)
class FilterRules:
    """Whatever can be against a document."""

    min_length: int | None = None
    max_length: int | None = None
    charset: str | None = None
    charset_share: float = 1.0
    dedup: bool = False

    @classmethod
    def of(cls, data: DataConfig) -> "FilterRules":
        return cls(data.min_length, data.max_length, data.charset, data.charset_share, data.dedup)

    @property
    def any(self) -> bool:
        return self != FilterRules(charset_share=self.charset_share)

    def verdict(self, length: int, inside: int) -> int:
        if self.min_length is not None and length < self.min_length:
            return SHORT
        if self.max_length is not None and length > self.max_length:
            return LONG
        return FOREIGN if self.charset and inside / length < self.charset_share else KEPT

    def inside(self, text: str) -> int:
        """How many characters the charset has. ASCII is in all of them (config.py)."""
        if self.charset is None or text.isascii():
            return len(text)
        return len(text.encode(self.charset, "ignore").decode(self.charset))


def scan_part(part: Slice, options: ReadOptions, rules: FilterRules) -> Seen:
    """Every document of a slice, judged by itself."""
    rows = bytearray()
    length, inside, digest = 0, 0, hashlib.sha256()
    for chunk in read_slice(part, options):
        length += len(chunk.text)
        inside += rules.inside(chunk.text)
        digest.update(chunk.text.encode())
        if chunk.last:
            rows += ROW.pack(chunk.end, rules.verdict(length, inside), digest.digest()[:16])
            length, inside, digest = 0, 0, hashlib.sha256()
    return np.frombuffer(rows, dtype=SEEN)


def mark_duplicates(seen: Sequence[Seen]) -> None:
    """Of documents that are equal, the first stays: the verdicts of the others change."""
    high, low, verdict = (np.concatenate([rows[name] for rows in seen]) for name in ("high", "low", "verdict"))
    (kept,) = np.nonzero(verdict == KEPT)
    order = kept[np.lexsort((low[kept], high[kept]))]  # stable: of equal ones the first comes first
    again = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    verdict[order[1:][again]] = TWICE
    at = 0
    for rows in seen:
        rows["verdict"] = verdict[at : at + len(rows)]
        at += len(rows)


def drop_counts(seen: Iterable[Seen]) -> dict[str, int]:
    """How many were dropped, and why."""
    total = np.zeros(len(REASONS) + 1, dtype=int)
    for rows in seen:
        total += np.bincount(rows["verdict"], minlength=len(total))
    return {reason: int(total[verdict]) for verdict, reason in REASONS.items() if total[verdict]}


def kept_fraction(seen: Iterable[Seen]) -> float:
    """Of the text, in bytes."""
    sizes = [(rows["size"].sum(), rows["size"][rows["verdict"] == KEPT].sum()) for rows in seen]
    return float(sum(kept for _, kept in sizes)) / max(1, sum(size for size, _ in sizes)) if sizes else 1.0


def kept_chunks(chunks: Iterable[Chunk], seen: Seen) -> Iterator[Chunk]:
    """What the verdicts leave, each chunk with the size of its document."""
    number = 0
    for chunk in chunks:
        if number == len(seen):
            raise UserError(f"'{chunk.document}' is new: the text changed while it was read", "run it again")
        if seen["verdict"][number] == KEPT:
            yield replace(chunk, size=int(seen["size"][number]))
        number += chunk.last
